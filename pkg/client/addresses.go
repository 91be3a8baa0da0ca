package client

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

// patience is how long IPv6 alone waits for IPv4: two questions to DHCP servers, of which
// one may have been lost. Whoever has both uses both from the start.
const patience = 4 * time.Second

// readiness is what there is to send from in this session.
type readiness struct {
	v4, v6       chan struct{} // closed once there is
	once4, once6 sync.Once
}

func newReadiness() *readiness {
	return &readiness{v4: make(chan struct{}), v6: make(chan struct{})}
}

func (r *readiness) have4() { r.once4.Do(func() { close(r.v4) }) }
func (r *readiness) have6() { r.once6.Do(func() { close(r.v6) }) }

// expects4 reports whether there is to be an IPv4 address.
func (c *Client) expects4() bool { return c.dhcp != nil || c.cfg.Static.Address.IsValid() }

// awaitAddress returns when the endpoint may send.
func (c *Client) awaitAddress(ctx context.Context, r *readiness) error {
	if !c.addresses() {
		c.cfg.Log.Info("carrying frames without an address of our own")
		return nil
	}
	var late <-chan time.Time
	if !c.expects4() {
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
	if !c.expects4() {
		return nil
	}
	select {
	case <-r.v4:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(patience):
		c.cfg.Log.Info("going on with IPv6 alone until there is an IPv4 address")
	}
	return nil
}

// leadIPv4 gets an address, and keeps it as long as the session lasts. A lease that is
// lost takes the address with it (RFC 2131, 4.4.5), and we ask for another.
func (c *Client) leadIPv4(ctx context.Context, out frame.Writer, r *readiness) error {
	for {
		err := c.configure(ctx, out)
		switch {
		case errors.Is(err, dhcp.ErrNoServer) && ctx.Err() == nil && c.usable6():
			continue
		case errors.Is(err, errNoDHCP) && c.auto != nil:
			return c.goWithoutIPv4(ctx, err, r)
		}
		if err != nil {
			return err
		}
		if c.expects4() {
			r.have4()
		}
		if c.dhcp == nil {
			return nil
		}
		if err = c.keepLease(ctx, out); !leaseLost(err) {
			return err
		}
		c.cfg.Log.Warn("address lost", "cause", err)
		if err := c.apply(ctx, netcfg.Config{}); err != nil {
			return err
		}
	}
}

// errNoDHCP means that the user's policy lets nobody ask.
var errNoDHCP = errors.New("no address by DHCP")

// goWithoutIPv4 lets IPv6 do, if it comes soon; or else the cause why there is no IPv4 ends
// the session.
func (c *Client) goWithoutIPv4(ctx context.Context, cause error, r *readiness) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(patience):
		return cause
	case <-r.v6:
		c.cfg.Log.Info("going on with IPv6 alone", "cause", cause)
		r.have4() // there is none to wait for
		return nil
	}
}

// configure gets an IPv4 configuration for this session and applies it, if there is to be
// one.
func (c *Client) configure(ctx context.Context, out frame.Writer) error {
	if !c.expects4() {
		return nil
	}
	if c.dhcp == nil {
		c.cfg.Log.Info("address", "address", c.cfg.Static.Address, "gateway", c.cfg.Static.Gateway, "dns", c.cfg.Static.DNS.Servers)
		return c.apply(ctx, c.cfg.Static)
	}
	welcome := c.session.Load().Welcome()
	if why := noDHCP(welcome.Policy); why != "" {
		return fmt.Errorf("%w: %s, or use -no-dhcp with -address", errNoDHCP, why)
	}
	slow := newSlowReporter(c.cfg.Log)
	defer slow.stop()
	if !c.usable6() { // else it has been told, and nobody is waiting
		slow.step("ask for an address by DHCP")
	}
	asking, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	lease, err := c.dhcp.Acquire(asking, out)
	if err != nil && ctx.Err() == nil && errors.Is(err, dhcp.ErrNoServer) {
		return fmt.Errorf("%w; %s", err, whyNoLease(welcome))
	}
	if err != nil {
		return err
	}
	return c.apply(ctx, lease.Config)
}

// leadIPv6 configures IPv6 as long as the session lasts. What cannot be applied ends it.
func (c *Client) leadIPv6(ctx context.Context, out frame.Writer, r *readiness) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := c.auto.Run(ctx, out, func(n netcfg.Config) {
		if err := c.apply6(ctx, n); err != nil {
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
// again, which has the endpoint announce itself.
func (c *Client) apply(ctx context.Context, v4 netcfg.Config) error {
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	c.v4 = v4
	return c.applyLocked(ctx)
}

// apply6 does the same for IPv6, if there is something new.
func (c *Client) apply6(ctx context.Context, v6 netcfg.Config) error {
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	c.v6 = v6
	if c.merged().Equal(c.applied) {
		return nil
	}
	return c.applyLocked(ctx)
}

func (c *Client) applyLocked(ctx context.Context) error {
	cfg := c.merged()
	if err := c.cfg.Configurer.Apply(ctx, cfg); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return fatal{fmt.Errorf("apply the address %v: %w", cfg.Address, err)}
	}
	c.applied = cfg
	return nil
}

// usable6 reports whether IPv6 leads beyond the link.
func (c *Client) usable6() bool {
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	return c.v6.IPv6.Usable()
}

// merged is what both families come to. Of the name servers each has its first among the
// first two: a resolver asks only a few.
func (c *Client) merged() netcfg.Config {
	n := c.v4
	if c.auto != nil {
		n.IPv6 = c.v6.IPv6
		n.DNS = netcfg.DNS{
			Servers: mix(c.v4.DNS.Servers, c.v6.DNS.Servers),
			Search:  mix(c.v4.DNS.Search, c.v6.DNS.Search),
		}
		if m := c.v6.MTU; m != 0 && m < n.EffectiveMTU() {
			n.MTU = m
		}
	}
	if c.cfg.Adjust != nil && !n.IsZero() {
		n = c.cfg.Adjust(n)
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
func (c *Client) keepLease(ctx context.Context, out frame.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := c.dhcp.Keep(ctx, out, func(l dhcp.Lease) {
		if err := c.apply(ctx, l.Config); err != nil {
			cancel(err)
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// release gives the leases back. That they may not get through is no error: leases end.
func (c *Client) release(ctx context.Context, out frame.Writer) {
	var g errgroup.Group
	if c.dhcp != nil {
		g.Go(func() error { return c.dhcp.Release(ctx, out) })
	}
	if c.auto != nil {
		g.Go(func() error { return c.auto.Release(ctx, out) })
	}
	if err := g.Wait(); err != nil {
		c.cfg.Log.Debug("lease not released", "cause", err)
	}
}
