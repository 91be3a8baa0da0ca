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
	"net"
	"sync"
	"sync/atomic"
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

func (c *Conn) opened() bool {
	select {
	case <-c.established:
		return true
	default:
		return false
	}
}

// tick is our clock as the protocol has it: milliseconds, never 0.
func (c *Conn) tick() uint64 { return uint64(time.Since(c.base) / time.Millisecond) }
