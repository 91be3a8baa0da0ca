//go:build linux

package integration

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	middleboxPort = "10443"
	middleboxRead = 64 << 10
)

// A middlebox relays TCP between client and server and can go wrong. It stands
// in the server's namespace, on a port of its own.
type middlebox struct {
	t        testing.TB
	ns       *netns
	accepted atomic.Int64 // connections taken
	carried  atomic.Int64 // bytes passed, both ways
	held     atomic.Int64 // reads that waited in a stall

	mu       sync.Mutex // guards the fields below
	open     map[*pair]struct{}
	stalled  chan struct{} // closed when bytes may pass
	delay    time.Duration
	perSec   int // bytes per second and direction; 0 means no limit
	refusing bool
}

// pair is the two sockets of one relayed connection.
type pair struct{ client, server *net.TCPConn }

// reset ends both with RST: linger 0 discards what is queued.
func (p *pair) reset() {
	for _, c := range []*net.TCPConn{p.client, p.server} {
		c.SetLinger(0)
		c.Close()
	}
}

// startMiddlebox relays to the server until the test ends.
func (w *world) startMiddlebox() *middlebox {
	w.t.Helper()
	m := &middlebox{t: w.t, ns: w.srv.ns, open: make(map[*pair]struct{}), stalled: make(chan struct{})}
	close(m.stalled)
	l := w.srv.ns.Listen("0.0.0.0:" + middleboxPort)
	var g sync.WaitGroup
	g.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.Go(func() { m.serve(c.(*net.TCPConn)) })
		}
	})
	w.t.Cleanup(func() {
		l.Close()
		m.Unstall()
		m.Cut()
		g.Wait()
	})
	return m
}

func (m *middlebox) serve(client *net.TCPConn) {
	m.accepted.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	server, err := m.ns.Dial(ctx, "127.0.0.1:"+serverPort)
	if err != nil {
		client.SetLinger(0)
		client.Close()
		return
	}
	p := &pair{client, server.(*net.TCPConn)}
	m.mu.Lock()
	refusing := m.refusing
	m.open[p] = struct{}{}
	m.mu.Unlock()
	if refusing {
		p.reset()
	}
	var g sync.WaitGroup
	g.Go(func() { m.pass(p.client, p.server) })
	g.Go(func() { m.pass(p.server, p.client) })
	g.Wait()
	m.mu.Lock()
	delete(m.open, p)
	m.mu.Unlock()
	p.client.Close()
	p.server.Close()
}

// pass carries one direction and its end.
func (m *middlebox) pass(from, to *net.TCPConn) {
	defer to.CloseWrite()
	buf := make([]byte, middleboxRead)
	for {
		n, err := from.Read(buf)
		m.hold(n)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
			m.carried.Add(int64(n))
		}
		if err != nil {
			if err != io.EOF {
				to.SetLinger(0)
				to.Close()
			}
			return
		}
	}
}

// hold keeps n bytes back as long as the present faults say.
func (m *middlebox) hold(n int) {
	m.mu.Lock()
	gate, wait := m.stalled, m.delay
	if m.perSec > 0 {
		wait += time.Duration(n) * time.Second / time.Duration(m.perSec)
	}
	m.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait)
	}
	select {
	case <-gate:
	default:
		m.held.Add(1)
		<-gate
	}
}

// Cut resets all connections and returns how many there were.
func (m *middlebox) Cut() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.open {
		p.reset()
	}
	return len(m.open)
}

// Finish ends all connections orderly at the TCP level, towards both sides.
func (m *middlebox) Finish() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.open {
		p.client.CloseWrite()
		p.server.CloseWrite()
	}
	return len(m.open)
}

// Stall lets no byte pass; connections stay, and new ones are taken.
func (m *middlebox) Stall() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.stalled:
		m.stalled = make(chan struct{})
	default: // it is
	}
}

// Unstall lets the bytes that waited go on.
func (m *middlebox) Unstall() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.stalled:
	default:
		close(m.stalled)
	}
}

// Delay adds a time to each read, which bounds the rate too.
func (m *middlebox) Delay(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = d
}

// Throttle bounds each direction of each connection; 0 lifts the bound.
func (m *middlebox) Throttle(bytesPerSecond int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.perSec = bytesPerSecond
}

// Refuse resets every new connection at once, or stops doing so.
func (m *middlebox) Refuse(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusing = on
}
