// Package share lets several networks use one session, each with a MAC address and
// a lease of its own.
//
// # Theory of operation
//
// A Switch is the learning switch of package hub, with the session at one of its ports
// and a member, such as the TAP in a command's namespace, at each of the others. Frames
// between members never leave the machine.
//
//	session ──► Uplink ──► switch ──► dhcp.Filter ──► member's endpoint
//	session ◄── Uplink ◄── switch ◄────────────────── member's endpoint
//
// The session carries frames of many stations, so it asks for bridge mode and for no
// address. Each member leads the life of a lease: it asks when there is a session, asks
// again in every new session, as a hub may drop frames from addresses that it did not see
// leased in it, and gives the address back at its end, while the session still carries
// that. When a session is lost the members keep their addresses; what they send to
// others than each other is dropped meanwhile.
//
// # Limits
//
// Those of package hub: a member whose frames nobody takes loses them when 2 MiB wait.
// A hub's policy may allow a session few stations; Stations tells how many.
package share

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/dhcp"
	"softether-go/pkg/frame"
	"softether-go/pkg/hub"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/wire"
)

const (
	// leaseTimeout bounds one search for an address, as in package client.
	leaseTimeout = 30 * time.Second
	// leasePause is the wait after a search that failed.
	leasePause = 5 * time.Second
	// releaseTime bounds giving an address back.
	releaseTime = time.Second
)

// A Configurer gives a member's network its configuration; see client.Configurer.
type Configurer interface {
	Apply(context.Context, netcfg.Config) error
}

// A Member is one of the networks.
type Member struct {
	Endpoint   frame.Endpoint
	Configurer Configurer
	DHCP       *dhcp.Config // nil means that Static is used as it is
	Static     netcfg.Config
	Adjust     func(netcfg.Config) netcfg.Config // changes what a lease says; may be nil
}

// A Switch joins members and a session. Its methods may be called at once.
type Switch struct {
	hub *hub.Hub
	log *slog.Logger

	session atomic.Pointer[frame.Writer] // nil while there is none
	lan     atomic.Pointer[frame.Writer] // nil before Run

	mu      sync.Mutex    // guards changed
	changed chan struct{} // closed and replaced when a session comes or goes
}

// New makes a switch. A nil log discards.
func New(log *slog.Logger) (*Switch, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h, err := hub.New(hub.Config{})
	if err != nil {
		return nil, fmt.Errorf("share: %w", err)
	}
	return &Switch{hub: h, log: log, changed: make(chan struct{})}, nil
}

// Run joins the uplink to the switch until ctx ends.
func (s *Switch) Run(ctx context.Context) error { return s.hub.Plug(ctx, port{s}) }

// Close ends Run and every Serve, and waits for them.
func (s *Switch) Close() error { return s.hub.Close() }

// Uplink is the end for the session. It never blocks the session's reader.
func (s *Switch) Uplink() frame.Endpoint { return uplink{s} }

// uplink is the switch as the session sees it.
type uplink struct{ s *Switch }

func (u uplink) WriteFrames(frames [][]byte) error { return pass(&u.s.lan, frames) }

// Run makes dst, a session, the way out of the switch until ctx ends.
func (u uplink) Run(ctx context.Context, dst frame.Writer) error {
	u.s.session.Store(&dst)
	u.s.tell()
	<-ctx.Done()
	u.s.session.Store(nil)
	u.s.tell()
	return ctx.Err()
}

// port is the session as the switch sees it.
type port struct{ s *Switch }

// WriteFrames sends by the session. That this may fail is the session's affair: it
// ends then, and another one comes.
func (p port) WriteFrames(frames [][]byte) error {
	_ = pass(&p.s.session, frames)
	return nil
}

func (p port) Run(ctx context.Context, dst frame.Writer) error {
	p.s.lan.Store(&dst)
	<-ctx.Done()
	p.s.lan.Store(nil)
	return ctx.Err()
}

// pass writes to where there is somebody, else nowhere.
func pass(to *atomic.Pointer[frame.Writer], frames [][]byte) error {
	w := to.Load()
	if w == nil {
		return nil
	}
	return (*w).WriteFrames(frames)
}

// tell tells all that wait that a session came or went.
func (s *Switch) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// present reports whether there is a session, and returns what is closed when that
// changes.
func (s *Switch) present() (up bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session.Load() != nil, s.changed
}

