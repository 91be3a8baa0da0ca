// Package hosts makes several hosts of one session: for each name a network stack with
// a MAC address and addresses of its own, so that in the hub users are told apart.
//
// # Theory of operation
//
// A host is made when somebody first needs it, as a member of a share.Switch, and With
// waits until it has an address. That is one of IPv4 mostly, and IPv6 takes a second or two
// more: who needs it of a host that is new gets a second try when it has come. A host
// stays as long as anything on it is open, and for a while after, as the next connection
// would have to ask for an address; then it gives its addresses back and goes. The next
// one of the same name has the same MAC address, so most DHCP servers give it the same
// address again.
//
// # Limits
//
// A policy of the hub may allow a session few stations (share.Stations), and the hub drops
// what others send without notice. It remembers a station for 10 minutes, so as many names
// as it allows may come within that time, and the error for others says so.
//
// # Goroutines
//
// Each host has those of its stack and of share.Switch.Serve. Run removes idle ones, and
// ends all when it ends.
package hosts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"softether-go/netstack"
	"softether-go/pkg/addresses"
	"softether-go/pkg/fairqueue"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/share"
	"softether-go/pkg/wire"
)

const (
	usualIdle = 10 * time.Minute
	// stationTime is how long a hub remembers one (Cedar/Hub.h, MAC_TABLE_EXPIRE_TIME).
	stationTime = 10 * time.Minute
	// secondFamily is how long after its first address a host may get one of the other
	// family: a router is asked three times (1 and 2 s apart), and the address probed.
	secondFamily = 5 * time.Second
)

// Config says how to make a host. Switch, MAC and Plan are required.
type Config struct {
	Switch *share.Switch
	MAC    func(name string) net.HardwareAddr
	// Plan says how a host with that MAC address gets its addresses.
	Plan func(mac net.HardwareAddr, log *slog.Logger) addresses.Config
	Way  fairqueue.Path // see netstack.Config
	Idle time.Duration  // after which a host that nothing is open on goes; zero means 10 min
	Log  *slog.Logger   // nil discards
}

// Hosts are the hosts of one session. Its methods may be called at once.
type Hosts struct {
	cfg     Config
	running sync.WaitGroup // what serves hosts
	done    chan struct{}  // closed by Close
	once    sync.Once

	mu     sync.Mutex // guards all below
	closed bool
	all    map[string]*host
	left   map[string]time.Time // when those went that the hub may remember
	limit  int                  // of stations; 0 means none
	item   string               // of the policy, which says so
	latest netcfg.Config        // what a host has that knows most, or did last
}

// A host is one of them.
type host struct {
	name  string
	stack *netstack.Stack
	ready chan struct{} // closed when there is an address for the first time
	both  chan struct{} // closed when there are of both families, or are to be no more
	ended chan struct{} // closed when it is served no more
	end   context.CancelFunc

	readyOnce sync.Once
	bothOnce  sync.Once
	address   netip.Prefix // that it had last; guarded by Hosts.mu
	using     int          // calls of With; guarded by Hosts.mu
	used      time.Time    // when something was open last; guarded by Hosts.mu
}

// New returns what makes hosts. Nothing happens before With.
func New(cfg Config) *Hosts {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Idle == 0 {
		cfg.Idle = usualIdle
	}
	return &Hosts{cfg: cfg, done: make(chan struct{}), all: make(map[string]*host), left: make(map[string]time.Time)}
}

// SetPolicy tells what the hub allows the session.
func (h *Hosts) SetPolicy(p wire.Policy) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.limit, h.item = share.Stations(p) // of which the client has warned
}

// Applied returns the configuration of a host that has all it is to have, or the nearest
// to that there has been.
func (h *Hosts) Applied() netcfg.Config {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latest
}

// With calls use with the stack of a host, which it makes if need be, once that has an
// address. What use opens there keeps the host.
func (h *Hosts) With(ctx context.Context, name string, use func(*netstack.Stack) error) error {
	m, err := h.take(ctx, name)
	if err != nil {
		return err
	}
	defer h.give(m)
	select {
	case <-m.ready:
	case <-m.ended:
		return fmt.Errorf("the host of %s: %w", name, net.ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("the host of %s has no address yet: %w", name, context.Cause(ctx))
	}
	err = use(m.stack)
	if lacksFamily(err) && m.awaitBoth(ctx) {
		err = use(m.stack)
	}
	return err
}

// lacksFamily reports whether an address of the other family may be what was missing.
func lacksFamily(err error) bool {
	var dns *net.DNSError
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.As(err, &dns)
}

// awaitBoth waits for addresses of both families, if there may be some yet, and reports
// whether it has.
func (m *host) awaitBoth(ctx context.Context) bool {
	if m.settled() {
		return false
	}
	select {
	case <-m.both:
		return true
	case <-m.ended:
	case <-ctx.Done():
	}
	return false
}

// take finds or makes a host. It is given back with give.
func (h *Hosts) take(ctx context.Context, name string) (*host, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, net.ErrClosed
	}
	m := h.all[name]
	if m == nil {
		if err := h.room(name); err != nil {
			return nil, err
		}
		var err error
		if m, err = h.create(ctx, name); err != nil {
			return nil, err
		}
	}
	m.using++
	return m, nil
}

