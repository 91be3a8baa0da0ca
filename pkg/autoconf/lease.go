package autoconf

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"softether-go/pkg/frame"
)

// A phase is what we are doing towards DHCPv6 servers (RFC 8415 section 18.2).
type phase int

const (
	idle       phase = iota // no router has sent us to a server
	soliciting              // asking any server for addresses; none of them lent
	requesting              // asking one server for what it offered
	bound                   // nothing is asked until T1; addresses usable, as in what follows
	renewing                // asking our server to extend, until T2
	rebinding               // asking any server to extend, until the last address is over
	informing               // asking any server for name servers only
	informed                // nothing is asked until the answer is old
)

// exchanges says how often each question is repeated: first after, at most after, so many
// times at most (0 is no limit). RFC 8415 section 7.6 but for the longest of solicitations
// and information-requests, see the package.
var exchanges = map[phase]struct {
	message        dhcpv6.MessageType
	first, longest time.Duration
	most           int
}{
	soliciting: {dhcpv6.MessageTypeSolicit, time.Second, 2 * time.Minute, 0},
	requesting: {dhcpv6.MessageTypeRequest, time.Second, 30 * time.Second, 10},
	renewing:   {dhcpv6.MessageTypeRenew, 10 * time.Second, 10 * time.Minute, 0},
	rebinding:  {dhcpv6.MessageTypeRebind, 10 * time.Second, 10 * time.Minute, 0},
	informing:  {dhcpv6.MessageTypeInformationRequest, time.Second, 2 * time.Minute, 0},
}

const (
	maxLent = 8 // addresses of one lease

	// A server cannot make us do nothing but renew.
	minLifetime = 10 * time.Second
	minRenewal  = 5 * time.Second

	usualRefresh = 24 * time.Hour   // of what is not lent (RFC 8415 section 21.23)
	minRefresh   = 10 * time.Minute // the same

	longestPause = 2 * time.Minute // after refusals
	releaseGrace = 300 * time.Millisecond
)

// A lease is what DHCPv6 has come to. The addresses are among state's.
type lease struct {
	phase    phase
	xid      [3]byte
	began    time.Time     // the present exchange
	due      time.Time     // when to do the next thing; zero is never
	timeout  time.Duration // of the question that was sent last
	tries    int
	waits    bool // for an address to ask from
	refusals int  // in a row

	server  []byte       // the identifier of who lends; nil is nobody
	offered []netip.Addr // to be requested
	t2      time.Time    // when to ask others than server
	servers []netip.Addr
	search  []string
}

func (l *lease) start(p phase, at time.Time) {
	l.phase, l.began, l.due, l.timeout, l.tries = p, at, at, 0, 0
}

// resume begins a session.
func (l *lease) resume(now time.Time) {
	l.waits, l.refusals = false, 0
	switch l.phase {
	case bound, renewing, rebinding:
		l.start(rebinding, now)
	default:
		l.phase, l.due = idle, time.Time{}
	}
}

// want does what a router says about DHCPv6. One that says nothing does not end what
// another has begun.
func (l *lease) want(managed, other bool, now time.Time) {
	switch {
	case managed && (l.phase == idle || l.phase == informing || l.phase == informed):
		l.start(soliciting, now)
	case other && l.phase == idle:
		l.start(informing, now)
	}
}

// hurry goes on when there is an address to ask from.
func (l *lease) hurry(now time.Time) {
	if l.waits {
		l.waits, l.due = false, now
	}
}

// stepLease asks, if it is time to.
func (r *running) stepLease(now time.Time) {
	l := &r.known.lease
	if l.due.IsZero() || now.Before(l.due) {
		return
	}
	from := r.local()
	if from == nil || !from.usable {
		l.waits, l.due = true, time.Time{}
		return
	}
	switch {
	case l.phase == bound:
		l.start(renewing, now)
	case l.phase == informed:
		l.start(informing, now)
	case l.phase == renewing && !now.Before(l.t2):
		l.start(rebinding, now)
	case (l.phase == renewing || l.phase == rebinding) && len(r.lent()) == 0:
		r.log.Warn("ipv6: lease is over, asking for another")
		l.server = nil
		l.start(soliciting, now)
	case l.phase == requesting && l.tries >= exchanges[requesting].most:
		l.start(soliciting, now)
	}
	r.ask(from.addr, now)
}

