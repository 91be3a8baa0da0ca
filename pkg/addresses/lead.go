package addresses

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/dhcp"
	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

const (
	// leaseTimeout bounds the wait for an address on a fresh session. A hub whose
	// DHCP server is slow answers within a few seconds.
	leaseTimeout = 30 * time.Second
	// patience is how long IPv6 alone waits for IPv4: two questions to DHCP servers, of
	// which one may have been lost. Whoever has both uses both from the start.
	patience = 4 * time.Second
)

// A Session is what Lead has to know of one.
type Session struct {
	Out    frame.Writer
	NoDHCP string // why there is no use in asking for a lease; empty asks
	Hint   string // what may explain that nobody answers; may be empty
	Ready  func() // called once, when there is an address to send from; may be nil
}

// ready is what there is to send from in a session.
type ready struct {
	v4, v6       chan struct{} // closed once there is
	once4, once6 sync.Once
}

func (r *ready) have4() { r.once4.Do(func() { close(r.v4) }) }
func (r *ready) have6() { r.once6.Do(func() { close(r.v6) }) }

// Lead configures the host and keeps its addresses until ctx ends, or there are none to
// be had, or with Failed they cannot be applied; it always returns an error. One Lead at
// a time.
func (k *Keeper) Lead(ctx context.Context, s Session) error {
	g, ctx := errgroup.WithContext(ctx)
	r := &ready{v4: make(chan struct{}), v6: make(chan struct{})}
	g.Go(func() error { return k.leadIPv4(ctx, s, r) })
	if k.auto != nil {
		g.Go(func() error { return k.leadIPv6(ctx, s, r) })
	}
	g.Go(func() error {
		if err := k.await(ctx, r); err != nil {
			return err
		}
		if s.Ready != nil {
			s.Ready()
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	return g.Wait()
}

// await returns when the host may send.
func (k *Keeper) await(ctx context.Context, r *ready) error {
	if !k.cfg.Any() {
		return nil
	}
	var late <-chan time.Time
	if !k.cfg.expects4() {
		late = time.After(leaseTimeout)
	}
	select {
	case <-r.v4:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-late:
		return errors.New("no IPv6 address that leads beyond the link, and there is to be no other")
	case <-r.v6:
	}
	if !k.cfg.expects4() {
		return nil
	}
	select {
	case <-r.v4:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(patience):
		k.log.Info("going on with IPv6 alone until there is an IPv4 address")
	}
	return nil
}

// leadIPv4 gets an address, and keeps it as long as the session lasts. A lease that is
// lost takes the address with it (RFC 2131, 4.4.5), and we ask for another.
func (k *Keeper) leadIPv4(ctx context.Context, s Session, r *ready) error {
	if !k.cfg.expects4() {
		return nil
	}
	for {
		err := k.configure(ctx, s)
		switch {
		case errors.Is(err, dhcp.ErrNoServer) && ctx.Err() == nil && k.usable6():
			continue
		case errors.Is(err, errNoDHCP) && k.auto != nil:
			return k.goWithoutIPv4(ctx, err, r)
		}
		if err != nil {
			return err
		}
		r.have4()
		if k.dhcp == nil {
			return nil
		}
		if err = k.keepLease(ctx, s.Out); !leaseLost(err) {
			return err
		}
		k.log.Warn("address lost", "cause", err)
		if err := k.apply(ctx, netcfg.Config{}); err != nil {
			return err
		}
	}
}

// errNoDHCP means that nobody may ask.
var errNoDHCP = errors.New("no address by DHCP")

// goWithoutIPv4 lets IPv6 do, if it comes soon; or else the cause why there is no IPv4 ends
// the session.
func (k *Keeper) goWithoutIPv4(ctx context.Context, cause error, r *ready) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(patience):
		return cause
	case <-r.v6:
		k.log.Info("going on with IPv6 alone", "cause", cause)
		r.have4() // there is none to wait for
		return nil
	}
}

// configure gets an IPv4 configuration for this session and applies it.
func (k *Keeper) configure(ctx context.Context, s Session) error {
	if k.dhcp == nil {
		k.log.Info("address", "address", k.cfg.Static.Address, "gateway", k.cfg.Static.Gateway, "dns", k.cfg.Static.DNS.Servers)
		return k.apply(ctx, k.cfg.Static)
	}
	if s.NoDHCP != "" {
		return fmt.Errorf("%w: %s", errNoDHCP, s.NoDHCP)
	}
	asking, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	lease, err := k.dhcp.Acquire(asking, s.Out)
	if err != nil && ctx.Err() == nil && errors.Is(err, dhcp.ErrNoServer) && s.Hint != "" {
		return fmt.Errorf("%w; %s", err, s.Hint)
	}
	if err != nil {
		return err
	}
	return k.apply(ctx, lease.Config)
}

// leadIPv6 configures IPv6 as long as the session lasts. What cannot be applied ends it.
func (k *Keeper) leadIPv6(ctx context.Context, s Session, r *ready) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := k.auto.Run(ctx, s.Out, func(n netcfg.Config) {
		if err := k.apply6(ctx, n); err != nil {
			cancel(err)
			return
		}
		if n.IPv6.Usable() {
			r.have6()
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// apply makes v4 the IPv4 side of the configuration. It may be called with the same
// again, which has the host announce itself.
func (k *Keeper) apply(ctx context.Context, v4 netcfg.Config) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.v4 = v4
	return k.applyLocked(ctx)
}

// apply6 does the same for IPv6, if there is something new.
func (k *Keeper) apply6(ctx context.Context, v6 netcfg.Config) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.v6 = v6
	if k.merged().Equal(k.applied) {
		return nil
	}
	return k.applyLocked(ctx)
}

func (k *Keeper) applyLocked(ctx context.Context) error {
	cfg := k.merged()
	if err := k.to.Apply(ctx, cfg); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return Failed{fmt.Errorf("apply the address %v: %w", cfg.Address, err)}
	}
	k.applied = cfg
	return nil
}

// usable6 reports whether IPv6 leads beyond the link.
func (k *Keeper) usable6() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.v6.IPv6.Usable()
}

