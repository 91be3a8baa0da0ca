package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxDatagram is the longest that UDP can have.
	maxDatagram = 1<<16 - 1
	// maxAhead is how many datagrams of a new flow wait for its socket: those of a
	// first flight, as QUIC's.
	maxAhead = 16
	// maxAheadBytes bounds what waits in all flows of a port: 512 flows could else hold
	// half a gigabyte while a name server is slow.
	maxAheadBytes = 4 << 20
	// giveWay is after how long without a datagram a flow may lose its place to another.
	giveWay = 15 * time.Second
	// failPause is how long a flow whose target was not reached drops datagrams, for
	// not each of them to be a question to name servers.
	failPause = time.Second
	// maxErrors is how many reads in a row may fail before a flow ends.
	maxErrors = 64
)

// A pair is what tells flows apart: a client, and the address of ours that it talks to.
type pair struct{ peer, local netip.AddrPort }

// A flow is a client of a UDP port.
type flow struct {
	pair
	header []byte       // of the PROXY protocol, before each datagram; empty for none
	last   atomic.Int64 // when there was a datagram, either way; nanoseconds since the table began

	mu    sync.Mutex // guards what follows
	conn  net.Conn   // to the target; nil while it is made
	ahead [][]byte   // what waits for it
	ended bool
}

// flows is the table of one port.
type flows struct {
	*Forward
	begun time.Time

	ahead atomic.Int64 // bytes that wait for sockets

	mu  sync.Mutex // guards all
	all map[pair]*flow
	run sync.WaitGroup // one for each
}

// serveUDP takes datagrams until the port is closed, ends the flows, and waits for them.
func (f *Forward) serveUDP(ctx context.Context) {
	t := &flows{Forward: f, begun: time.Now(), all: make(map[pair]*flow)}
	ctx, cancel := context.WithCancel(ctx)
	defer t.run.Wait()
	defer t.endAll()
	defer cancel()
	buf := make([]byte, maxProxyHeader+maxDatagram)
	for {
		n, from, to, err := f.packets.ReadFromTo(buf[maxProxyHeader:])
		if err != nil {
			if f.isStop(err) {
				return
			}
			continue // what an earlier datagram met
		}
		if fl := t.find(ctx, pair{from, to}); fl != nil {
			start := maxProxyHeader - len(fl.header)
			copy(buf[start:], fl.header)
			t.pass(fl, buf[start:maxProxyHeader+n], n)
		}
	}
}

// A packetConn tells where each datagram was sent to, and answers from there: binding's and
// netstack's do.
type packetConn interface {
	net.PacketConn
	ReadFromTo(b []byte) (n int, from, to netip.AddrPort, err error)
	WriteFromTo(b []byte, from netip.Addr, to netip.AddrPort) (int, error)
}

// boundConn is a net.PacketConn for which that is what it is bound to.
type boundConn struct{ net.PacketConn }

func (c boundConn) ReadFromTo(b []byte) (n int, from, to netip.AddrPort, err error) {
	n, peer, err := c.ReadFrom(b)
	return n, addrPort(peer), addrPort(c.LocalAddr()), err
}

func (c boundConn) WriteFromTo(b []byte, _ netip.Addr, to netip.AddrPort) (int, error) {
	return c.WriteTo(b, net.UDPAddrFromAddrPort(to))
}

func (t *flows) now() int64 { return int64(time.Since(t.begun)) }

// find returns the flow of a client, a new one if need be, or nil if there is no room.
func (t *flows) find(ctx context.Context, of pair) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fl := t.all[of]; fl != nil {
		return fl
	}
	if len(t.all) >= t.cfg.MaxFlows && !t.makeRoom() {
		t.counters.overLimit.Add(1)
		return nil
	}
	fl := &flow{pair: of}
	if t.cfg.ProxyHeader {
		fl.header = appendProxyPorts(nil, datagrams, of.peer, of.local)
	}
	fl.last.Store(t.now())
	t.all[of] = fl
	t.counters.accepted.Add(1)
	t.counters.open.Add(1)
	t.run.Go(func() {
		defer t.remove(fl)
		t.serve(ctx, fl)
	})
	return fl
}

// makeRoom ends the flow that has been silent the longest, if that is long. t.mu is held.
func (t *flows) makeRoom() bool {
	var oldest *flow
	for _, fl := range t.all {
		if oldest == nil || fl.last.Load() < oldest.last.Load() {
			oldest = fl
		}
	}
	if oldest == nil || t.now()-oldest.last.Load() < int64(giveWay) {
		return false
	}
	delete(t.all, oldest.pair)
	oldest.end()
	return true
}

func (t *flows) remove(fl *flow) {
	fl.end()
	fl.mu.Lock()
	t.flush(fl, func([]byte) { t.counters.dropped.Add(1) }) // its target was not reached
	fl.mu.Unlock()
	t.counters.open.Add(-1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all[fl.pair] == fl { // another may have taken the place
		delete(t.all, fl.pair)
	}
}

func (t *flows) endAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, fl := range t.all {
		fl.end()
	}
}