// Serve carries a member's frames and keeps its lease, until ctx ends, which it reports
// as ctx.Err(), or the member's endpoint or Configurer fails. It gives the address back,
// but takes no configuration away: the member ends.
func (s *Switch) Serve(ctx context.Context, m Member) error {
	v := &serving{s: s, m: m}
	v.inbound = m.Endpoint
	if m.DHCP != nil {
		v.dhcp = dhcp.New(*m.DHCP)
		v.inbound = v.dhcp.Filter(m.Endpoint)
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, life := errgroup.WithContext(life)
	g.Go(func() error { return s.hub.Plug(life, v) })
	g.Go(func() error {
		work, cancel := context.WithCancelCause(life)
		defer cancel(nil)
		stop := context.AfterFunc(ctx, func() { cancel(ctx.Err()) })
		defer stop()
		err := v.live(work)
		if ctx.Err() != nil && life.Err() == nil {
			v.release(life)
			return ctx.Err()
		}
		return err
	})
	return g.Wait()
}

// serving is a member at the switch: its endpoint, with its lease's messages taken out.
type serving struct {
	s       *Switch
	m       Member
	dhcp    *dhcp.Client // nil with a static address
	inbound frame.Writer
	out     atomic.Pointer[frame.Writer] // into the switch; nil before it is plugged in
}

func (v *serving) WriteFrames(frames [][]byte) error { return v.inbound.WriteFrames(frames) }

func (v *serving) Run(ctx context.Context, dst frame.Writer) error {
	v.out.Store(&dst)
	return v.m.Endpoint.Run(ctx, dst)
}

// send is the way of the lease's messages.
func (v *serving) send(frames [][]byte) error { return pass(&v.out, frames) }

// live configures the member in each session, until ctx ends or that fails.
func (v *serving) live(ctx context.Context) error {
	for {
		var again <-chan time.Time
		up, changed := v.s.present()
		if up {
			if err := v.inSession(ctx, changed); err != nil {
				return err
			}
			again = time.After(leasePause) // if that was not the session's end
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-again:
		}
	}
}

// inSession keeps a lease until the session ends, which is no error.
func (v *serving) inSession(ctx context.Context, ended <-chan struct{}) error {
	session, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	defer func() { <-done }()
	defer cancel(nil)
	go func() {
		defer close(done)
		select {
		case <-ended:
			cancel(context.Canceled)
		case <-session.Done():
		}
	}()
	err := v.configure(session)
	if err == nil && v.dhcp != nil {
		err = v.keep(session)
	} else if err == nil {
		<-session.Done()
	}
	var f failed
	switch {
	case errors.As(err, &f):
		return f.error
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return nil
}

// failed marks what is no fault of the network.
type failed struct{ error }

// configure gets an address and applies it, however long that takes.
func (v *serving) configure(ctx context.Context) error {
	if v.dhcp == nil {
		return v.apply(ctx, v.m.Static)
	}
	for {
		asking, cancel := context.WithTimeout(ctx, leaseTimeout)
		lease, err := v.dhcp.Acquire(asking, frame.WriterFunc(v.send))
		cancel()
		if err == nil {
			return v.applyLease(ctx, lease)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.s.log.Warn("no address", "cause", err, "retry_in", leasePause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(leasePause):
		}
	}
}

func (v *serving) applyLease(ctx context.Context, l dhcp.Lease) error {
	c := l.Config
	if v.m.Adjust != nil {
		c = v.m.Adjust(c)
	}
	return v.apply(ctx, c)
}

func (v *serving) apply(ctx context.Context, c netcfg.Config) error {
	err := v.m.Configurer.Apply(ctx, c)
	if err != nil && ctx.Err() == nil {
		return failed{fmt.Errorf("apply the address %v: %w", c.Address, err)}
	}
	return err
}

// keep renews the lease, and asks for another when it is lost.
func (v *serving) keep(ctx context.Context) error {
	for {
		err := v.keepLease(ctx)
		if !errors.Is(err, dhcp.ErrExpired) && !errors.Is(err, dhcp.ErrRevoked) && !errors.Is(err, dhcp.ErrConflict) {
			return err
		}
		v.s.log.Warn("address lost", "cause", err)
		if err := v.apply(ctx, netcfg.Config{}); err != nil {
			return err
		}
		if err := v.configure(ctx); err != nil {
			return err
		}
	}
}

// keepLease renews one lease. What cannot be applied ends it.
func (v *serving) keepLease(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := v.dhcp.Keep(ctx, frame.WriterFunc(v.send), func(l dhcp.Lease) {
		if err := v.applyLease(ctx, l); err != nil {
			cancel(err)
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// release gives the address back, if there is one.
func (v *serving) release(ctx context.Context) {
	if v.dhcp == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	if err := v.dhcp.Release(ctx, frame.WriterFunc(v.send)); err != nil {
		v.s.log.Debug("lease not released", "cause", err)
	}
}

// Stations returns how many members a policy lets a session in bridge mode have, and the
// item that says so; 0 means any number. The hub drops frames of further ones without
// notice. (Cedar/Hub.c, StorePacket; Cedar/Cedar.h, MAC_MIN_LIMIT_COUNT and
// IP_MIN_LIMIT_COUNT)
func Stations(p wire.Policy) (n int, item string) {
	limit := func(to uint32, by string) {
		if n == 0 || int(to) < n {
			n, item = int(to), by
		}
	}
	if p.Value("NoBridge") != 0 {
		limit(3, "NoBridge")
	}
	if m := p.Value("MaxMac"); m != 0 {
		limit(max(m, 3), "MaxMac")
	}
	if p.Value("NoRouting") != 0 {
		limit(4, "NoRouting")
	}
	if m := p.Value("MaxIP"); m != 0 {
		limit(max(m, 4), "MaxIP")
	}
	return n, item
}
