package vpn

import (
	"context"
	"net"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/addresses"
	"softether-go/pkg/client"
	"softether-go/pkg/fairqueue"
	"softether-go/pkg/frame"
	"softether-go/pkg/health"
	"softether-go/pkg/stats"
	"softether-go/pkg/underlay"
)

// An End is the near end of the virtual cable. It outlives sessions, and who opened it
// closes it. Besides, it may be a Protector, a Watcher and Queued.
type End interface {
	frame.Endpoint
	addresses.Configurer

	// MAC returns the address that the hub knows this end by.
	MAC() net.HardwareAddr
}

// A Protector keeps the way to the server beside the tunnel. It is told before each
// connection, and an error ends the attempt.
type Protector interface {
	Protect(ctx context.Context, servers []netip.Addr) error
}

// A Watcher follows what happens around an End until ctx ends. An error ends the Line.
type Watcher interface {
	Watch(ctx context.Context) error
}

// Queued is an End that has a fair queue of its own before the tunnel.
type Queued interface {
	HasQueue()
}

// A Line is the life of a VPN on an End.
type Line struct {
	way     *underlay.Dialer // beside the tunnel
	client  *client.Client
	health  *health.Monitor     // before the client
	carrier *batches            // between end and health
	queue   *fairqueue.Endpoint // of what the end sends; nil if it has its own
	watch   func(context.Context) error
	up      chan struct{} // closed when the tunnel is up for the first time
}

// New assembles a Line. Nothing is sent before Run.
func New(cfg Config, end End) *Line {
	known := cfg.MAC != nil
	cfg = cfg.withDefaults()
	return assemble(cfg, end, cfg.Plan(end.MAC(), known, cfg.Log))
}

// assemble is New for an End that gets its addresses by plan.
func assemble(cfg Config, end End, plan addresses.Config) *Line {
	l := &Line{way: cfg.Way, up: make(chan struct{})}
	if p, ok := end.(Protector); ok {
		l.way.Protect = p.Protect
	}
	if w, ok := end.(Watcher); ok {
		l.watch = w.Watch
	}
	l.carrier = &batches{Endpoint: end}
	if _, own := end.(Queued); !own {
		l.queue = fairqueue.New(end, l.way)
		l.carrier.Endpoint = l.queue
	}
	cc := cfg.client(plan)
	l.health = health.New(health.Config{Endpoint: l.carrier, Configurer: end, MAC: end.MAC(), Target: cfg.Probe, Log: cfg.Log})
	cc.Endpoint, cc.Configurer, cc.OnState = l.health, l.health, l.noteState(cfg.OnState)
	l.client = client.New(cc)
	l.way.Beside = l.client.ByUDP
	return l
}

// Run keeps the VPN up until ctx ends, which it reports as ctx.Err(), or something fails
// that no retry can mend. It is called once.
func (l *Line) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.client.Run(ctx) })
	g.Go(func() error { return l.way.Watch(ctx) })
	if l.watch != nil {
		g.Go(func() error { return l.watch(ctx) })
	}
	return g.Wait()
}

// State returns where the VPN is in its life.
func (l *Line) State() client.State { return l.client.State() }

// Up is closed when the tunnel is up for the first time.
func (l *Line) Up() <-chan struct{} { return l.up }

// Health asks through the tunnel whether it works, whenever it is asked.
func (l *Line) Health() *health.Monitor { return l.health }

// phases are the client's states as health sees them.
var phases = map[client.State]health.Phase{
	client.Dialing: health.Connecting, client.Configuring: health.Connecting,
	client.Up: health.Up, client.Waiting: health.Waiting,
}

// Enter tells a monitor that is not a Line's of a client's state.
func Enter(m *health.Monitor, s client.State) {
	if phase, ok := phases[s]; ok {
		m.Enter(phase)
	}
}

// noteState closes l.up at the first time. The client calls it from one goroutine.
func (l *Line) noteState(tell func(client.State)) func(client.State) {
	first := true
	return func(s client.State) {
		Enter(l.health, s)
		if s == client.Up && first {
			first = false
			close(l.up)
		}
		if tell != nil {
			tell(s)
		}
	}
}

// Counters returns what has been counted between the server and the End.
func (l *Line) Counters() []stats.Section {
	all := []stats.Section{
		{Name: "session", Counts: l.client.Stats()},
		{Name: "udp", Counts: l.client.UDP()},
		{Name: "health", Counts: l.health.Stats()},
		{Name: "batches", Counts: l.carrier.counts()},
	}
	if n, has := l.client.DHCP(); has {
		all = append(all, stats.Section{Name: "dhcp", Counts: n})
	}
	if n, has := l.client.IPv6(); has {
		all = append(all, stats.Section{Name: "autoconf", Counts: n})
	}
	if n := l.way.RUDP(); n.Sent > 0 {
		all = append(all, stats.Section{Name: "rudp", Counts: n})
	}
	if l.queue != nil {
		all = append(all, stats.Section{Name: "queue", Counts: l.queue.Stats()})
	}
	return all
}

// Carried returns how many batches of frames there have been, both ways.
func (l *Line) Carried() uint64 { return l.carrier.carried() }
