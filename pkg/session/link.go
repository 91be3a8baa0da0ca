package session

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/tlsconn"
	"softether-go/pkg/wire"
)

// A link is one TCP connection of a session: a stream of units each way, or one way
// only. (Cedar/Connection.h, TCPSOCK)
type link struct {
	s      *Session
	raw    net.Conn // for deadlines
	tls    *tlsconn.Conn
	stream io.ReadWriter // tls, or what is below it in a session without encryption
	beside FrameConn     // raw, if frames go beside the stream; else nil
	one    [1][]byte     // a frame from there, on its way in
	dir    wire.Direction
	born   time.Time

	parser  *wire.Parser // the reader's only
	counted wire.ParserStats
	life    atomic.Int64 // when the peer last showed some, to the second, in Unix nanoseconds

	turn    turn         // guards tx and packer; held across the write so that a unit stays whole
	tx      []byte       // the unit under construction; reused
	packer  *wire.Packer // nil unless blocks are compressed
	batches atomic.Uint64
	writing atomic.Bool // a write is under way

	// retireBy is when the server must have hung up, in Unix nanoseconds: the link is
	// being replaced and sends no more. 0 means that it is not.
	retireBy atomic.Int64

	failOnce sync.Once
	dead     chan struct{} // closed once cause is set
	cause    error         // read after dead is closed
}

// newLink returns the link that a negotiation has led to, of which early is what came
// with its last words; without encryption secure is nil.
func newLink(s *Session, raw net.Conn, secure *tlsconn.Conn, dir wire.Direction, early []byte) *link {
	l := &link{s: s, raw: raw, tls: secure, stream: secure, dir: dir, born: time.Now(), turn: newTurn(), dead: make(chan struct{})}
	l.life.Store(l.born.UnixNano())
	if secure == nil {
		l.stream = raw
	}
	if f, ok := raw.(FrameConn); ok && s.welcome.Bulk != nil && f.SetBulk(*s.welcome.Bulk) == nil {
		l.beside = f
	}
	if s.welcome.Compress {
		l.parser, l.packer = wire.NewInflatingParser(early), wire.NewPacker()
	} else {
		l.parser = wire.NewParser(early)
	}
	return l
}

func (l *link) sends() bool    { return l.dir != wire.InboundOnly }
func (l *link) receives() bool { return l.dir != wire.OutboundOnly }
func (l *link) retiring() bool { return l.retireBy.Load() != 0 }

// run reads from l and keeps it alive until ctx ends, l dies or dst fails. That l dies
// is no error: what follows is the session's business.
func (l *link) run(ctx context.Context, dst frame.Writer) error {
	var others sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	if l.sends() {
		others.Go(func() { l.keepAlive(ctx) })
	}
	var failed error
	if l.beside != nil {
		others.Go(func() {
			if failed = l.receiveBeside(ctx, dst); failed != nil {
				cancel()
				l.raw.SetReadDeadline(time.Unix(1, 0))
			}
		})
	}
	err := l.receive(ctx, dst)
	cancel()
	others.Wait()
	if failed != nil {
		return failed
	}
	return err
}