// merged is what both families come to. Of the name servers each has its first among the
// first two: a resolver asks only a few.
func (k *Keeper) merged() netcfg.Config {
	n := k.v4
	if k.auto != nil {
		n.IPv6 = k.v6.IPv6
		n.DNS = netcfg.DNS{
			Servers: mix(k.v4.DNS.Servers, k.v6.DNS.Servers),
			Search:  mix(k.v4.DNS.Search, k.v6.DNS.Search),
		}
		if m := k.v6.MTU; m != 0 && m < n.EffectiveMTU() {
			n.MTU = m
		}
	}
	if k.cfg.Adjust != nil && !n.IsZero() {
		n = k.cfg.Adjust(n)
	}
	return n
}

// mix takes from two lists in turn, each item once.
func mix[T comparable](a, b []T) (all []T) {
	seen := make(map[T]bool)
	take := func(list []T, i int) {
		if i < len(list) && !seen[list[i]] {
			seen[list[i]] = true
			all = append(all, list[i])
		}
	}
	for i := range max(len(a), len(b)) {
		take(a, i)
		take(b, i)
	}
	return all
}

func leaseLost(err error) bool {
	return errors.Is(err, dhcp.ErrExpired) || errors.Is(err, dhcp.ErrRevoked) || errors.Is(err, dhcp.ErrConflict)
}

// keepLease renews one lease. What cannot be applied ends it.
func (k *Keeper) keepLease(ctx context.Context, out frame.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := k.dhcp.Keep(ctx, out, func(l dhcp.Lease) {
		if err := k.apply(ctx, l.Config); err != nil {
			cancel(err)
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
