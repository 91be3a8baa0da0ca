package proxy

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

// A relay carries bytes both ways between a client and its target. It owns both
// connections, which have no deadlines set when it begins.
type relay struct {
	client, target net.Conn
	early          []byte // what the client sent ahead; goes first
	srv            *server

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

// run carries until both directions have ended, one has failed, or ctx ends. Both
// connections are closed when it returns; its error is the first failure.
func (r *relay) run(ctx context.Context) error {
	unwatch := context.AfterFunc(ctx, r.abort)
	out := &flow{dst: r.target, src: r.client, count: &r.srv.counters.outbound}
	in := &flow{dst: r.client, src: r.target, count: &r.srv.counters.inbound}
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
			reset(f.dst)
		}
	}
	return err
}

// abort cuts both connections off.
func (r *relay) abort() {
	r.abortOnce.Do(func() {
		reset(r.client)
		reset(r.target)
	})
}

// carry moves one direction to its end and lets the other know.
func (r *relay) carry(f *flow) error {
	err := r.move(f)
	if err == nil {
		f.whole = true
		f.back.last.Store(true) // before the deadline, which is renewed only then
		if f.last.Load() {
			return nil // run closes both at once
		}
		_ = f.back.src.SetReadDeadline(time.Now().Add(r.srv.HalfCloseTimeout))
		closeWrite(f.dst)
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
func (r *relay) move(f *flow) error {
	if f.src == r.client && len(r.early) > 0 {
		n, err := f.dst.Write(r.early)
		f.count.Add(uint64(n))
		r.early = nil // not kept for the life of the relay
		if err != nil {
			return err
		}
	}
	for {
		n, err := r.srv.buffers.copy(f)
		if err == nil || errors.Is(err, io.EOF) {
			return nil
		}
		if n == 0 || !f.last.Load() || !isTimeout(err) {
			return err
		}
		if err := f.src.SetReadDeadline(time.Now().Add(r.srv.HalfCloseTimeout)); err != nil {
			return err
		}
	}
}

// closeWrite passes on that no more will come. A connection that cannot be closed
// by halves is closed, so that its peer knows at all.
func closeWrite(c net.Conn) {
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		_ = hc.CloseWrite() // an error shows in the other direction too
		return
	}
	c.Close()
}

// reset closes c so that its peer sees a failure, not an end, where c can do that.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	c.Close()
}
