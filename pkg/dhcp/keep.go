package dhcp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"softether-go/pkg/frame"
)

// minRetransmit is the least time between two unanswered renewals.
const minRetransmit = 5 * time.Second

// Keep renews the lease that Acquire returned, in the same session, and blocks
// until the lease is lost, ctx ends or out fails. It always returns an error:
// ErrExpired, ErrRevoked or ErrConflict mean that the lease is gone; after the
// cause of ctx's end, or out's error, it is remembered for the next Acquire.
//
// Whenever a renewal brings another configuration, changed is called with it, on
// this goroutine. A renewal that only lasts longer is not reported.
func (c *Client) Keep(ctx context.Context, out frame.Writer, changed func(Lease)) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	l, ok := c.Lease()
	if !ok {
		return fmt.Errorf("dhcp: nothing to keep: %w", ErrExpired)
	}
	if err := c.awaitLateClaim(ctx, out, l); err != nil {
		return err
	}
	for {
		if err := rest(ctx, l.T1); err != nil {
			return err
		}
		next, err := c.extend(ctx, out, l)
		if err != nil {
			return err
		}
		c.remember(next)
		c.log.Debug("dhcp: lease renewed", "address", next.Address, "server", next.Server, "expiry", next.Expiry)
		if changed != nil && !next.Equal(l.Config) {
			c.log.Info("dhcp: lease changed", "address", next.Address, "gateway", next.Gateway, "dns", next.DNS.Servers)
			changed(next)
		}
		l = next
	}
}

// awaitLateClaim gives an owner who was slow to answer the probe, such as a host
// that had to wake up, its address back.
func (c *Client) awaitLateClaim(ctx context.Context, out frame.Writer, l Lease) error {
	if c.probed.Load() == 0 {
		return nil
	}
	owner, err := c.claimed(ctx, time.Until(c.probeEnd))
	c.probed.Store(0)
	if err != nil || owner == nil {
		return err
	}
	return fmt.Errorf("dhcp: %w", c.decline(out, l, owner))
}

// rest waits until the given time, for ever if that is zero.
func rest(ctx context.Context, until time.Time) error {
	var over <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-over:
		return nil
	}
}

// extend renews l, from T1 on with its server, from T2 on with any, until it
// succeeds or l is lost.
func (c *Client) extend(ctx context.Context, out frame.Writer, l Lease) (Lease, error) {
	addr := l.Address.Addr()
	since := time.Now()
	var x *exchange
	defer c.shut()
	for {
		now := time.Now()
		if l.expired(now) {
			c.forget()
			return Lease{}, fmt.Errorf("dhcp: %v from server %v: %w", addr, l.Server, ErrExpired)
		}
		st, until := renewing, l.T2
		if !now.Before(l.T2) {
			st, until = rebinding, l.Expiry
		}
		if x == nil || x.state != st {
			x = &exchange{state: st, since: since, addr: addr, server: l.Server, serverMAC: mac(l.ServerMAC)}
			if err := c.open(x); err != nil {
				return Lease{}, err
			}
		}
		wait := pace(until.Sub(now))
		ack, err := c.ask(ctx, out, x, wait)
		switch {
		case errors.Is(err, errSilent):
			c.log.Warn("dhcp: lease not renewed, asking again", "state", st, "server", l.Server, "waited", wait, "expiry", l.Expiry)
		case errors.Is(err, errRefused):
			c.forget()
			return Lease{}, fmt.Errorf("dhcp: %v: %w: %w", addr, ErrRevoked, err)
		default:
			return ack.lease, err
		}
	}
}

// pace returns how long to wait for an answer when left remains until the next
// state: half of it (RFC 2131 §4.4.5), or all if that would ask too soon again.
func pace(left time.Duration) time.Duration {
	if left < 2*minRetransmit {
		return left
	}
	return left / 2
}
