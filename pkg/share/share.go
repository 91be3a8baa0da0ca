// Package share lets several networks use one session, each with a MAC address and
// a lease of its own.
//
// # Theory of operation
//
// A Switch is the learning switch of package hub, with the session at one of its ports
// and a member, such as the TAP in a command's namespace, at each of the others. Frames
// between members never leave the machine.
//
//	session ──► Uplink ──► switch ──► addresses.Filter ──► member's endpoint
//	session ◄── Uplink ◄── switch ◄─────────────────────── member's endpoint
//
// The session carries frames of many stations, so it asks for bridge mode and for no
// address. Each member has an addresses.Keeper: it asks when there is a session, asks
// again in every new session, and gives the addresses back at its end, while the session
// still carries that. When a session is lost the members keep their addresses; what they send to
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

	"softether-go/pkg/addresses"
	"softether-go/pkg/frame"
	"softether-go/pkg/hub"
	"softether-go/pkg/wire"
)

const (
	// leasePause is the wait after a search that failed.
	leasePause = 5 * time.Second
	// releaseTime bounds giving an address back.
	releaseTime = time.Second
)

// A Member is one of the networks.
type Member struct {
	Endpoint   frame.Endpoint
	Configurer addresses.Configurer
	addresses.Config
	Ready func()       // called in each session once the member has an address; may be nil
	Log   *slog.Logger // of its addresses; nil means the Switch's
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

// Serve carries a member's frames and keeps its addresses, until ctx ends, which it reports
// as ctx.Err(), or the member's endpoint or Configurer fails. It gives the addresses back,
// but takes no configuration away: the member ends.
func (s *Switch) Serve(ctx context.Context, m Member) error {
	if m.Log == nil {
		m.Log = s.log
	}
	v := &serving{s: s, m: m, keeper: addresses.New(m.Config, m.Configurer, m.Log)}
	v.inbound = v.keeper.Filter(m.Endpoint)
	v.keeper.Yield() // the endpoint always sends
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

// serving is a member at the switch: its endpoint, with its leases' messages taken out.
type serving struct {
	s       *Switch
	m       Member
	keeper  *addresses.Keeper
	inbound frame.Writer
	out     atomic.Pointer[frame.Writer] // into the switch; nil before it is plugged in
}

func (v *serving) WriteFrames(frames [][]byte) error { return v.inbound.WriteFrames(frames) }

func (v *serving) Run(ctx context.Context, dst frame.Writer) error {
	v.out.Store(&dst)
	return v.m.Endpoint.Run(ctx, dst)
}

// send is the way of the leases' messages.
func (v *serving) send(frames [][]byte) error { return pass(&v.out, frames) }

// live keeps the member's addresses in each session, until ctx ends or they cannot be
// applied.
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

// inSession keeps the member's addresses until the session ends, which is no error.
func (v *serving) inSession(ctx context.Context, ended <-chan struct{}) error {
	session, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		select {
		case <-ended:
			cancel()
		case <-session.Done():
		}
	})
	err := v.keeper.Lead(session, addresses.Session{Out: frame.WriterFunc(v.send), Ready: v.m.Ready})
	switch f := (addresses.Failed{}); {
	case errors.As(err, &f):
		return f
	case ctx.Err() != nil:
		return ctx.Err()
	case session.Err() == nil:
		v.m.Log.Warn("no address", "cause", err, "retry_in", leasePause)
	}
	return nil
}

// release gives the addresses back.
func (v *serving) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	v.keeper.Release(ctx, frame.WriterFunc(v.send))
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
