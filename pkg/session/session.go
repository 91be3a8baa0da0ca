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
// Inbound, one goroutine reads: what TLS yields is parsed in place and lent to
// the destination. Outbound, the caller's goroutine builds one unit from its
// batch and writes it with one TLS write; a mutex keeps units whole. Neither
// direction ever waits for the other.
//
// # Life and death
//
// Whoever is silent for the session's time-out is dead. Both sides therefore send
// a keep-alive every few seconds, and only a complete frame or keep-alive counts.
// A session that has died stays dead: Run and WriteFrames return the cause. The
// server never says why it ends a session, it just closes; ErrEnded says that it
// did, as opposed to a network fault. The real reason shows at the next login.
//
// # Errors
//
// Everything that stops a session is an *Error, whose Advice says whether trying
// again makes sense.
//
// # Goroutines
//
// Run owns a reader and a keep-alive timer. WriteFrames runs on its caller and
// may block as long as the peer does not read, at most the session's time-out.
// Nothing outlives Run.
package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/frame"
	"softether-go/pkg/tlsconn"
	"softether-go/pkg/wire"
)

// keepAliveEvery is how often a keep-alive is sent while the server's time-out
// allows it: often enough to keep any NAT's mapping and to notice a dead path.
const keepAliveEvery = 3 * time.Second

// closeGrace bounds what is still sent to a peer that does not read: a DHCP
// release, the TLS close.
const closeGrace = time.Second

// A Session is an established membership in a hub. Its methods may be called from
// several goroutines, except that there is one Run at a time.
type Session struct {
	raw     net.Conn // below TLS, for deadlines
	tls     *tlsconn.Conn
	parser  *wire.Parser // Run's only
	welcome wire.Welcome
	server  string
	every   time.Duration // between keep-alives

	turn turn   // guards tx; held across the TLS write so that a unit stays whole
	tx   []byte // the unit under construction; reused

	limitMu sync.Mutex // guards limit
	limit   time.Time  // no write may last longer, set by a stop; zero means none

	failOnce sync.Once
	dead     chan struct{} // closed once cause is set
	cause    error         // why the session died; read after dead is closed

	stats counters
}

type counters struct {
	inFrames, inBytes, inKeepAlives, inDropped, inBatches atomic.Uint64
	outFrames, outBytes, outDropped, outBatches           atomic.Uint64
}

// Stats counts frames, not counting Ethernet's own overhead.
type Stats struct {
	InFrames, InBytes, InBatches, InKeepAlives uint64
	InDropped                                  uint64 // shorter or longer than a frame can be
	OutFrames, OutBytes, OutBatches            uint64
	OutDropped                                 uint64 // shorter or longer than the tunnel carries
}

// Stats returns the counters so far.
func (s *Session) Stats() Stats {
	c := &s.stats
	return Stats{
		InFrames: c.inFrames.Load(), InBytes: c.inBytes.Load(), InBatches: c.inBatches.Load(),
		InKeepAlives: c.inKeepAlives.Load(), InDropped: c.inDropped.Load(),
		OutFrames: c.outFrames.Load(), OutBytes: c.outBytes.Load(), OutBatches: c.outBatches.Load(),
		OutDropped: c.outDropped.Load(),
	}
}

// Welcome returns what the server granted.
func (s *Session) Welcome() wire.Welcome { return s.welcome }

// Run pushes the server's frames to dst until ctx ends, the session dies, or dst
// fails; see frame.Endpoint. After ctx has ended, writes are given closeGrace to
// complete.
func (s *Session) Run(ctx context.Context, dst frame.Writer) error {
	if err := s.err(); err != nil {
		return err
	}
	s.limitWrites(time.Time{}) // an earlier Run may have set one
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		s.raw.SetReadDeadline(time.Unix(1, 0))
		s.limitWrites(time.Now().Add(closeGrace))
	})
	defer stop()
	g.Go(func() error { return s.receive(ctx, dst) })
	g.Go(func() error { return s.sendKeepAlives(ctx) })
	err := g.Wait()
	if dead := s.err(); dead != nil {
		return dead
	}
	return err
}

// receive is the inbound loop. Each sign of life moves the read deadline.
func (s *Session) receive(ctx context.Context, dst frame.Writer) error {
	lastLife := time.Now()
	armed := time.Time{}
	for {
		// Moving the deadline costs a timer operation: once a second is enough.
		if lastLife.Sub(armed) >= time.Second || armed.IsZero() {
			s.raw.SetReadDeadline(lastLife.Add(s.welcome.Timeout))
			armed = lastLife
		}
		if ctx.Err() != nil { // after setting the deadline: else it could undo the one that stops us
			return ctx.Err()
		}
		frames, alive, err := s.parser.Next(s.tls)
		if alive {
			lastLife = time.Now()
			s.countIn()
		}
		if len(frames) > 0 {
			s.stats.inBatches.Add(1)
			if err := dst.WriteFrames(frames); err != nil {
				return err
			}
		}
		if err != nil {
			if ctx.Err() != nil && errors.Is(err, errTimeout) {
				return ctx.Err()
			}
			return s.failInbound(err)
		}
	}
}