// ask sends the question of the phase, once more or for the first time.
func (r *running) ask(from netip.Addr, now time.Time) {
	l, x := &r.known.lease, exchanges[r.known.lease.phase]
	if l.tries == 0 {
		r.newTransaction()
		r.awaited.Store(awaits(l.xid[:]))
		l.timeout = r.jitter(x.first)
	} else {
		l.timeout = r.jitter(min(2*l.timeout, x.longest))
		r.log.Debug("ipv6: no answer by DHCPv6, asking again", "asked", x.message, "tries", l.tries)
	}
	l.tries++
	addrs := l.offered
	switch l.phase {
	case soliciting:
		addrs = nil
	case renewing, rebinding:
		addrs = r.lent()
	}
	r.send(toServers(r.mac, from, r.message(x.message, now, addrs)))
	l.due = now.Add(l.timeout)
	if l.phase == renewing && l.due.After(l.t2) {
		l.due = l.t2
	}
	if until := r.lentUntil(); l.phase == rebinding && !until.IsZero() && l.due.After(until) {
		l.due = until
	}
}

// newTransaction makes what is sent from now on another question.
func (r *running) newTransaction() {
	if _, err := io.ReadFull(r.rand, r.known.lease.xid[:]); err != nil {
		r.log.Warn("ipv6: no random number for DHCPv6", "cause", err)
	}
}

// lent returns the addresses that are.
func (r *running) lent() (addrs []netip.Addr) {
	for _, a := range r.known.addresses {
		if a.origin == ofServer {
			addrs = append(addrs, a.addr)
		}
	}
	return addrs
}

// lentUntil returns when the last of them is over; zero is never.
func (r *running) lentUntil() (last time.Time) {
	for _, a := range r.known.addresses {
		if a.origin == ofServer && a.validUntil.After(last) {
			last = a.validUntil
		}
	}
	return last
}

// hearServer takes in a message of a server, whose transaction Filter has compared.
func (r *running) hearServer(h heard, now time.Time) {
	l := &r.known.lease
	a, err := r.understand(h.body)
	if err == nil {
		err = r.take(a, now)
	}
	if err != nil {
		r.ignored.Add(1)
		r.log.Debug("ipv6: DHCPv6 message ignored", "from", h.src, "phase", l.phase, "cause", err)
	}
}

// take acts on an answer. An error says why it means nothing in this phase.
func (r *running) take(a answer, now time.Time) error {
	l := &r.known.lease
	reply := a.kind == dhcpv6.MessageTypeReply
	switch {
	case l.phase == soliciting && a.kind == dhcpv6.MessageTypeAdvertise:
		if err := a.offers(); err != nil {
			return err
		}
		l.server, l.offered = a.server, nil
		for _, x := range a.lent {
			l.offered = append(l.offered, x.addr)
		}
		l.start(requesting, now)
	case l.phase == soliciting && reply && a.rapid, l.phase == requesting && reply && bytes.Equal(a.server, l.server):
		if err := a.offers(); err != nil {
			r.refused(err, now)
			return nil
		}
		r.bind(a, now)
	case l.phase == renewing && reply && bytes.Equal(a.server, l.server), l.phase == rebinding && reply:
		r.extend(a, now)
	case l.phase == informing && reply:
		l.servers, l.search = a.servers, a.search
		l.phase, l.due = informed, now.Add(a.refresh)
		r.awaited.Store(0)
	default:
		return fmt.Errorf("%v is no answer here", a.kind)
	}
	return nil
}

// refused starts over after a while.
func (r *running) refused(why error, now time.Time) {
	l := &r.known.lease
	pause := r.jitter(min(time.Second<<min(l.refusals, 10), longestPause))
	l.refusals++
	r.log.Warn("ipv6: the DHCPv6 server lends us nothing, asking again", "cause", why, "in", pause.Round(time.Millisecond))
	l.server = nil
	l.start(soliciting, now.Add(pause))
	r.awaited.Store(0)
}

// extend takes the answer to a renewal.
func (r *running) extend(a answer, now time.Time) {
	l := &r.known.lease
	switch {
	case a.status == iana.StatusNoBinding: // it does not know us, and may get to (section 18.2.10.1)
		l.server, l.offered = a.server, r.lent()
		l.start(requesting, now)
	case a.status == iana.StatusNotOnLink:
		r.forgetLent()
		r.refused(fmt.Errorf("%v %q", a.status, a.why), now)
	case a.status != iana.StatusSuccess || len(a.lent) == 0:
		r.log.Warn("ipv6: lease not renewed", "status", a.status, "cause", a.why)
	default:
		r.bind(a, now)
	}
}

