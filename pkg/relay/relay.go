// Package relay carries bytes both ways between two connections until both directions
// have ended.
//
// # Theory of operation
//
// Each direction is a goroutine that copies: by whichever side knows a better way than
// reading and writing, which is the stack in the tunnel, or else through buffers. While
// little comes a direction has a small one of its own; only as long as each read fills
// what it was given, it has a large one on loan.
//
// When one direction has ended, its end is passed on by halves, and from then on
// the other may be silent for a limited time. A failed read ends both. A failed write
// leaves the other direction a moment to deliver what has arrived.
//
// # Errors
//
// Whoever did not get all there was to get sees a reset, not an end, where a connection
// can do that. A read's error is to be a *net.OpError with Op "read", or it is taken
// for that of a write.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// failedDrain is how long the other direction may still deliver what has arrived
// when one has failed to write: a server that answers early and closes, while the
// client still sends, has its answer delivered.
const failedDrain = time.Second

// A Relay carries bytes both ways between a client and its target. It owns both
// connections, which have no deadlines set when it begins. Everything but Early is
// required.
//
// A connection's CloseWrite method, if it has one, passes on the end of the other's
// data; SetLinger(0), if it has one, makes Close a reset; WriteTo and ReadFrom, if it
// has them, carry the data. They return on a read deadline like Read does, having
// delivered every byte taken, and may be continued after.
type Relay struct {
	Client, Target    net.Conn
	Early             []byte         // what the client sent ahead; goes first
	Outbound, Inbound *atomic.Uint64 // where bytes from and to the client are counted
	HalfClose         time.Duration  // silence allowed in the last direction
	Buffers           *Buffers       // what directions borrow from

	abortOnce sync.Once
}

// A flow is one direction of a relay.
type flow struct {
	dst, src net.Conn
	count    *atomic.Uint64
	back     *flow       // the other direction
	last     atomic.Bool // back has ended cleanly: silence is limited from now on
	whole    bool        // ended with src's EOF passed on; read when both have ended
}

// Run carries until both directions have ended, one has failed, or ctx ends. Both
// connections are closed when it returns; its error is the first failure.
func (r *Relay) Run(ctx context.Context) error {
	unwatch := context.AfterFunc(ctx, r.abort)
	out := &flow{dst: r.Target, src: r.Client, count: r.Outbound}
	in := &flow{dst: r.Client, src: r.Target, count: r.Inbound}
	out.back, in.back = in, out

	outErr := make(chan error, 1)
	go func() { outErr <- r.carry(out) }()
	err := r.carry(in)
	err = errors.Join(<-outErr, err)

	if !unwatch() {
		r.abort() // waits for the one under way
		return context.Cause(ctx)
	}
	// Whoever did not get all there was to get must not take it for all.
	for _, f := range []*flow{out, in} {
		if f.whole {
			f.dst.Close()
		} else {
			Reset(f.dst)
		}
	}
	return err
}

// abort cuts both connections off.
func (r *Relay) abort() {
	r.abortOnce.Do(func() {
		Reset(r.Client)
		Reset(r.Target)
	})
}

// carry moves one direction to its end and lets the other know.
func (r *Relay) carry(f *flow) error {
	err := r.move(f)
	if err == nil {
		f.whole = true
		f.back.last.Store(true) // before the deadline, which is renewed only then
		if f.last.Load() {
			return nil // Run closes both at once
		}
		_ = f.back.src.SetReadDeadline(time.Now().Add(r.HalfClose))
		CloseWrite(f.dst)
		return nil
	}
	if oe, ok := errors.AsType[*net.OpError](err); ok && oe.Op == "read" {
		r.abort() // the source is gone, so nothing can be delivered to it
		return err
	}
	_ = f.back.src.SetReadDeadline(time.Now().Add(failedDrain))
	return err
}

// move copies until src ends. A read deadline that passes is one of the limits
// for the last direction, and is renewed as long as there is progress.
func (r *Relay) move(f *flow) error {
	if f.src == r.Client && len(r.Early) > 0 {
		n, err := f.dst.Write(r.Early)
		f.count.Add(uint64(n))
		r.Early = nil // not kept for the life of the relay
		if err != nil {
			return err
		}
	}
	for {
		n, err := r.Buffers.copy(f)
		if err == nil || errors.Is(err, io.EOF) {
			return nil
		}
		if n == 0 || !f.last.Load() || !isTimeout(err) {
			return err
		}
		if err := f.src.SetReadDeadline(time.Now().Add(r.HalfClose)); err != nil {
			return err
		}
	}
}

// CloseWrite passes on that no more will come. A connection that cannot be closed
// by halves is closed, so that its peer knows at all.
func CloseWrite(c net.Conn) {
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		_ = hc.CloseWrite() // an error shows in the other direction too
		return
	}
	c.Close()
}

// Reset closes c so that its peer sees a failure, not an end, where c can do that.
func Reset(c net.Conn) {
	for { // whatever goes inside it, such as TLS
		outer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = outer.NetConn()
	}
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	c.Close()
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
