// Package rudp is SoftEther's R-UDP, the client's side: a reliable stream over
// datagrams, for networks that let no TCP through to the server.
//
// # Theory of operation
//
// Client opens a stream over a socket that is connected to the server, and returns a
// net.Conn; TLS and all above it run inside as over TCP. Twenty random bytes open it,
// from which both sides make their keys. Bytes travel in numbered segments of at most
// 512 bytes, each repeated until it is acknowledged, and at most 64 on the way at
// once: a stream carries 32 KiB per round trip and no more. What a segment
// acknowledges is the number up to which all has come, and those beyond it one by one.
// A segment that three later ones have overtaken is repeated at once, one that hears
// nothing after a time that follows the round trip, doubled each time.
//
// Every segment brings its sender's clock and returns the other's. Whoever has not seen
// its own clock returned for 12 s takes the other for dead. When there is nothing to
// say, a segment that asks for an answer is sent every few seconds.
//
// A Conn has one goroutine, which receives and ends with the Conn, and one timer.
// Everything else runs on its callers.
//
// # Frames beside the stream
//
// Within a session Ethernet frames need no reliable stream below them: what they carry
// repeats itself. Once the session's keys are set (SetBulk) SendFrame puts a frame
// into a datagram of its own, which is not repeated, not ordered and not held up by the
// window, and RunFrames receives the server's.
//
// # Carriers
//
// Direct sends segments as they are, to the server's own R-UDP port. A server opens one,
// on IPv4, unless its setting DisableNatTraversal is on. Which port follows from the names
// of its machine and program, so that it stays the same. On the server `ss -ulnp` shows it:
// of vpnserver's UDP ports two are no TCP ports of it too, and one of these answers.
// DNS dresses segments as queries to port 53, ICMP as information requests and echo
// replies; a server listens to these after VpnOverIcmpDnsEnable.
//
// # What is not here
//
// NAT traversal: a server behind NAT is reached by a public service (UDP 5004) that
// tells both sides of each other. A registered server may have that service's word that
// openings come only from clients it has announced, and then leaves ours unanswered.
// It takes the service's messages (Mayaqua/Network.c, NewRUDPClientNatT), a socket that
// is shared with Client, and Client being told where to send only when they have
// answered; nothing of it can be tried without that service.
//
// The protocol is that of Mayaqua/Network.c, RUDP*, as of 5.01.9674 and 5.02.
package rudp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Limits and times of the protocol. (Mayaqua/Network.h, RUDP_*)
const (
	maxData  = 512 // bytes of the stream in a segment
	window   = 64  // segments on the way, and in an acknowledgement
	silence  = 12 * time.Second
	openEach = 200 * time.Millisecond
	aliveMin = 2500 * time.Millisecond // between signs of life, at random up to
	aliveMax = 4792 * time.Millisecond

	firstRTO = 200 * time.Millisecond
	minRTO   = 50 * time.Millisecond // our own: less repeats what is only late
	maxRTO   = 4792 * time.Millisecond
)

const (
	// outLimit is how many bytes wait for the window: about one window's worth, more
	// would only wait where nobody can choose what goes first.
	outLimit = window * maxData
	// inLimit is how many bytes wait for the reader; beyond it the window closes.
	inLimit = 1 << 20
	// overtaken is by how many later segments one is that counts as lost. (RFC 5681, 3.2)
	overtaken = 3
	// farewells is how often the end is announced, since nobody acknowledges it.
	farewells = 5
	// lastWords bounds what Close waits for the last bytes to arrive: TLS's goodbye.
	lastWords = 500 * time.Millisecond
	// socketErrors is how many in a row end a connection.
	socketErrors = 100
)

// Errors of a Conn.
var (
	ErrSilent = errors.New("the server has been silent for 12 s")
	errNobody = errors.New("nobody answers there")
)