// receiveBeside takes the frames that come beside the stream. An error is dst's.
func (l *link) receiveBeside(ctx context.Context, dst frame.Writer) error {
	err := l.beside.RunFrames(ctx, func(f []byte) error {
		c := &l.s.stats
		if len(f) < frame.HeaderLen || len(f) > frame.MaxLen {
			c.inDropped.Add(1)
			return nil
		}
		c.inFrames.Add(1)
		c.inBytes.Add(uint64(len(f)))
		l.one[0] = f
		return l.deliver(l.one[:], dst)
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// receive is the inbound loop. Each sign of life moves the read deadline. Where the
// server may not send it waits for the end alone.
func (l *link) receive(ctx context.Context, dst frame.Writer) error {
	lastLife := time.Now()
	armed := time.Time{}
	for {
		// Moving the deadline costs a timer operation: once a second is enough.
		if lastLife.Sub(armed) >= time.Second || armed.IsZero() {
			l.raw.SetReadDeadline(l.deadline(lastLife))
			l.life.Store(lastLife.UnixNano())
			armed = lastLife
		}
		if ctx.Err() != nil { // after setting the deadline: else it could undo the one that stops us
			return ctx.Err()
		}
		frames, alive, err := l.parser.Next(l.stream)
		if alive {
			lastLife = time.Now()
			l.countIn()
		}
		if len(frames) > 0 {
			if err := l.deliver(frames, dst); err != nil {
				return err
			}
		}
		if err != nil {
			if ctx.Err() != nil && errors.Is(err, errTimeout) {
				return ctx.Err()
			}
			l.failInbound(err)
			return nil
		}
	}
}

// deadline is when a server is dead that last showed life then.
func (l *link) deadline(lastLife time.Time) time.Time {
	switch {
	case l.retiring():
		return time.Unix(0, l.retireBy.Load())
	case !l.receives():
		return time.Time{}
	}
	return lastLife.Add(l.s.welcome.Timeout)
}

func (l *link) deliver(frames [][]byte, dst frame.Writer) error {
	if !l.receives() {
		l.s.stats.inMisdirected.Add(uint64(len(frames)))
		return nil
	}
	l.s.stats.inBatches.Add(1)
	return dst.WriteFrames(frames)
}

// countIn adds what the parser has seen since the last time.
func (l *link) countIn() {
	now, c := l.parser.Stats(), &l.s.stats
	c.inFrames.Add(now.Frames - l.counted.Frames)
	c.inBytes.Add(now.Bytes - l.counted.Bytes)
	if n := now.KeepAlives - l.counted.KeepAlives; n > 0 {
		c.inKeepAlives.Add(n)
	}
	if n := now.Runts + now.Giants + now.Corrupt - l.counted.Runts - l.counted.Giants - l.counted.Corrupt; n > 0 {
		c.inDropped.Add(n)
	}
	l.counted = now
}

// failInbound ends the link for what the reader met, unless a write under way meets
// something too: the kernel reports a reset only once, and if the writer hears it, the
// reader sees a plain end.
func (l *link) failInbound(err error) {
	wait := time.NewTimer(100 * time.Millisecond)
	defer wait.Stop()
	select {
	case l.turn <- struct{}{}: // nobody writes any more
		defer l.turn.give()
	case <-l.dead:
	case <-wait.C:
	}
	l.fail(endOf(err, l.s.welcome.Timeout))
}

// errRetired sends a writer to another link.
var errRetired = errors.New("the connection is being replaced")

// fail records the first cause of death, releases everything that waits on the link,
// takes it out of the session, and returns that first cause.
func (l *link) fail(cause error) error {
	l.failOnce.Do(func() {
		l.cause = cause
		close(l.dead)
		l.s.remove(l)
		l.hangUp(failGrace)
	})
	<-l.dead
	return l.cause
}

func (l *link) err() error {
	select {
	case <-l.dead:
		return l.cause
	default:
		return nil
	}
}

// retire lets the server hang up: nothing is sent any more, and what still comes is
// carried until the end of the stream.
func (l *link) retire() {
	by := time.Now().Add(retireGrace)
	if !l.retireBy.CompareAndSwap(0, by.UnixNano()) {
		return
	}
	l.s.remove(l)
	l.s.setWriteDeadline(l, by) // for one who writes now
	l.turn.take()
	defer l.turn.give()
	if l.closeWrite() != nil {
		l.fail(errRetired)
		return
	}
	l.raw.SetReadDeadline(by)
}

// closeWrite ends the outbound stream in good order.
func (l *link) closeWrite() error {
	if l.tls != nil {
		return l.tls.CloseWrite()
	}
	if half, ok := l.raw.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// close ends both directions in good order, within closeGrace.
func (l *link) close() (err error) {
	l.failOnce.Do(func() {
		err = l.hangUp(closeGrace)
		l.cause = net.ErrClosed
		close(l.dead)
	})
	return err
}

// hangUp closes the connection with TLS's notice, if that goes out in time. Without it
// a common server version would close the session's other connections too; see heal.
func (l *link) hangUp(grace time.Duration) error {
	if l.tls == nil || grace == failGrace && l.writing.Load() { // the notice would wait for the write
		return l.raw.Close()
	}
	// crypto/tls gives its notice 5 s, too long for somebody who wants to leave.
	cut := time.AfterFunc(grace, func() { l.raw.Close() })
	defer cut.Stop()
	return l.tls.Close()
}
