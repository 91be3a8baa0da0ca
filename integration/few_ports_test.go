//go:build linux

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	fewPorts = 20
	// givesUpAfter is the patience of buildHasty's clients with a silent peer, usually 5.5
	// minutes.
	givesUpAfter = 10 * time.Second
	openProxy    = clientAddress + ":1082" // for programs on other machines
)

// hastyLines are what buildHasty puts in place of lines of the network stack.
var hastyLines = []struct{ file, is, becomes string }{
	{"netstack/conn.go", "patience{60 * time.Second, 30 * time.Second, 9}", "patience{2 * time.Second, 2 * time.Second, 4}"},
	{"netstack/stack.go", "func (s *Stack) setUp() error {\n",
		fmt.Sprintf("func (s *Stack) setUp() error {\n\t_ = s.ns.SetPortRange(40000, %d)\n", 40000+fewPorts-1)},
}

// buildHasty builds the client with a few ports for each target and little patience, so
// that a test meets the ends of both. All else is as it is shipped.
var buildHasty = sync.OnceValues(func() (string, error) {
	overlay := map[string]map[string]string{"Replace": {}}
	for i, line := range hastyLines {
		original, err := filepath.Abs(filepath.Join("..", line.file))
		if err != nil {
			return "", err
		}
		b, err := os.ReadFile(original)
		if err != nil {
			return "", err
		}
		text := strings.Replace(string(b), line.is, line.becomes, 1)
		if text == string(b) {
			return "", fmt.Errorf("%s has lost %q", line.file, line.is)
		}
		copied := filepath.Join(run.dir, fmt.Sprintf("hasty%d.go", i))
		if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
			return "", err
		}
		overlay["Replace"][original] = copied
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list, path := filepath.Join(run.dir, "hasty.json"), filepath.Join(run.dir, "softether-go-hasty")
	if err := os.WriteFile(list, b, 0o644); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-overlay", list, "-o", path, "../cmd/softether-go")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the hasty client: %w\n%s", err, out)
	}
	return path, nil
})

// Proves, by a client with few ports and little patience, that a target for which no port is
// left is refused with a reason, and that peers and programs that vanish are given up; that
// counters tell, and that nobody else is held up.
func TestPortsRunOutAndPeersVanish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.lan.ns.IP("address", "add", otherHost+"/24", "dev", "br0")
	path, err := buildHasty()
	if err != nil {
		t.Fatal(err)
	}
	f := usualFlags.with(flags{"listen": openProxy, "proxy-open": "true", "L": "7000:" + lanGateway + ":" + echoPort})
	c := &client{process: start(t, "softether-go", w.sandboxed(path, f.args()...)), w: w}
	c.WaitUp()
	t.Run("ports run out", func(t *testing.T) { w.in(t).portsRunOut(c) })
	t.Run("a peer vanishes", func(t *testing.T) { w.in(t).peerVanishes(c) })
	t.Run("a program vanishes", func(t *testing.T) { w.in(t).programVanishes(c) })
}

// dialEchoAt is dialEcho for a host that may not be reached.
func (w *world) dialEchoAt(host string) (*innerConn, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	conn, err := w.socksDial(ctx, net.JoinHostPort(host, echoPort))
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { conn.Close() })
	return &innerConn{t: w.t, Conn: conn}, nil
}

// mustDialEchoAt is dialEchoAt for a host that has to be reached.
func (w *world) mustDialEchoAt(host string) *innerConn {
	w.t.Helper()
	c, err := w.dialEchoAt(host)
	if err != nil {
		w.t.Fatalf("connect to %s: %v", host, err)
	}
	return c
}