// end closes the flow's socket, now or when it is made.
func (fl *flow) end() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.ended = true
	if fl.conn != nil {
		fl.conn.Close()
	}
}

// pass sends a datagram of n bytes and its header to the target, or keeps it until that is
// possible.
func (t *flows) pass(fl *flow, b []byte, n int) {
	fl.last.Store(t.now())
	fl.mu.Lock()
	conn := fl.conn
	if conn == nil {
		kept := !fl.ended && len(fl.ahead) < maxAhead && t.reserve(len(b))
		if kept {
			fl.ahead = append(fl.ahead, append([]byte(nil), b...))
		}
		fl.mu.Unlock()
		if !kept {
			t.counters.dropped.Add(1)
		}
		return
	}
	fl.mu.Unlock()
	t.send(conn, b, n)
}

// reserve makes room for what is to wait, if there is any.
func (t *flows) reserve(n int) bool {
	if t.ahead.Add(int64(n)) <= maxAheadBytes {
		return true
	}
	t.ahead.Add(int64(-n))
	return false
}

// flush hands what has waited for a flow's socket to send, and gives the room back.
// fl.mu is held.
func (t *flows) flush(fl *flow, send func([]byte)) {
	for _, b := range fl.ahead {
		send(b)
		t.ahead.Add(int64(-len(b)))
	}
	fl.ahead = nil
}

func (t *flows) send(conn net.Conn, b []byte, n int) {
	_, err := conn.Write(b)
	if errors.Is(err, syscall.ECONNREFUSED) { // that was about an earlier one
		_, err = conn.Write(b)
	}
	if err != nil {
		t.counters.dropped.Add(1)
		return
	}
	t.counters.datagrams.Add(1)
	t.counters.toTarget.Add(uint64(n))
}

// serve makes a flow's socket, sends what has waited for it, and carries answers until
// there is none for long.
func (t *flows) serve(ctx context.Context, fl *flow) {
	dialing, cancel := context.WithTimeout(ctx, t.cfg.DialTimeout)
	conn, err := t.cfg.To.DialContext(dialing, "udp", t.cfg.Target)
	cancel()
	if err != nil {
		t.unreached(ctx, fl.peer, err)
		select {
		case <-time.After(failPause):
		case <-ctx.Done():
		}
		return
	}
	defer conn.Close()
	fl.mu.Lock()
	t.flush(fl, func(b []byte) { t.send(conn, b, len(b)-len(fl.header)) })
	fl.conn = conn
	ended := fl.ended
	fl.mu.Unlock()
	if !ended {
		t.carryAnswers(fl, conn)
	}
}

// carryAnswers carries the target's datagrams to the client.
func (t *flows) carryAnswers(fl *flow, conn net.Conn) {
	read := lendingReader(conn)
	answer := func(b []byte) { t.answer(fl, b) } // once: none is made for a datagram
	for errs := 0; errs < maxErrors; {
		silent := time.Duration(t.now() - fl.last.Load())
		if silent >= t.cfg.FlowIdle {
			return
		}
		_ = conn.SetReadDeadline(time.Now().Add(t.cfg.FlowIdle - silent))
		err := read(answer)
		switch {
		case err == nil:
			errs = 0
		case errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNABORTED):
			return // by us, or the address has changed
		case !errors.Is(err, os.ErrDeadlineExceeded): // after which the client may have sent
			errs++ // what a datagram met, as that nobody listens there yet
		}
	}
}

// answer sends one datagram to the client.
func (t *flows) answer(fl *flow, b []byte) {
	fl.last.Store(t.now())
	if _, err := t.packets.WriteFromTo(b, fl.local.Addr(), fl.peer); err != nil {
		t.counters.dropped.Add(1)
		return
	}
	t.counters.datagrams.Add(1)
	t.counters.toClients.Add(uint64(len(b)))
}

// datagramBuffers are on loan while a datagram passes.
var datagramBuffers = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// lendingReader reads a datagram and lends it. If conn knows how to wait without a buffer,
// only what passes has one.
func lendingReader(conn net.Conn) func(lend func([]byte)) error {
	w, ok := conn.(interface{ WaitReadable() error })
	if !ok {
		b := make([]byte, maxDatagram)
		return func(lend func([]byte)) error {
			n, err := conn.Read(b)
			if err == nil {
				lend(b[:n])
			}
			return err
		}
	}
	return func(lend func([]byte)) error {
		if err := w.WaitReadable(); err != nil {
			return err
		}
		b := datagramBuffers.Get().(*[maxDatagram]byte)
		defer datagramBuffers.Put(b)
		n, err := conn.Read(b[:])
		if err == nil {
			lend(b[:n])
		}
		return err
	}
}