func (h *Hosts) give(m *host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m.using--
	m.used = time.Now()
}

// room tells whether the hub would let another host be there. The caller has locked mu.
func (h *Hosts) room(name string) error {
	n := len(h.all)
	for other, at := range h.left {
		switch {
		case time.Since(at) > stationTime:
			delete(h.left, other)
		case other != name: // it is the same station again
			n++
		}
	}
	if h.limit == 0 || n < h.limit {
		return nil
	}
	err := fmt.Errorf("the hub's policy (%s) lets a session have %d stations, and as many users are there or were in the last %v: %w",
		h.item, h.limit, stationTime, syscall.EACCES)
	h.cfg.Log.Warn("a user is refused", "user", name, "cause", err)
	return err
}

// create makes a host. The caller has locked mu.
func (h *Hosts) create(ctx context.Context, name string) (*host, error) {
	mac := h.cfg.MAC(name)
	log := h.cfg.Log.With("user", name)
	stack, err := netstack.New(netstack.Config{MAC: mac, Log: log, Way: h.cfg.Way})
	if err != nil {
		return nil, err
	}
	m := &host{name: name, stack: stack, ready: make(chan struct{}), both: make(chan struct{}), ended: make(chan struct{}), used: time.Now()}
	ctx, m.end = context.WithCancel(context.WithoutCancel(ctx)) // it outlives who needed it first
	member := share.Member{Endpoint: stack, Configurer: applier{h, m}, Config: h.cfg.Plan(mac, log), Ready: m.isReady, Log: log}
	if member.IPv6 == nil {
		m.hasBoth()
	}
	h.all[name] = m
	delete(h.left, name)
	log.Info("a host for the user", "mac", mac.String())
	h.running.Go(func() {
		err := h.cfg.Switch.Serve(ctx, member)
		if err != nil && ctx.Err() == nil {
			log.Warn("the user's host ended", "cause", err)
		}
		h.forget(m)
		close(m.ended)
		_ = stack.Close()
	})
	return m, nil
}

// forget takes a host out of the list.
func (h *Hosts) forget(m *host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all[m.name] == m {
		delete(h.all, m.name)
	}
	h.left[m.name] = time.Now()
}

// applier is a host as its configuration is applied.
type applier struct {
	h *Hosts
	m *host
}

func (a applier) Apply(ctx context.Context, c netcfg.Config) error {
	if err := a.m.stack.Apply(ctx, c); err != nil {
		return err
	}
	if c.Address.IsValid() && c.IPv6.Usable() {
		a.m.hasBoth()
	}
	a.h.mu.Lock()
	if leads(c) && (a.m.settled() || !leads(a.h.latest)) { // else others know more
		a.h.latest = c
	}
	fresh := c.Address.IsValid() && a.m.address != c.Address
	if fresh {
		a.m.address = c.Address
	}
	a.h.mu.Unlock()
	if fresh {
		a.h.cfg.Log.Info("the user's address", "user", a.m.name, "address", c.Address)
	}
	return nil
}

// leads reports whether c leads anywhere beyond the link.
func leads(c netcfg.Config) bool { return c.Address.IsValid() || c.IPv6.Usable() }

// isReady notes that there is an address to send from.
func (m *host) isReady() {
	m.readyOnce.Do(func() {
		close(m.ready)
		time.AfterFunc(secondFamily, m.hasBoth)
	})
}

// settled reports whether no more is to be waited for.
func (m *host) settled() bool {
	select {
	case <-m.both:
		return true
	default:
		return false
	}
}

// hasBoth notes that no more is to be waited for.
func (m *host) hasBoth() { m.bothOnce.Do(func() { close(m.both) }) }

// Run removes hosts that nobody needs, until ctx ends or Close is called.
func (h *Hosts) Run(ctx context.Context) error {
	tick := time.NewTicker(h.cfg.Idle / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.done:
			<-ctx.Done()
			return ctx.Err()
		case <-tick.C:
			h.sweep()
		}
	}
}

// sweep ends the hosts that have been idle.
func (h *Hosts) sweep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, m := range h.all {
		switch {
		case m.using > 0 || m.stack.Open() > 0:
			m.used = time.Now()
		case time.Since(m.used) > h.cfg.Idle:
			h.cfg.Log.Info("the user's host is idle and goes", "user", name)
			delete(h.all, name) // so that nobody takes it any more
			h.left[name] = time.Now()
			m.end()
		}
	}
}

// Close ends all hosts, whose leases are given back if the session still carries that.
func (h *Hosts) Close() error {
	h.mu.Lock()
	h.closed = true
	for _, m := range h.all {
		m.end()
	}
	h.mu.Unlock()
	h.once.Do(func() { close(h.done) })
	h.running.Wait()
	return nil
}

// Count returns how many hosts there are.
func (h *Hosts) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}
