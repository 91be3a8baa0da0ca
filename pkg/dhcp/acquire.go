package dhcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"softether-go/pkg/frame"
)

const (
	firstInterval = time.Second
	lastInterval  = 16 * time.Second

	rebootTries  = 2 // then the server that lent the address is not here
	requestTries = 3 // at 0, 1 and 3 s: SecureNAT keeps an offer for 5 s

	// unicastTries is after how many DISCOVERs broadcast answers are asked for.
	unicastTries = 2
)

// How long the owner of an address may take to answer the ARP probe: before it is
// used, and before it is kept.
const (
	minGrace   = 50 * time.Millisecond
	maxGrace   = 300 * time.Millisecond
	lateAnswer = 2 * time.Second
)

// Acquire gets a lease and returns it. It blocks until it has one, ctx ends or
// out fails. A remembered lease is confirmed with its old address if possible.
// The error at the end of ctx says what was missing and wraps the cause; it is an
// ErrNoServer if nothing was heard at all.
//
// Filter must be in the inbound path of the session out belongs to. If out blocks,
// so does Acquire.
func (c *Client) Acquire(ctx context.Context, out frame.Writer) (Lease, error) {
	if err := c.enter(); err != nil {
		return Lease{}, err
	}
	defer c.leave()
	c.probed.Store(0)
	a := &acquisition{Client: c, out: out, began: time.Now(), interval: firstInterval}
	l, err := a.run(ctx)
	if err != nil {
		return Lease{}, a.explain(ctx, err)
	}
	c.remember(l)
	c.log.Info("dhcp: lease acquired", "address", l.Address, "gateway", l.Gateway, "dns", l.DNS.Servers,
		"server", l.Server, "expiry", l.Expiry, "took", time.Since(a.began))
	return l, nil
}

// An acquisition is one run of Acquire.
type acquisition struct {
	*Client
	out      frame.Writer
	began    time.Time
	interval time.Duration // to the next try, before jitter
	wish     netip.Addr    // put into DISCOVER
	unheard  int           // DISCOVERs without an offer
	trouble  error         // the latest reason for having no lease, except silence to DISCOVER
}

func (a *acquisition) run(ctx context.Context) (Lease, error) {
	if old, ok := a.remembered(); ok {
		l, err := a.reboot(ctx, old)
		if !canRetry(err) {
			return l, err
		}
	}
	for {
		l, err := a.obtain(ctx)
		if !canRetry(err) {
			return l, err
		}
		a.trouble = err
		if errors.Is(err, errSilent) {
			continue // that was wait enough
		}
		if err := a.pause(ctx, err); err != nil {
			return Lease{}, err
		}
	}
}

func canRetry(err error) bool {
	return errors.Is(err, errSilent) || errors.Is(err, errRefused) || errors.Is(err, ErrConflict)
}

// remembered returns the lease to confirm. The wall clock is asked as well: the
// other one does not run while the computer sleeps.
func (a *acquisition) remembered() (Lease, bool) {
	l, ok := a.Lease()
	return l, ok && !l.expired(time.Now().Round(0))
}

// reboot asks for the address of old once more (INIT-REBOOT, RFC 2131 §3.2).
func (a *acquisition) reboot(ctx context.Context, old Lease) (Lease, error) {
	x := &exchange{state: rebooting, addr: old.Address.Addr(), since: a.began}
	if err := a.open(x); err != nil {
		return Lease{}, err
	}
	defer a.shut()
	for range rebootTries {
		got, err := a.ask(ctx, a.out, x, a.jitter(firstInterval))
		if errors.Is(err, errSilent) {
			continue
		}
		if errors.Is(err, errRefused) {
			a.forget()
			a.trouble = err
			a.log.Warn("dhcp: address is not ours any more", "address", old.Address, "cause", err)
		}
		return got.lease, err
	}
	// Nobody knows it here, but it may be had again.
	a.wish = old.Address.Addr()
	a.log.Warn("dhcp: address not confirmed, asking for any", "address", old.Address, "cause", errSilent)
	return Lease{}, errSilent
}