// A Conn is a stream to the server. Its methods may be called from several goroutines.
type Conn struct {
	sock net.Conn
	over Carrier
	keys keys
	base time.Time // what ticks count from
	mark uint64    // of the end; the client's choice, and the first eight bytes it sends

	stats *Counters
	bulk  atomic.Pointer[bulk]
	sink  atomic.Pointer[sink]

	established chan struct{} // closed by the first segment from the server

	mu       sync.Mutex // guards the fields below
	readable sync.Cond
	writable sync.Cond
	timer    *time.Timer
	wake     time.Time // when it fires
	readBy   deadline
	writeBy  deadline
	err      error // why the stream has ended
	isOpen   bool  // established is closed

	// outbound
	out       []byte          // the stream's bytes that wait for the window
	flying    [window]segment // by number modulo window
	first     uint64          // the lowest number that is not acknowledged
	next      uint64          // the next number
	reached   uint64          // the highest that was acknowledged
	complete  uint64          // up to which the server has everything, by its own word
	smoothed  time.Duration   // of round trips; 0 before the first
	variation time.Duration
	spoke     time.Time // when something was last sent that is repeated
	aliveIn   time.Duration

	// inbound
	in       bytes.Buffer // the stream's bytes that wait for the reader
	early    [window]received
	have     uint64 // up to which everything has come
	acks     []uint64
	peerTick uint64
	echoed   uint64    // the newest of our ticks that came back
	heard    time.Time // when that was

	tx []byte // empty, with room for a datagram
	pt []byte // a segment before it is sealed
}

// segment is one on its way.
type segment struct {
	seq   uint64 // 0 means none: acknowledged
	data  [maxData]byte
	n     int
	tries int
	sent  time.Time
	due   time.Time
}

// received is one that came before its turn.
type received struct {
	seq  uint64 // 0 means none
	data [maxData]byte
	n    int
}

// Counters count for as many Conns as share them.
type Counters struct {
	sent, repeated, received, duplicate, ignored atomic.Uint64
	framesOut, framesIn                          atomic.Uint64
}

// Stats counts segments and frames.
type Stats struct {
	Sent, Repeated      uint64
	Received, Duplicate uint64
	Ignored             uint64 // datagrams that are none of this stream's
	FramesOut, FramesIn uint64
}

// Stats returns the counters so far.
func (s *Counters) Stats() Stats {
	return Stats{
		Sent: s.sent.Load(), Repeated: s.repeated.Load(), Received: s.received.Load(), Duplicate: s.duplicate.Load(),
		Ignored: s.ignored.Load(), FramesOut: s.framesOut.Load(), FramesIn: s.framesIn.Load(),
	}
}

// Client opens a stream over sock, which is connected to the server and is the Conn's
// from now on: it is closed with it, and on an error. It blocks until the server has
// answered or ctx has ended. What there is to count is added to counts.
func Client(ctx context.Context, sock net.Conn, over Carrier, counts *Counters) (*Conn, error) {
	init := newInit()
	c := newConn(sock, over, clientKeys(init), newMark(), counts)
	c.out = appendMark(c.out, c.mark)
	go c.receive()
	if err := c.open(ctx, init); err != nil {
		c.fail(err)
		return nil, err
	}
	return c, nil
}

func newConn(sock net.Conn, over Carrier, k keys, mark uint64, counts *Counters) *Conn {
	now := time.Now()
	c := &Conn{
		sock: sock, over: over, keys: k, mark: mark, stats: counts, base: now.Add(-time.Second),
		established: make(chan struct{}), first: 1, next: 1, heard: now, spoke: now, aliveIn: aliveAfter(),
		tx: make([]byte, 0, maxPacket), pt: make([]byte, 0, maxPacket),
	}
	c.readable.L, c.writable.L = &c.mu, &c.mu
	c.readBy.wake, c.writeBy.wake = c.wakeReaders, c.wakeWriters
	return c
}

// open repeats the opening until the server has answered.
func (c *Conn) open(ctx context.Context, init [hashLen]byte) error {
	each := time.NewTicker(openEach)
	defer each.Stop()
	for {
		for _, b := range c.over.open(opening(init)) {
			// An error shows what an earlier one met, such as a port that is closed. The
			// next may get through, as long as somebody waits for it.
			_, _ = c.sock.Write(b)
		}
		select {
		case <-c.established:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("R-UDP %s: %w (%w)", c.sock.RemoteAddr(), errNobody, ctx.Err())
		case <-each.C:
		}
		if err := c.ended(); err != nil {
			return fmt.Errorf("R-UDP %s: %w", c.sock.RemoteAddr(), err)
		}
	}
}

