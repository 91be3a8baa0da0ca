//go:build linux

package integration

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// rudpPort finds the server's R-UDP port as its administrator would: of the UDP ports of
// the server those that are no TCP port of it, and of these the one that answers.
func (w *world) rudpPort() string {
	w.t.Helper()
	var port string
	eventually(w.t, 20*time.Second, "a UDP port answers to R-UDP", func() error {
		for line := range strings.Lines(w.srv.ns.output("ss", "-ulnH")) {
			f := strings.Fields(line)
			_, p, err := net.SplitHostPort(f[3])
			if err == nil && !strings.Contains(" 443 992 1194 5555 53 ", " "+p+" ") && w.answersRUDP(p) {
				port = p
				return nil
			}
		}
		return errors.New("none does")
	})
	return port
}

func (w *world) answersRUDP(port string) bool {
	c := w.srv.ns.ListenPacket("127.0.0.1:0")
	defer c.Close()
	to, err := net.ResolveUDPAddr("udp", "127.0.0.1:"+port)
	if err != nil {
		w.t.Fatal(err)
	}
	opening := make([]byte, 39)
	rand.Read(opening)
	for range 2 { // the first makes the session, the second is answered
		c.WriteTo(opening, to)
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	n, _, err := c.ReadFrom(make([]byte, 2048))
	return err == nil && n > len(opening)
}

// Proves that a client whose network lets no TCP out gets in by R-UDP, in each way that
// the real server takes it, and what it carries is whole.
func TestRUDPWhereTCPIsBlocked(t *testing.T) {
	t.Parallel()
	w, cable := newCabledWorld(t)
	w.srv.Admin("VpnOverIcmpDnsEnable /ICMP:yes /DNS:yes", "Flush")
	port := w.rudpPort()
	t.Logf("the server's R-UDP port is %s", port)
	cable.tcp.Cut(true)
	for _, row := range []struct {
		name     string
		flags    flags
		underlay string // as the server calls it
	}{
		{"direct", flags{"transport": "rudp", "rudp-port": port}, "VPN over UDP"},
		{"after TCP has failed", flags{"transport": "auto", "rudp-port": port}, "VPN over UDP"},
		{"as name look-ups", flags{"transport": "dns"}, "VPN over DNS"},
		{"as name look-ups, after TCP has failed", flags{"transport": "auto", "connections": "2"}, "VPN over DNS"},
		{"in ICMP messages", flags{"transport": "icmp"}, "VPN over ICMP"},
		{"compressed, so all in the stream", flags{"transport": "rudp", "rudp-port": port, "compress": "true"}, "VPN over UDP"},
		{"in the clear", flags{"transport": "rudp", "rudp-port": port, "insecure-no-encryption": "true"}, "VPN over UDP"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			before := cable.tcp.held.Load()
			f := usualFlags.with(flags{"log-level": "debug"}).with(row.flags)
			c := &client{w: w}
			if row.flags["transport"] == "icmp" { // which takes root
				path, err := buildClient()
				if err != nil {
					t.Fatal(err)
				}
				c.process = start(t, "softether-go", w.cli.Command(append([]string{path}, f.args()...)...))
			} else {
				c = w.StartClient(f)
			}
			c.WaitUp()
			w.checkTransfers(4 << 20)
			if got := w.sessionGet(); !strings.Contains(got["Physical Underlay Protocol"], row.underlay) {
				t.Errorf("the server says of the session %v, want %s", got, row.underlay)
			}
			if tcp := strings.Contains(row.flags["transport"], "auto"); tcp != (cable.tcp.held.Load() > before) {
				t.Errorf("%d packets of TCP were held back, and %d before; TCP was to be tried: %v", cable.tcp.held.Load(), before, tcp)
			}
			session := w.Session()
			c.Signal(os.Interrupt)
			<-c.done
			beside := strings.Contains(c.Log(), "rudp.frames_in=") && strings.Contains(c.Log(), "rudp.frames_out=")
			if want := row.flags["compress"] == ""; beside != want || !strings.Contains(c.Log(), "rudp.sent=") {
				t.Errorf("frames went beside the stream: %v, want %v; the counters say so", beside, want)
			}
			w.srv.Disconnect(session) // it would outlive its client for a while
		})
	}
}