// failInbound ends the session for what the reader met, unless a write under way
// meets something too: the kernel reports a reset only once, and if the writer
// hears it, the reader sees a plain end.
func (s *Session) failInbound(err error) error {
	wait := time.NewTimer(100 * time.Millisecond)
	defer wait.Stop()
	select {
	case s.turn <- struct{}{}: // nobody writes any more
		defer s.turn.give()
	case <-s.dead:
	case <-wait.C:
	}
	return s.fail(endOf(err, s.welcome.Timeout))
}

// A turn is a mutex that can be waited for together with other things. It is taken
// once a batch.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take() { t <- struct{}{} }
func (t turn) give() { <-t }

func (t turn) tryTake() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *Session) countIn() {
	p := s.parser.Stats()
	s.stats.inFrames.Store(p.Frames)
	s.stats.inBytes.Store(p.Bytes)
	s.stats.inKeepAlives.Store(p.KeepAlives)
	s.stats.inDropped.Store(p.Runts + p.Giants)
}

// sendKeepAlives sends one at once, as the server may be waiting for a sign of
// life, and then at a steady pace. It also watches over the writers: one that gets
// nothing through for the session's time-out has a peer that is as good as dead.
func (s *Session) sendKeepAlives(ctx context.Context) error {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	progress, since := s.stats.outBatches.Load(), time.Now()
	for {
		n := s.stats.outBatches.Load()
		switch {
		case s.turn.tryTake():
			err := s.keepAlive()
			s.turn.give()
			if err != nil {
				return err
			}
			since = time.Now()
		case n != progress: // frames are being written, the best sign of life
			progress, since = n, time.Now()
		case time.Since(since) >= s.welcome.Timeout:
			return s.fail(fmt.Errorf("%w: it has taken nothing for %v", ErrSilent, s.welcome.Timeout))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// keepAlive writes a keep-alive of random content and length, so that a watcher
// cannot tell it by its size. The caller has the turn.
func (s *Session) keepAlive() error {
	var content [wire.MaxKeepAlive - 1]byte
	rand.Read(content[:])
	n := int(content[0]) + int(content[1]) // 0 to 510
	s.tx = wire.AppendKeepAlive(s.tx[:0], content[:n])
	s.setWriteDeadline(time.Now().Add(s.welcome.Timeout))
	defer s.setWriteDeadline(time.Time{})
	return s.flush()
}

// limitWrites makes t the latest end of any write; zero lifts the limit.
func (s *Session) limitWrites(t time.Time) {
	s.limitMu.Lock()
	defer s.limitMu.Unlock()
	s.limit = t
	s.raw.SetWriteDeadline(t)
}

// setWriteDeadline sets a deadline within the limit.
func (s *Session) setWriteDeadline(t time.Time) {
	s.limitMu.Lock()
	defer s.limitMu.Unlock()
	if s.limit.IsZero() {
		s.raw.SetWriteDeadline(t)
	}
}

// WriteFrames sends frames to the hub as one unit. It blocks while the connection
// does not take them, at most the session's time-out while Run is active. An error
// means that the session is dead.
func (s *Session) WriteFrames(frames [][]byte) error {
	s.turn.take()
	defer s.turn.give()
	var dropped int
	s.tx, dropped = wire.AppendBatch(s.tx[:0], frames)
	if dropped > 0 {
		s.stats.outDropped.Add(uint64(dropped))
	}
	if err := s.flush(); err != nil {
		return err
	}
	if sent := len(frames) - dropped; sent > 0 {
		s.stats.outFrames.Add(uint64(sent))
		s.stats.outBytes.Add(uint64(len(s.tx) - wire.BatchOverhead(sent)))
		s.stats.outBatches.Add(1)
	}
	return nil
}

// flush writes tx. The caller has the turn.
func (s *Session) flush() error {
	if err := s.err(); err != nil {
		return err
	}
	if len(s.tx) == 0 {
		return nil
	}
	if _, err := s.tls.Write(s.tx); err != nil {
		return s.fail(endOf(err, s.welcome.Timeout))
	}
	return nil
}

// fail records the first cause of death, releases everything that waits on the
// connection, and returns that first cause.
func (s *Session) fail(cause error) error {
	s.failOnce.Do(func() {
		s.cause = &Error{Op: OpCarry, Server: s.server, Err: cause}
		close(s.dead)
		s.raw.Close()
	})
	<-s.dead
	return s.cause
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
// closes the connection. A second Close does nothing.
func (s *Session) Close() error {
	s.limitWrites(time.Now().Add(closeGrace))
	var err error
	s.failOnce.Do(func() {
		// crypto/tls gives its notice 5 s, too long for somebody who wants to leave.
		cut := time.AfterFunc(closeGrace, func() { s.raw.Close() })
		defer cut.Stop()
		// Without the notice a common server version closes our next session too
		// (an end of file stays queued in its TLS library).
		err = s.tls.Close()
		s.cause = net.ErrClosed
		close(s.dead)
	})
	return err
}

var _ frame.Endpoint = (*Session)(nil)