func (c *Conn) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// receive takes datagrams until the socket is closed.
func (c *Conn) receive() {
	b := make([]byte, 4<<10)
	for failures := 0; ; {
		n, err := c.sock.Read(b)
		switch {
		case err == nil:
			failures = 0
			c.take(b[:n])
		case errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF):
			c.fail(net.ErrClosed)
			return
		default:
			// What the network says of a datagram anybody can say: only silence counts. While
			// the stream is being opened it is worth an answer, though.
			if failures++; failures >= socketErrors || !c.opened() && errors.Is(err, syscall.ECONNREFUSED) && failures >= 3 {
				c.fail(err)
				return
			}
		}
	}
}

func (c *Conn) opened() bool {
	select {
	case <-c.established:
		return true
	default:
		return false
	}
}

// take deals with one datagram.
func (c *Conn) take(b []byte) {
	b, ok := c.over.unwrap(b)
	if !ok {
		c.stats.ignored.Add(1)
		return
	}
	c.mu.Lock()
	s, ok := c.keys.open(b, c.over.mask())
	if ok {
		c.stats.received.Add(1)
		c.segment(s)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	if k := c.bulk.Load(); k != nil {
		if f, ok := k.open(b); ok {
			c.stats.framesIn.Add(1)
			c.deliver(f)
			return
		}
	}
	c.stats.ignored.Add(1)
}

// segment deals with one segment. The caller holds mu, as of all below.
func (c *Conn) segment(s inbound) {
	now := c.tick()
	if c.err != nil || s.yourTick > now || s.complete >= c.next {
		return // in answer to what was never sent
	}
	c.acknowledged(s)
	if s.yourTick > c.echoed {
		c.echoed, c.heard = s.yourTick, time.Now()
		c.measure(time.Duration(now-s.yourTick) * time.Millisecond)
	}
	c.peerTick = max(c.peerTick, s.myTick-min(s.myTick, 1))
	switch {
	case s.seq == 0:
	case s.seq == c.mark:
		c.finish(io.EOF)
		return
	default:
		c.accept(s)
		if !c.isOpen {
			c.isOpen = true
			close(c.established)
			c.timer = time.AfterFunc(0, c.tend)
		}
	}
	if c.isOpen {
		c.push()
	}
}

// acknowledged forgets what has arrived.
func (c *Conn) acknowledged(s inbound) {
	c.complete = max(c.complete, s.complete)
	c.reached = max(c.reached, s.complete)
	for ; c.first <= c.complete; c.first++ {
		c.flying[c.first%window].seq = 0
	}
	for i := range s.acks() {
		seq := s.ack(i)
		if f := &c.flying[seq%window]; seq != 0 && f.seq == seq {
			f.seq = 0
			c.reached = max(c.reached, seq)
		}
	}
	for c.first < c.next && c.flying[c.first%window].seq == 0 {
		c.first++
	}
}

// measure follows the round trip. (RFC 6298, 2)
func (c *Conn) measure(rtt time.Duration) {
	if c.smoothed == 0 {
		c.smoothed, c.variation = max(rtt, time.Millisecond), rtt/2
		return
	}
	c.variation += ((c.smoothed - rtt).Abs() - c.variation) / 4
	c.smoothed = max(c.smoothed+(rtt-c.smoothed)/8, time.Millisecond)
}

func (c *Conn) timeout(tries int) time.Duration {
	rto := firstRTO
	if c.smoothed != 0 {
		rto = max(minRTO, c.smoothed+4*c.variation)
	}
	return min(rto<<min(tries, 10), maxRTO)
}

// accept keeps a segment's data and passes on what is in order.
func (c *Conn) accept(s inbound) {
	if len(s.data) == 0 || len(s.data) > maxData || s.seq > c.have+window {
		return // not acknowledged either: it comes again
	}
	c.acks = append(c.acks, s.seq)
	e := &c.early[s.seq%window]
	if s.seq <= c.have || e.seq == s.seq {
		c.stats.duplicate.Add(1)
	} else {
		e.seq, e.n = s.seq, copy(e.data[:], s.data)
		c.advance()
	}
	if len(c.acks) == window {
		c.sendAcks()
	}
}

// advance moves what is in order to the reader, as far as there is room.
func (c *Conn) advance() {
	before := c.in.Len()
	for c.in.Len() < inLimit {
		e := &c.early[(c.have+1)%window]
		if e.seq != c.have+1 {
			break
		}
		c.have++
		e.seq = 0
		switch data := e.data[:e.n]; {
		case c.keys.asks(data):
			if c.first == c.next { // else what is on its way says the same
				c.launch(c.keys.aliveAnswer[:])
			}
		case c.keys.answers(data):
		default:
			c.in.Write(data)
		}
	}
	if c.in.Len() > before {
		c.readable.Broadcast()
	}
}

// push sends what there is to send: new segments as the window allows, what has been
// overtaken, and acknowledgements.
func (c *Conn) push() {
	roomy := len(c.out) >= outLimit
	off := 0
	for off < len(c.out) && c.mayLaunch() {
		n := min(len(c.out)-off, maxData)
		c.launch(c.out[off : off+n])
		off += n
	}
	if off > 0 {
		c.out = c.out[:copy(c.out, c.out[off:])]
	}
	if roomy && len(c.out) < outLimit {
		c.writable.Broadcast()
	}
	for seq := c.first; seq+overtaken <= c.reached; seq++ {
		if f := &c.flying[seq%window]; f.seq == seq && time.Since(f.sent) > c.smoothed {
			c.transmit(f)
		}
	}
	for len(c.acks) > 0 {
		c.sendAcks()
	}
	if len(c.out) == 0 && c.first == c.next {
		c.writable.Broadcast() // for Close
	}
}

// mayLaunch reports whether the window has room. The server drops what is further
// ahead of what it has passed on than the window is wide.
func (c *Conn) mayLaunch() bool {
	return c.first == c.next || c.next-c.first < window && c.next <= c.complete+window
}

// launch sends a new segment.
func (c *Conn) launch(data []byte) {
	f := &c.flying[c.next%window]
	f.seq, f.n, f.tries = c.next, copy(f.data[:], data), 0
	c.next++
	c.stats.sent.Add(1)
	c.transmit(f)
	if c.timer != nil && f.due.Before(c.wake) {
		c.wakeAt(f.due)
	}
}

// wakeAt has tend called at t, and no earlier.
func (c *Conn) wakeAt(t time.Time) {
	c.wake = t
	c.timer.Reset(max(time.Until(t), time.Millisecond))
}

func (c *Conn) transmit(f *segment) {
	if f.tries > 0 {
		c.stats.repeated.Add(1)
	}
	f.sent = time.Now()
	f.due = f.sent.Add(c.timeout(f.tries))
	f.tries++
	c.spoke = f.sent
	c.emit(f.seq, f.data[:f.n])
}

// sendAcks sends a segment without data.
func (c *Conn) sendAcks() { c.emit(c.next, nil) }

// emit seals and sends a segment, with the acknowledgements that wait.
func (c *Conn) emit(seq uint64, data []byte) {
	c.pt = appendPlain(c.pt[:0], c.tick(), c.peerTick, c.have, c.acks, seq, data)
	c.acks = c.acks[:0]
	_, _ = c.sock.Write(c.over.wrap(c.tx, c.keys.seal(c.pt, c.over.mask()))) // lost or not, what matters is repeated
}

// tend repeats what has had no answer in time, shows life and notices the server's
// death.
func (c *Conn) tend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	now := time.Now()
	if now.Sub(c.heard) >= silence {
		c.finish(ErrSilent)
		return
	}
	if c.first == c.next && now.Sub(c.spoke) >= c.aliveIn {
		c.aliveIn = aliveAfter()
		c.launch(c.keys.aliveRequest[:])
	}
	wake := c.heard.Add(silence)
	if alive := c.spoke.Add(c.aliveIn); c.first == c.next && alive.Before(wake) {
		wake = alive
	}
	for seq := c.first; seq < c.next; seq++ {
		f := &c.flying[seq%window]
		if f.seq != seq {
			continue
		}
		if !f.due.After(now) {
			c.transmit(f)
		}
		if f.due.Before(wake) {
			wake = f.due
		}
	}
	c.wakeAt(wake)
}

