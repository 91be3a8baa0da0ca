//go:build linux

package integration

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var soak = flag.Duration("soak", 0, "how long TestManyConnectionsForLong goes on, with 10,000 connections; 0 is its short form")

// Proves that a client with many connections open, some of whose programs do not read,
// serves all others, round after round, leaves nothing behind when they end, and lets
// those that are open finish when it is told to stop. With -soak 3h it does so for hours.
func TestManyConnectionsForLong(t *testing.T) {
	t.Parallel()
	needRoot(t)
	rounds, many, slow := 2, 1000, 20
	if *soak > 0 {
		many, slow = 10_000, 200
	}
	files := allowManyFiles(t)
	many = min(many, files-1000)
	p := newPlace(t, ourHub)
	e, c := p.enterClient()
	idle := resident(t, e.pids, "VmRSS")

	held, failed := e.openMany(many)
	if failed > 0 {
		t.Errorf("%d of %d connections failed to open", failed, many)
	}
	if used := (resident(t, e.pids, "VmRSS") - idle) / float64(len(held)); used > 40e3 {
		t.Errorf("%.0f bytes for each connection that is open, want 30,000", used)
	}
	var unread []net.Conn
	for range slow {
		c, err := e.dial(net.JoinHostPort(lanGateway, zerosPort))
		if err != nil {
			t.Fatal(err)
		}
		unread = append(unread, c)
	}
	for until := time.Now().Add(*soak); rounds > 0 || time.Now().Before(until); rounds-- {
		e.serves(held)
	}
	eventually(t, 10*time.Second, "the client counts what is open", func() error {
		if n := c.count("socks5", "open"); n != len(held)+len(unread) {
			return fmt.Errorf("got %d, want %d", n, len(held)+len(unread))
		}
		return nil
	})
	for _, conn := range slices.Concat(held, unread) {
		conn.Close()
	}
	eventually(t, 40*time.Second, "nothing is left of the connections", func() error {
		if open, inside := c.count("socks5", "open"), c.count("netstack", "tcp_established"); open+inside > 0 {
			return fmt.Errorf("%d clients, %d connections in the tunnel", open, inside)
		}
		if n := c.count("process", "goroutines"); n > 100 {
			return fmt.Errorf("%d goroutines", n)
		}
		if used := resident(t, e.pids, "VmRSS"); used > idle+max(32e6, 10e3*float64(many)) { // maps and pools that have grown stay
			return fmt.Errorf("%.0f MB resident, %.0f before; of the process:\n%s", used/1e6, idle/1e6, c.counters("process"))
		}
		return nil
	})
	e.stops(c)
}

// stops checks that a client that is told to stop lets what is open end.
func (e *entrant) stops(c *client) {
	e.t.Helper()
	last, failed := e.openMany(50)
	if failed > 0 {
		e.t.Errorf("%d of the last connections failed to open", failed)
	}
	c.Signal(syscall.SIGTERM)
	for i, conn := range last {
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if err := echoOnce(conn); err != nil {
			e.t.Errorf("connection %d while the client stops: %v", i, err)
		}
		conn.Close()
	}
	if code := c.ExitCode(10 * time.Second); code != 0 {
		e.t.Errorf("exit code %d", code)
	}
}

// serves checks that all sorts of clients get what they want.
func (e *entrant) serves(held []net.Conn) {
	e.t.Helper()
	p, err := childCommand(e.ns, childMany, e.proxy, "1s")
	if err != nil {
		e.t.Fatal(err)
	}
	l := e.startLoad(both, 1)
	defer func() { // not Stop, which waits for others' connections too
		for _, c := range l.conns {
			c.SetLinger(0)
			c.Close()
		}
		l.flows.Wait()
	}()
	if code := p.ExitCode(30 * time.Second); code != 0 {
		e.t.Fatalf("the dialers ended with code %d:\n%s", code, p.Log())
	}
	var m many
	if err := json.NewDecoder(strings.NewReader(p.Log())).Decode(&m); err != nil {
		e.t.Fatal(err)
	}
	if m.Failed > 0 || m.Opened < 50 || m.P99 > 5*time.Second {
		e.t.Errorf("beside %d that are open: %d opened, %d failed, 99 of 100 within %v", len(held), m.Opened, m.Failed, m.P99)
	}
	if n := l.Bytes(); n < 1<<20 {
		e.t.Errorf("a transfer both ways carried %d bytes only", n)
	}
	for i := 0; i < len(held); i += max(1, len(held)/100) {
		held[i].SetDeadline(time.Now().Add(10 * time.Second))
		if err := echoOnce(held[i]); err != nil {
			e.t.Errorf("connection %d, open for long: %v", i, err)
		}
	}
}

// count returns one of the client's counters.
func (c *client) count(section, name string) int {
	c.t.Helper()
	m := regexp.MustCompile(`(?m)^ ` + name + ` (\d+)$`).FindStringSubmatch(c.counters(section))
	if m == nil {
		c.t.Fatalf("there is no counter %s of %s:\n%s", name, section, c.counters(section))
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// enterClient is enter for one client by SOCKS5 that is to be asked for its counters. It
// runs as root, so that its limits can be changed.
func (p *place) enterClient() (*entrant, *client) {
	p.t.Helper()
	path, err := buildClient()
	if err != nil {
		p.t.Fatal(err)
	}
	e := &entrant{t: p.t, name: oursSOCKS, place: p, proxy: socksProxy}
	r := p.room()
	command := r.rootCommand(append([]string{path}, usualFlags.with(flags{"host": r.host}).args()...)...)
	c := &client{start(p.t, "softether-go", command), r.world}
	e.settle(r, c.PID())
	e.WaitUp()
	e.manyPorts()
	return e, c
}

// Proves that a client that is out of files serves those that are in, says so, and lets
// others in when there are files again.
func TestOutOfFilesHoldsUpNobodyThatIsIn(t *testing.T) {
	t.Parallel()
	needRoot(t)
	p := newPlace(t, ourHub)
	e, client := p.enterClient()
	in, failed := e.openMany(20)
	if failed > 0 {
		t.Fatalf("%d connections failed to open", failed)
	}
	pid := e.pids[0]
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	var usual unix.Rlimit
	limit := func(files uint64) {
		t.Helper()
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: usual.Max}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &usual); err != nil {
		t.Fatal(err)
	}
	limit(uint64(len(open) + 5))
	begun := len(client.Log())
	var waiting []net.Conn
	for range 20 { // the kernel connects all of them, the client takes the first few
		c, err := e.ns.Dial(t.Context(), e.proxy)
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
	}
	client.WaitLogAfter(begun, "accepting proxy clients paused.*too many open files", 10*time.Second)
	for i, c := range in {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if err := echoOnce(c); err != nil {
			t.Errorf("connection %d, which was there before: %v", i, err)
		}
	}
	for _, c := range waiting {
		c.Close()
	}
	limit(usual.Cur)
	c, err := e.dial(echoTarget)
	if err == nil {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		err = echoOnce(c)
	}
	if err != nil {
		t.Errorf("with files again: %v", err)
	}
}