// Proves that in TAP mode the way of R-UDP stays beside a tunnel that takes everything.
func TestTAPByRUDP(t *testing.T) {
	t.Parallel()
	w, cable := newCabledWorld(t)
	port := w.rudpPort()
	cable.tcp.Cut(true)
	c := w.StartTAP(tapFlags.with(flags{"transport": "rudp", "rudp-port": port, "accept-default-gateway": "true"}))
	c.WaitLog("tunnel up.*", upTime)
	ping(t, w.cli, "-c", "3", "-W", "5", "-s", "1472", "-M", "do") // at full length
	if way := w.cli.output("ip", "route", "get", "192.0.2.1"); !strings.Contains(way, "dev "+tapName) {
		t.Errorf("everything else is reached by %s", way)
	}
	if way := w.cli.output("ip", "route", "get", serverAddress); !strings.Contains(way, "dev eth0") {
		t.Errorf("the server is reached by %s", way)
	}
	c.Terminate()
	if left := w.cli.output("ip", "route", "show", "table", "all", "dev", "eth0", "proto", "static"); strings.TrimSpace(left) != "" {
		t.Errorf("left behind: %s", left)
	}
}

// Proves that a session by R-UDP outlives loss, a NAT that forgets, and the end of its
// connection, and stays the same.
func TestRUDPOverABadNetwork(t *testing.T) {
	t.Parallel()
	w, cable := newCabledWorld(t)
	cable.udp.Lose(0.03)
	cable.udp.Delay(5 * time.Millisecond)
	c := w.StartClient(usualFlags.with(flags{"transport": "rudp", "rudp-port": w.rudpPort(), "log-level": "debug"}))
	c.WaitUp()
	before := w.Session()
	inner := w.dialEcho()
	inner.Check(10 * time.Second)
	d := w.startGated("lossy", 4<<20)
	w.lan.site.Open(d.name)
	d.Check(60 * time.Second)
	if cable.udp.lost.Load() == 0 {
		t.Error("nothing was lost")
	}

	cable.Rebind()
	inner.Check(20 * time.Second)
	if strings.Contains(c.Log(), "connection lost") {
		t.Error("a new mapping of the NAT has cost the connection")
	}

	cable.udp.Cut(true)
	c.WaitLog("connection lost", 20*time.Second)
	cable.udp.Cut(false)
	c.WaitLog("session joined again", 20*time.Second)
	inner.Check(30 * time.Second)
	if got := w.Session(); got != before {
		t.Errorf("session %s, want %s still", got, before)
	}
	if cable.udp.held.Load() == 0 || !strings.Contains(c.Log(), "the server has been silent for 12 s") {
		t.Errorf("%d datagrams were held back, and the log says:\n%s", cable.udp.held.Load(), c.Log())
	}
}

// Proves that nobody at the port is told in time and in words.
func TestRUDPToTheWrongPort(t *testing.T) {
	t.Parallel()
	w := newBareWorld(t)
	for _, row := range []struct{ port, want string }{
		{"9", "connection refused"},
		{"1194", "nobody answers there"}, // OpenVPN's
	} {
		c := w.StartClient(usualFlags.with(flags{"transport": "rudp", "rudp-port": row.port}))
		c.WaitLog("R-UDP 198.18.0.1:"+row.port+": .*"+row.want, 30*time.Second)
		c.Signal(os.Interrupt)
		<-c.done
	}
}

// checkTransfers carries so much each way and compares its sums.
func (w *world) checkTransfers(size int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	conn, err := w.socksDial(ctx, net.JoinHostPort(lanGateway, "80"))
	if err != nil {
		w.t.Fatal(err)
	}
	begun := time.Now()
	if err := fetchStream(ctx, conn, "down", size); err != nil {
		w.t.Errorf("down: %v", err)
	}
	down := time.Since(begun)
	begun = time.Now()
	up := w.cli.Command("curl", "--silent", "--show-error", "--fail", "--max-time", "60", "--proxy", w.proxy,
		"--upload-file", "-", "http://"+siteName+"/sink")
	up.Stdin = streamOf("up", size)
	out, err := up.Output()
	if _, got, _ := strings.Cut(string(out), " "); err != nil || got != sumOf("up", size) {
		w.t.Errorf("up: the site received %q, %v", out, err)
	}
	w.t.Logf("%.0f Mbit/s down, %.0f up", 1000*gigabits(size, down), 1000*gigabits(size, time.Since(begun)))
}