// obtain goes from DISCOVER to a lease once.
func (a *acquisition) obtain(ctx context.Context) (Lease, error) {
	x := &exchange{state: selecting, addr: a.wish, since: a.began}
	if err := a.open(x); err != nil {
		return Lease{}, err
	}
	defer a.shut()
	offer, err := a.discover(ctx, x)
	if err != nil {
		return Lease{}, err
	}
	// The same transaction, the other question (RFC 2131 §4.4.1).
	x.state, x.addr, x.server = requesting, offer.lease.Address.Addr(), offer.server
	x.began = time.Now()
	drain(a.conflicts)
	a.probed.Store(ipKey(x.addr))
	l, err := a.request(ctx, x)
	if err == nil {
		err = a.probe(ctx, x, l)
	}
	if err != nil {
		a.probed.Store(0)
		a.wish = netip.Addr{}
		return Lease{}, err
	}
	a.probeEnd = x.asked.Add(lateAnswer)
	return l, nil
}

// discover asks for offers until one comes.
func (a *acquisition) discover(ctx context.Context, x *exchange) (answer, error) {
	for {
		x.broadcast = a.unheard >= unicastTries
		wait := a.jitter(a.interval)
		offer, err := a.ask(ctx, a.out, x, wait)
		if x.trouble != nil {
			a.trouble = x.trouble
		}
		if !errors.Is(err, errSilent) {
			return offer, err
		}
		a.unheard++
		a.slower()
		a.log.Debug("dhcp: no offer, asking again", "waited", wait.Round(time.Millisecond), "next", a.interval, "cause", cmp.Or(x.trouble, err))
	}
}

// request takes the offer in x.
func (a *acquisition) request(ctx context.Context, x *exchange) (Lease, error) {
	wait := firstInterval
	for range requestTries {
		ack, err := a.ask(ctx, a.out, x, a.jitter(wait))
		if !errors.Is(err, errSilent) {
			return ack.lease, err
		}
		wait *= 2
	}
	return Lease{}, fmt.Errorf("server %v offered %v, then gave %w", x.server, x.addr, errSilent)
}

// probe waits whether somebody else claims the address of l, just granted, and
// declines it then. The first probe went with the REQUEST.
func (a *acquisition) probe(ctx context.Context, x *exchange, l Lease) error {
	grace := min(max(time.Since(x.asked), minGrace), maxGrace)
	owner, err := a.claimed(ctx, grace/2)
	if err == nil && owner == nil {
		if err = a.out.WriteFrames([][]byte{arpProbe(a.mac, x.addr)}); err != nil {
			return fmt.Errorf("dhcp: probe %v: %w", x.addr, err)
		}
		owner, err = a.claimed(ctx, grace/2)
	}
	if err != nil || owner == nil {
		return err
	}
	return a.decline(a.out, l, owner)
}

// claimed waits for somebody to claim the address under probe; nil means nobody
// did for the given time.
func (c *Client) claimed(ctx context.Context, limit time.Duration) (net.HardwareAddr, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case who := <-c.conflicts:
		return net.HardwareAddr(who[:]), nil
	case <-timer.C:
	}
	select { // a claim that came in time counts, even if we are late to look
	case who := <-c.conflicts:
		return net.HardwareAddr(who[:]), nil
	default:
		return nil, nil
	}
}

// decline gives up the address of l, which owner uses. The error is an ErrConflict
// unless out fails.
func (c *Client) decline(out frame.Writer, l Lease, owner net.HardwareAddr) error {
	c.forget()
	if err := c.sendFinal(out, dhcpv4.MessageTypeDecline, l); err != nil {
		return err
	}
	c.log.Warn("dhcp: address declined", "address", l.Address, "owner", owner, "server", l.Server)
	return fmt.Errorf("%v from server %v: %w (%v)", l.Address.Addr(), l.Server, ErrConflict, owner)
}

// pause waits for one interval before the next DISCOVER.
func (a *acquisition) pause(ctx context.Context, cause error) error {
	wait := a.jitter(a.interval)
	a.slower()
	a.log.Warn("dhcp: starting over", "in", wait, "cause", cause)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func (a *acquisition) slower() { a.interval = min(2*a.interval, lastInterval) }

// explain says what was missing when ctx ended. Other errors speak for themselves.
func (a *acquisition) explain(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	tried := time.Since(a.began).Round(100 * time.Millisecond)
	if a.trouble == nil {
		return fmt.Errorf("dhcp: %w within %v: %w", ErrNoServer, tried, err)
	}
	return fmt.Errorf("dhcp: no lease within %v (%w): %w", tried, a.trouble, err)
}