// tick is our clock as the protocol has it: milliseconds, never 0.
func (c *Conn) tick() uint64 { return uint64(time.Since(c.base) / time.Millisecond) }

// Read returns bytes of the stream. io.EOF means that the server has hung up.
func (c *Conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case c.in.Len() > 0:
			full := c.in.Len() >= inLimit
			n, _ := c.in.Read(b)
			if full && c.in.Len() < inLimit && c.err == nil {
				c.advance()
				c.sendAcks() // the window is open again
			}
			return n, nil
		case c.err != nil:
			return 0, c.err
		case len(b) == 0:
			return 0, nil
		}
		c.readable.Wait()
	}
}

// Write queues bytes of the stream, and waits while too many wait.
func (c *Conn) Write(b []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.err == io.EOF:
			return n, syscall.EPIPE
		case c.err != nil:
			return n, c.err
		case c.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case n == len(b):
			return n, nil
		}
		if room := outLimit - len(c.out); room > 0 {
			m := min(room, len(b)-n)
			c.out = append(c.out, b[n:n+m]...)
			n += m
			c.push()
			continue
		}
		c.writable.Wait()
	}
}

// Close waits a moment for what was written to arrive, tells the server and closes
// the socket. A second Close does not wait, and ends that of the first.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.sock.Close()
	}
	if c.isOpen && !c.writeBy.closing {
		c.writeBy.closing = true
		c.writeBy.set(time.Now().Add(lastWords))
		for c.err == nil && !c.writeBy.passed() && (len(c.out) > 0 || c.first < c.next) {
			c.writable.Wait()
		}
	}
	c.finish(net.ErrClosed)
	return nil
}

