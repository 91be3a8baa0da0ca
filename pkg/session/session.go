// Package session speaks the SoftEther protocol from first byte to last: the
// client's side of one membership in a virtual hub.
//
// # Theory of operation
//
// Dial opens a TLS connection, says hello, logs in and reads the welcome. From
// then on the stream is a sequence of batches of Ethernet frames, with keep-alives
// in between (package wire). A Session is a frame.Endpoint: Run pushes the
// server's frames inbound, WriteFrames sends frames outbound.
//
// A session has one TCP connection or several, its links, each with its own TLS and
// framing. Inbound, one goroutine reads each: what TLS yields is parsed in place and
// lent to the destination. Outbound, the caller's goroutine builds one unit from its
// batch and writes it with one TLS write; a mutex keeps units whole. Of several links
// each flow of the inner network keeps to one, so that it is not reordered. Neither
// direction ever waits for the other.
//
// # How many connections
//
// One, unless told otherwise. Debian's server, Mbit/s of 8 flows up, 8 down and 1 down, by
// how long a round trip takes and what the way loses (TestConnectionsMeasured):
//
//	                    1 connection    2              4              8              and UDP
//	0                   432  407  616   808  770  603  561  848  841  347  960  952
//	40 ms               303  256  173   201  244  183  300  285  152  218  179  206  228  254  191
//	10 ms, 0.1 % lost    23   62   66    32   63   56   48   71   41   53   52   51  230  244   37
//	40 ms, 0.1 % lost     3   16   20    15   28   11   21   26   16   21   20   11   95  106   19
//	40 ms, 1 % lost       1    8    7     3    8    7    3    8    3    3   10    6   21   24    5
//
// Where nothing is lost there is no trend, but what else the machine did. Where something
// is, uploads of several flows gain, as each has one connection's losses alone. Downloads
// do not: the server sends what it has by one connection at a time. UDP acceleration
// serves those ways better than any number of connections, and comes by itself.
//
// # Life and death
//
// Whoever is silent for the session's time-out is dead. Both sides therefore send
// a keep-alive every few seconds, and only a complete frame or keep-alive counts.
// A link that has died is replaced. With the last one the session is not lost yet:
// within its time-out the server lets a new connection in that brings the session's
// key, and meanwhile WriteFrames waits. To whoever uses the session nothing happens
// but a pause.
//
// A session that has died stays dead: Run and WriteFrames return the cause. The
// server never says why it ends a session, it just closes; ErrEnded says that it
// did, as opposed to a network fault. The real reason shows at the next login.
//
// # UDP acceleration
//
// Beside the connections there may be a path of datagrams (package udpaccel). It receives
// always; a chooser decides what is sent there, and whether the server is to. UDPRequire
// sends all by UDP once that gets through, and ends the session if it does not in 15 s.
//
// UDPAuto begins without. Every half second it asks the kernel what the connections have
// sent again and received out of order. Where that happens in eight of twenty looks,
// though nothing queues on the way, TCP is bad, and the session ends with ErrWantsUDP: to be
// opened again with an offer, which cannot be made later. That costs connections inside
// a pause of some round trips. In the next session frames move when UDP has been alive for
// the protocol's ten seconds and loses no more than a quarter of the server's keep-alives,
// and a round trip by it, measured by a burst of probes, takes no longer than TCP's. They
// move back at once when it falls silent, and when it loses more, carries less than half of
// what TCP did, or TCP is due another look; after a disappointment UDP has to wait, each time
// twice as long. What was found out outlives the session in a UDPHistory.
//
// # R-UDP
//
// A connection may be one that carries frames beside its stream, a FrameConn. If the
// server agrees, its link does so with all frames, which then may get lost, as on a
// real cable; keep-alives and the end stay in the stream.
//
// # Clusters
//
// A cluster's controller sends a login on to a member, with a ticket for it and its
// certificate, which is the only one accepted there. Further connections go to the
// member; the next login begins at the controller again.
//
// # Errors
//
// Everything that stops a session is an *Error, whose Advice says whether trying
// again makes sense.
//
// # Goroutines
//
// Run owns a reader and a keep-alive timer for each link, and a keeper, which opens
// links. WriteFrames runs on its caller and may block as long as the peer does not
// read or there is no link, at most the session's time-out. Nothing outlives Run.
package session