// bind takes what a lends.
func (r *running) bind(a answer, now time.Time) {
	l := &r.known.lease
	shortestPreferred := time.Duration(-1)
	for _, x := range a.lent {
		i := slices.IndexFunc(r.known.addresses, func(y *address) bool { return y.addr == x.addr })
		if x.valid == 0 {
			if i >= 0 && r.known.addresses[i].origin == ofServer {
				r.remove(r.known.addresses[i])
			}
			continue
		}
		valid := max(x.valid, minLifetime)
		preferred := max(x.preferred, min(valid, minLifetime))
		if shortestPreferred < 0 || preferred < shortestPreferred {
			shortestPreferred = preferred
		}
		switch {
		case i < 0 && len(r.lent()) >= maxLent:
			r.overflow.Add(1)
		case i < 0:
			r.add(&address{
				origin: ofServer, addr: x.addr, preferredUntil: now.Add(preferred), validUntil: now.Add(valid),
			}, now)
		case r.known.addresses[i].origin == ofServer:
			y := r.known.addresses[i]
			y.confirmed, y.preferredUntil, y.validUntil = true, now.Add(preferred), now.Add(valid)
		}
	}
	if len(r.lent()) == 0 {
		r.refused(errNoOffer, now)
		return
	}
	l.server, l.offered, l.refusals = a.server, nil, 0
	l.servers, l.search = a.servers, a.search
	t1, t2 := a.t1, a.t2
	if t1 == 0 || t2 == 0 || t1 > t2 || t1 > shortestPreferred {
		t1, t2 = shortestPreferred/2, shortestPreferred/5*4 // RFC 8415 section 14.2
	}
	t1 = max(t1, minRenewal)
	l.phase, l.due, l.t2 = bound, now.Add(t1), now.Add(max(t2, t1+minRenewal))
	r.awaited.Store(0)
}

// forgetLent gives up what was lent.
func (r *running) forgetLent() {
	r.known.addresses = slices.DeleteFunc(r.known.addresses, func(a *address) bool { return a.origin == ofServer })
	r.known.lease.server = nil
}

// decline tells the server that somebody has the address it lent, and asks for another.
func (r *running) decline(a *address, now time.Time) {
	l := &r.known.lease
	if from := r.local(); from != nil && from.usable && l.server != nil {
		r.newTransaction()
		r.send(toServers(r.mac, from.addr, r.message(dhcpv6.MessageTypeDecline, now, []netip.Addr{a.addr})))
	}
	if len(r.lent()) == 0 {
		r.refused(fmt.Errorf("%v is used by somebody else", a.addr), now)
	}
}

// Release gives a lease back with one message, and forgets it. Without one it does
// nothing. It then waits, at most releaseGrace, for a sign that the network has taken the
// message: a VPN server that reads the end of our connection may throw away the frames it
// has not looked at. So Filter must still be fed.
func (c *Client) Release(ctx context.Context, out frame.Writer) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	defer c.deafen()
	r := &running{Client: c, out: out}
	from, l := r.local(), &c.known.lease
	lent := r.lent()
	if from == nil || !from.usable || l.server == nil || len(lent) == 0 {
		return nil
	}
	now := time.Now()
	r.newTransaction()
	l.began = now
	message := r.message(dhcpv6.MessageTypeRelease, now, lent)
	r.forgetLent()
	l.phase, l.due = idle, time.Time{}
	for len(c.inbox) > 0 {
		<-c.inbox
	}
	own := from.addr
	c.answered.Store(&own)
	c.awaited.Store(awaits(l.xid[:]))
	if err := out.WriteFrames([][]byte{toServers(c.mac, own, message)}); err != nil {
		return fmt.Errorf("autoconf: release: %w", err)
	}
	c.log.Info("ipv6: lease released", "addresses", lent)
	grace := time.NewTimer(releaseGrace)
	defer grace.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-grace.C:
			return nil
		case h := <-c.inbox:
			if h.kind == 0 {
				return nil
			}
			r.hear(h, now)
			if len(r.batch) > 0 {
				if err := out.WriteFrames(r.batch); err != nil {
					return fmt.Errorf("autoconf: release: %w", err)
				}
				r.batch = r.batch[:0]
			}
		}
	}
}
