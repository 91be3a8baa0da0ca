package hub

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"softether-go/pkg/pack"
	"softether-go/pkg/wire"
)

// A Step is a moment in a connection's life at which a fault can strike.
type Step int

const (
	BeforeTLS     Step = iota + 1 // a client has connected
	BeforeHello                   // it has sent the signature
	BeforeWelcome                 // it has asked for a session, or to join one
	InData                        // what is sent is units
)

// A Kind is what a fault does.
type Kind int

const (
	Reset   Kind = iota + 1 // cut the connection with a TCP reset
	Cut                     // end the stream without the notice of TLS
	HangUp                  // end the connection in good order
	Stall                   // neither read nor write for Pause, or for good; close nothing
	Delay                   // wait for Pause, then go on
	Refuse                  // answer with Code and hang up; not in InData
	Say                     // send Bytes, Count times, zero meaning without end; then go on
	Fill                    // send Count filler packs; not in InData
	Alter                   // let Change have the pack that is about to be sent
	Flip                    // invert the bits of the next byte; only in InData
	Trickle                 // from now on send single bytes, Pause apart; only in InData
)

// A Fault is something that the hub does wrong on purpose. It strikes each
// connection once, when that comes to the fault's step.
type Fault struct {
	Step  Step
	Kind  Kind
	After int64 // InData: strike after so many bytes were sent, be it in mid-unit

	Code   wire.Code
	Bytes  []byte
	Count  int
	Pause  time.Duration
	Change func(*pack.Pack)

	Times int // strike so many connections at most; 0 means all

	strikes atomic.Int64
}

// Strikes returns how often f has struck.
func (f *Fault) Strikes() int { return int(f.strikes.Load()) }

// begin counts a strike; it is false when there were enough.
func (f *Fault) begin() bool {
	for {
		n := f.strikes.Load()
		if f.Times > 0 && n >= int64(f.Times) {
			return false
		}
		if f.strikes.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// LongBlock is a unit with a block longer than the protocol allows.
func LongBlock() []byte {
	b := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 1}, wire.MaxBlock+1)
	return append(b, make([]byte, wire.MaxBlock+1)...)
}

// LongKeepAlive is a keep-alive longer than the protocol allows.
func LongKeepAlive() []byte {
	b := binary.BigEndian.AppendUint32([]byte{0xff, 0xff, 0xff, 0xff}, wire.MaxKeepAlive+1)
	return append(b, make([]byte, wire.MaxKeepAlive+1)...)
}

// faultList is what a connection looks at before each write, so without a lock.
type faultList struct {
	mu   sync.Mutex // held while the list is replaced
	list atomic.Pointer[[]*Fault]
}

func (l *faultList) load() []*Fault {
	if p := l.list.Load(); p != nil {
		return *p
	}
	return nil
}

func (l *faultList) replace(f func([]*Fault) []*Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := f(slices.Clone(l.load()))
	l.list.Store(&next)
}

// Inject makes the hub commit f from now on, also on connections that are already
// past the point where f strikes. lift ends that; what f has begun goes on, but a
// stall ends.
func (h *Hub) Inject(f *Fault) (lift func()) {
	h.faults.replace(func(l []*Fault) []*Fault { return append(l, f) })
	h.eachConn(func(c *conn) {
		select {
		case c.poke <- struct{}{}:
		default:
		}
	})
	return func() {
		h.faults.replace(func(l []*Fault) []*Fault {
			return slices.DeleteFunc(l, func(g *Fault) bool { return g == f })
		})
		h.eachConn(func(c *conn) { c.stalled.Load().end(f) })
	}
}

func (h *Hub) eachConn(do func(*conn)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sessions {
		for c := range s.conns {
			do(c)
		}
	}
}

var errFault = errors.New("a fault was injected")

// strike commits the faults of a step of the negotiation. An error means that the
// connection is to end.
func (c *conn) strike(at Step) error {
	for _, f := range c.h.faults.load() {
		if f.Step != at || f.Kind == Alter || !f.begin() {
			continue
		}
		if err := c.commit(f); err != nil {
			return err
		}
	}
	return nil
}

