//go:build linux

package integration

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var soak = flag.Duration("soak", 0, "how long TestManyConnectionsForLong goes on, with 10,000 connections; 0 is its short form")

// Proves that a client with many connections open, some of whose programs do not read,
// serves all others, round after round, does not grow meanwhile, has kept every one of
// them, leaves nothing behind when they end, and lets those that are open finish when it
// is told to stop. With -soak 3h it does so for hours.
func TestManyConnectionsForLong(t *testing.T) {
	t.Parallel()
	needRoot(t)
	rounds, many, slow := 2, 1000, 20
	if *soak > 0 {
		many, slow = 10_000, 200
	}
	files := allowManyFiles(t)
	many = min(many, files-1000)
	p := newPlace(t, realServer)
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
	e.serveFor(held, rounds, *soak)
	for i, conn := range held { // most of which had nothing to do all the time
		if err := echoOnce(conn, 10*time.Second); err != nil {
			t.Errorf("connection %d, in the end: %v", i, err)
		}
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
		if used := resident(t, e.pids, "VmRSS"); used > idle+max(32e6, 5e3*float64(many)) { // maps and pools that have grown stay
			return fmt.Errorf("%.0f MB resident, %.0f before; of the process:\n%s", used/1e6, idle/1e6, c.counters("process"))
		}
		return nil
	})
	e.stops(c)
}

// serveFor serves round after round, for so many rounds and for so long at least. Between
// two of a long run it is quiet, as it is in life: what waits for quiet has its turn too.
func (e *entrant) serveFor(held []net.Conn, rounds int, d time.Duration) {
	e.t.Helper()
	const (
		quiet  = 12 * time.Second
		some   = 10   // rounds, the least of whose sizes is looked at, as a collection may be due in any
		growth = 16e6 // bytes
	)
	least, settled := math.Inf(1), 0.0
	for begun, n := time.Now(), 1; n <= rounds || time.Since(begun) < d; n++ {
		served := e.serves(held)
		if d == 0 {
			continue
		}
		time.Sleep(quiet)
		least = min(least, resident(e.t, e.pids, "VmRSS"))
		if n%some > 0 {
			continue
		}
		e.t.Logf("%7v  round %4d  %.1f MB resident  %v", time.Since(begun).Round(time.Second), n, least/1e6, served)
		switch {
		case n == 2*some: // all pools have their size
			settled = least
		case n > 2*some && least > settled+growth:
			e.t.Errorf("it has grown: %.1f MB, after %d rounds %.1f", least/1e6, 2*some, settled/1e6)
			return
		}
		least = math.Inf(1)
	}
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
		if err := echoOnce(conn, 5*time.Second); err != nil {
			e.t.Errorf("connection %d while the client stops: %v", i, err)
		}
		conn.Close()
	}
	if code := c.ExitCode(10 * time.Second); code != 0 {
		e.t.Errorf("exit code %d", code)
	}
}

// serves checks that all sorts of clients get what they want.
func (e *entrant) serves(held []net.Conn) served {
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
	carried := l.Bytes()
	if carried < 1<<20 {
		e.t.Errorf("a transfer both ways carried %d bytes only", carried)
	}
	for i := 0; i < len(held); i += max(1, len(held)/100) {
		if err := echoOnce(held[i], 10*time.Second); err != nil {
			e.t.Errorf("connection %d, open for long: %v", i, err)
		}
	}
	return served{m, carried}
}

// served is what clients got beside the many that are open.
type served struct {
	dialers many
	carried int64 // bytes, both ways
}

func (s served) String() string {
	return fmt.Sprintf("%d opened and closed, 99 of 100 within %v; %d MB carried", s.dialers.Opened, s.dialers.P99.Round(time.Millisecond), s.carried/1e6)
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

// enterClient is enter for one client by SOCKS5 that is to be asked for its counters.
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