// fail ends the stream.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish(err)
}

// finish ends the stream, once: it tells the server if it does not know, and releases
// everybody who waits.
func (c *Conn) finish(err error) {
	if c.err != nil {
		return
	}
	if c.isOpen && err != io.EOF {
		for range farewells {
			c.emit(c.mark, nil)
		}
	}
	c.err = err
	if c.timer != nil {
		c.timer.Stop()
	}
	c.readBy.stop()
	c.writeBy.stop()
	c.readable.Broadcast()
	c.writable.Broadcast()
	c.sock.Close()
}

func (c *Conn) wakeReaders() { c.mu.Lock(); defer c.mu.Unlock(); c.readable.Broadcast() }
func (c *Conn) wakeWriters() { c.mu.Lock(); defer c.mu.Unlock(); c.writable.Broadcast() }

// LocalAddr returns the socket's address.
func (c *Conn) LocalAddr() net.Addr { return addr{c.over, c.sock.LocalAddr()} }

// RemoteAddr returns the server's. Its network is the Carrier.
func (c *Conn) RemoteAddr() net.Addr { return addr{c.over, c.sock.RemoteAddr()} }

type addr struct {
	over Carrier
	net.Addr
}

func (a addr) Network() string { return a.over.String() }
func (a addr) String() string  { return withPort(a.Addr) }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds Read, also one that waits.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readBy, t) }

// SetWriteDeadline bounds Write, also one that waits.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeBy, t) }

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return net.ErrClosed
	}
	if !d.closing {
		d.set(t)
	}
	d.broadcast(c)
	return nil
}

// SyscallConn tells of the socket below.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.sock.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return sc.SyscallConn()
}

// A deadline is one of a Conn, whose mu guards it.
type deadline struct {
	at      time.Time // zero means none
	timer   *time.Timer
	wake    func()
	closing bool // it is Close's
}

func (d *deadline) set(t time.Time) {
	d.at = t
	d.stop()
	if until := time.Until(t); !t.IsZero() && until > 0 {
		d.timer = time.AfterFunc(until, d.wake)
	}
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// broadcast lets everybody look at the new deadline.
func (d *deadline) broadcast(c *Conn) {
	if d == &c.readBy {
		c.readable.Broadcast()
	} else {
		c.writable.Broadcast()
	}
}