func (w *world) portsRunOut(c *client) {
	w.t.Helper()
	var held []*innerConn
	for range fewPorts {
		held = append(held, w.mustDialEchoAt(lanGateway))
	}
	if _, err := w.dialEchoAt(lanGateway); !errors.Is(err, socksGeneralFailure) {
		w.t.Errorf("one more than there are ports, by SOCKS5: %v, want %v", err, socksGeneralFailure)
	}
	if conn, status := w.connectAs(w.t, "anybody", lanGateway+":"+echoPort); status != http.StatusServiceUnavailable {
		w.t.Errorf("one more by CONNECT: status %d, want %d", status, http.StatusServiceUnavailable)
	} else {
		conn.Close()
	}
	forwarded, err := w.cli.Dial(w.t.Context(), "127.0.0.1:7000")
	if err == nil {
		defer forwarded.Close()
		forwarded.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = forwarded.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		w.t.Errorf("one more by a forward: %v, want %v", err, syscall.ECONNRESET)
	}
	for _, row := range []struct {
		section, name string
		want          int
	}{{"netstack", "tcp_no_port", 3}, {"socks5", "refused_no_port", 1}, {"http", "refused_no_port", 1}} {
		if got := c.count(row.section, row.name); got != row.want {
			w.t.Errorf("%s %s: got %d, want %d", row.section, row.name, got, row.want)
		}
	}
	w.mustDialEchoAt(otherHost).Check(10 * time.Second) // which has ports of its own
	for _, conn := range held {
		conn.Check(10 * time.Second)
	}
	for _, conn := range held { // a reset has no port wait out its time
		conn.Conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
	eventually(w.t, 10*time.Second, "a port that was given back is used again", func() error {
		_, err := w.dialEchoAt(lanGateway)
		return err
	})
}

func (w *world) peerVanishes(c *client) {
	w.t.Helper()
	stays := w.mustDialEchoAt(lanGateway)
	var gone []*innerConn
	for range 5 {
		gone = append(gone, w.mustDialEchoAt(otherHost))
	}
	before := c.count("netstack", "tcp_timed_out")
	w.lan.ns.NFT("table ip gone { chain in { type filter hook input priority 0; ip daddr " + otherHost + " drop; }; }")
	begun := time.Now()
	w.mustDialEchoAt(lanGateway).Check(10 * time.Second)
	for i, conn := range gone {
		conn.SetReadDeadline(begun.Add(6 * givesUpAfter))
		if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			w.t.Errorf("connection %d to who has vanished: %v, want its end", i, err)
		}
	}
	if took := time.Since(begun); took < givesUpAfter/2 {
		w.t.Errorf("given up after %v already, want patience for %v", took, givesUpAfter)
	}
	if got := c.count("netstack", "tcp_timed_out") - before; got != len(gone) {
		w.t.Errorf("timed out: got %d, want %d", got, len(gone))
	}
	stays.Check(10 * time.Second) // as silent, but its peer has answered
}

// programVanishes has programs on another machine, where the VPN server is, that vanish: one
// in the middle of a download, and a silent one. The kernel's own keep-alives ask after that,
// which take minutes: those are only seen to be under way.
func (w *world) programVanishes(c *client) {
	w.t.Helper()
	w.cli.Set("net/ipv4/tcp_retries2", "4") // some 6 s
	open := func(target, text string) net.Conn {
		conn, err := w.srv.ns.Dial(w.t.Context(), openProxy)
		if err == nil {
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			_, err = socksConnect(conn, target)
		}
		if err == nil {
			_, err = io.WriteString(conn, text)
		}
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // its answer has begun
		}
		if err != nil {
			w.t.Fatal(err)
		}
		return conn
	}
	stays := w.mustDialEchoAt(lanGateway)
	silent := open(lanGateway+":"+echoPort, "x")
	loads := open(lanGateway+":80", "GET /zeros/1000000000 HTTP/1.0\r\n\r\n")
	defer silent.Close()
	defer loads.Close()
	inside := c.count("netstack", "tcp_established")
	// Not before the last byte is acknowledged, which a kernel delays: it would be sent again.
	asked := func() error {
		if got := w.cli.output("ss", "-Htno", "dst", silent.LocalAddr().String()); !strings.Contains(got, "timer:(keepalive,") {
			return fmt.Errorf("the kernel does not ask after who is silent: %s", got)
		}
		return nil
	}
	eventually(w.t, 10*time.Second, "nothing is under way to who is silent", asked)
	_, port, _ := net.SplitHostPort(openProxy)
	w.srv.ns.NFT("table ip gone { chain out { type filter hook output priority 0; tcp dport " + port + " drop; }; }")
	eventually(w.t, 6*givesUpAfter, "the download is given up", func() error {
		if n, within := c.count("mixed", "open"), c.count("netstack", "tcp_established"); n != 1 || within != inside-1 {
			return fmt.Errorf("%d programs, %d connections in the tunnel, want 1 and %d", n, within, inside-1)
		}
		return nil
	})
	if err := asked(); err != nil {
		w.t.Error(err)
	}
	stays.Check(10 * time.Second)
}