// altered lets the faults of a step change p.
func (c *conn) altered(at Step, p *pack.Pack) *pack.Pack {
	for _, f := range c.h.faults.load() {
		if f.Step == at && f.Kind == Alter && f.begin() {
			f.Change(p)
		}
	}
	return p
}

// commit does what f says. An error means that the connection is to end.
func (c *conn) commit(f *Fault) error {
	switch f.Kind {
	case Reset:
		if tcp, ok := c.raw.(interface{ SetLinger(int) error }); ok {
			tcp.SetLinger(0)
		}
		c.raw.Close()
		return errFault
	case Cut:
		c.mute.Store(true)
		return errFault
	case HangUp:
		return errFault
	case Stall:
		s := &stall{fault: f, over: make(chan struct{})}
		c.stalled.Store(s)
		s.wait(c.ctx)
		return c.ctx.Err()
	case Delay:
		pause(c.ctx, f.Pause)
		return c.ctx.Err()
	case Refuse:
		return c.refuse(f.Code, errFault)
	case Say:
		return c.say(f)
	case Fill:
		for range f.Count {
			if err := wire.WriteReply(c, wire.Filler()); err != nil {
				return err
			}
		}
	case Trickle:
		c.trickle = f
	}
	return nil
}

func (c *conn) say(f *Fault) error {
	write := c.write
	if f.Step == BeforeTLS {
		write = func(b []byte) error { _, err := c.raw.Write(b); return err }
	}
	for n := 0; f.Count == 0 || n < f.Count; n++ {
		c.raw.SetWriteDeadline(time.Now().Add(stepTimeout))
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		if err := write(f.Bytes); err != nil {
			return err
		}
	}
	return nil
}

// sendFaulty writes b in the data phase, interrupted by the faults that strike
// within it.
func (c *conn) sendFaulty(b []byte, faults []*Fault) error {
	for {
		f := c.next(faults, c.sent+int64(len(b)))
		if f == nil {
			return c.sendPart(b)
		}
		n := max(0, f.After-c.sent)
		if err := c.sendPart(b[:n]); err != nil {
			return err
		}
		b = b[n:]
		if f.Kind == Flip {
			if len(b) == 0 {
				return nil // there is no next byte yet
			}
			c.hit[f] = true
			if f.begin() {
				if err := c.sendPart([]byte{^b[0]}); err != nil {
					return err
				}
				b = b[1:]
			}
			continue
		}
		c.hit[f] = true
		if f.begin() {
			if err := c.commit(f); err != nil {
				return err
			}
		}
	}
}

// next returns the first fault that strikes before so many bytes have been sent.
func (c *conn) next(faults []*Fault, before int64) (first *Fault) {
	for _, f := range faults {
		if f.Step == InData && f.Kind != Alter && !c.hit[f] && f.After <= before &&
			(first == nil || f.After < first.After) {
			first = f
		}
	}
	return first
}

// sendPart writes b, byte by byte if it has come to that.
func (c *conn) sendPart(b []byte) error {
	c.sent += int64(len(b))
	if c.trickle == nil {
		return c.write(b)
	}
	for i := range b {
		if c.trickle.Pause > 0 && !pause(c.ctx, c.trickle.Pause) {
			return c.ctx.Err()
		}
		if err := c.write(b[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// A stall holds up both directions of a connection.
type stall struct {
	fault *Fault
	once  sync.Once
	over  chan struct{} // closed when the fault is lifted
}

// wait returns when the stall is over or ctx has ended; at once without a stall.
func (s *stall) wait(ctx context.Context) {
	if s == nil {
		return
	}
	var timer <-chan time.Time
	if s.fault.Pause > 0 {
		t := time.NewTimer(s.fault.Pause)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
	case <-s.over:
	case <-timer:
		s.end(s.fault)
	}
}

func (s *stall) end(f *Fault) {
	if s != nil && s.fault == f {
		s.once.Do(func() { close(s.over) })
	}
}