import (
	"context"
	"crypto/x509"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/frame"
	"softether-go/pkg/wire"
)

// keepAliveEvery is how often a keep-alive is sent while the server's time-out
// allows it: often enough to keep any NAT's mapping and to notice a dead path.
const keepAliveEvery = 3 * time.Second

// closeGrace bounds what is still sent to a peer that does not read: a DHCP
// release, the TLS close.
const closeGrace = time.Second

// failGrace is the same for a connection that has failed.
const failGrace = 100 * time.Millisecond

// retireGrace bounds how long a link that is being replaced may take to end.
const retireGrace = 2 * time.Second

// A Session is an established membership in a hub. Its methods may be called from
// several goroutines, except that there is one Run at a time.
type Session struct {
	cfg         Config
	server      string            // where the session is: host:port
	address     string            // the same, for further connections: not resolved again if that can be helped
	network     string            // by what these are made; empty means TCP
	certificate *x509.Certificate // of the first connection, and all others
	welcome     wire.Welcome
	every       time.Duration // between keep-alives
	most        int           // links to have

	out    atomic.Pointer[outbound] // the links that send
	spread spreader
	way    *udpWay // beside the connections; nil without one

	chooser *udpChooser // nil if UDP is off

	mu       sync.Mutex // guards the fields below
	links    []*link    // the oldest first
	retiring []*link    // that still receive
	lost     *link      // the last that died
	changed  chan struct{}
	limit    time.Time // no write may last longer, set by a stop; zero means none

	failOnce sync.Once
	dead     chan struct{} // closed once cause is set
	cause    error         // why the session died; read after dead is closed

	stats counters
}

// A FrameConn is a connection that can carry frames beside its stream.
type FrameConn interface {
	net.Conn
	// SetBulk makes the other methods work.
	SetBulk(wire.BulkKeys) error
	// SendFrame sends one, which may get lost. An error means that the connection has ended.
	SendFrame(frame []byte) error
	// RunFrames hands the server's frames to deliver, one at a time and lent for the call,
	// until ctx ends or deliver fails.
	RunFrames(ctx context.Context, deliver func(frame []byte) error) error
}

type counters struct {
	inFrames, inBytes, inKeepAlives, inDropped, inBatches, inMisdirected atomic.Uint64
	outFrames, outBytes, outDropped, outBatches                          atomic.Uint64
	joined, linksLost, joinsFailed, resumed, replaced                    atomic.Uint64
}

// Stats counts frames, not counting Ethernet's own overhead.
type Stats struct {
	InFrames, InBytes, InBatches, InKeepAlives uint64
	InDropped                                  uint64 // shorter or longer than a frame can be
	OutFrames, OutBytes, OutBatches            uint64
	OutDropped                                 uint64 // shorter or longer than the tunnel carries
	InMisdirected                              uint64 // on a connection where the server may not send; dropped

	Connections       int    // at present
	ConnectionsJoined uint64 // beyond the first, so far
	ConnectionsLost   uint64
	ReplacedInTime    uint64 // because of their age
	JoinsFailed       uint64
	Resumed           uint64 // times that all connections were lost, and the session was not
}

// Stats returns the counters so far.
func (s *Session) Stats() Stats {
	c := &s.stats
	return Stats{
		InFrames: c.inFrames.Load(), InBytes: c.inBytes.Load(), InBatches: c.inBatches.Load(),
		InKeepAlives: c.inKeepAlives.Load(), InDropped: c.inDropped.Load(),
		OutFrames: c.outFrames.Load(), OutBytes: c.outBytes.Load(), OutBatches: c.outBatches.Load(),
		OutDropped: c.outDropped.Load(), InMisdirected: c.inMisdirected.Load(),
		Connections: s.count(), ConnectionsJoined: c.joined.Load(), ConnectionsLost: c.linksLost.Load(),
		ReplacedInTime: c.replaced.Load(), JoinsFailed: c.joinsFailed.Load(), Resumed: c.resumed.Load(),
	}
}

// Network returns what carries the session: "tcp", or what stands in for it.
func (s *Session) Network() string {
	if s.network == "" {
		return "tcp"
	}
	return s.network
}

// Server returns where the session is, as host:port: in a cluster the member.
func (s *Session) Server() string { return s.server }

// Welcome returns what the server granted.
func (s *Session) Welcome() wire.Welcome { return s.welcome }

// Run pushes the server's frames to dst until ctx ends, the session dies, or dst
// fails; see frame.Endpoint. It keeps the session's connections up. With several of
// them dst is called from as many goroutines. After ctx has ended, writes are given
// closeGrace to complete.
func (s *Session) Run(ctx context.Context, dst frame.Writer) error {
	if err := s.err(); err != nil {
		return err
	}
	s.limitWrites(time.Time{}) // an earlier Run may have set one
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		for _, l := range s.all() {
			l.raw.SetReadDeadline(time.Unix(1, 0))
		}
		s.limitWrites(time.Now().Add(closeGrace))
	})
	defer stop()
	start := func(l *link) { g.Go(func() error { return l.run(ctx, dst) }) }
	for _, l := range s.all() {
		start(l)
	}
	if s.way != nil {
		g.Go(func() error { return s.way.run(ctx, dst) })
	}
	if s.chooser != nil {
		g.Go(func() error { return s.chooser.run(ctx) })
	}
	g.Go(func() error { return (&keeper{s: s, start: start}).run(ctx) })
	err := g.Wait()
	s.dropRetiring()
	if dead := s.err(); dead != nil {
		return dead
	}
	return err
}

// WriteFrames sends frames to the hub, as one unit on each connection it uses. It
// blocks while a connection does not take them, or while there is none, at most the
// session's time-out while Run is active. An error means that the session is dead, or
// that Run has been stopped while there was no connection.
func (s *Session) WriteFrames(frames [][]byte) error {
	for {
		if err := s.err(); err != nil {
			return err
		}
		if s.way != nil {
			if frames = s.way.send(frames); len(frames) == 0 {
				return nil
			}
		}
		o := s.out.Load()
		switch {
		case o.only != nil:
			if o.only.send(frames) == nil {
				return nil
			}
		case o.empty():
			if err := s.await(o); err != nil {
				return err
			}
			continue
		default:
			if frames = s.sendShares(o, frames); len(frames) == 0 {
				return nil
			}
		}
		// A link that fails leaves the outbound: what it did not take goes by another.
		select {
		case <-o.changed:
		case <-s.dead:
		}
	}
}

// sendShares sends frames by several links, and returns those that failed to go.
func (s *Session) sendShares(o *outbound, frames [][]byte) (failed [][]byte) {
	d := s.spread.split(o, frames)
	defer s.spread.recycle(d)
	for _, part := range d.parts {
		if part.link == nil {
			break
		}
		if part.link.send(part.frames) != nil {
			failed = append(failed, part.frames...)
		}
	}
	return failed
}

// fail records the first cause of death, releases everything that waits, and returns
// that first cause.
func (s *Session) fail(cause error) error {
	s.failOnce.Do(func() {
		s.end(&Error{Op: OpCarry, Server: s.server, Err: cause})
		for _, l := range s.all() {
			l.fail(cause)
		}
	})
	<-s.dead
	return s.cause
}

// end makes the session dead: no link is added from now on. It is called once.
func (s *Session) end(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cause = cause
	close(s.dead)
}

func (s *Session) err() error {
	select {
	case <-s.dead:
		return s.cause
	default:
		return nil
	}
}

// Close ends the session: it tells the server, waiting at most closeGrace, and
// closes the connections. A second Close does nothing.
func (s *Session) Close() error {
	s.limitWrites(time.Now().Add(closeGrace))
	if s.way != nil {
		s.way.Close()
	}
	var err error
	s.failOnce.Do(func() {
		s.end(net.ErrClosed)
		var g errgroup.Group
		for _, l := range s.all() {
			g.Go(l.close)
		}
		err = g.Wait()
	})
	return err
}

var _ frame.Endpoint = (*Session)(nil)
