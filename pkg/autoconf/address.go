package autoconf

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// An origin is why we have an address.
type origin int

const (
	ofLink   origin = iota + 1 // every node has one of the link's own
	ofRouter                   // made in a prefix that a router advertises
	ofServer                   // lent by DHCPv6
	ofUser                     // named by Config
)

// An address is one of ours, or to become it.
type address struct {
	origin origin
	addr   netip.Addr
	prefix netip.Prefix // it was made in; invalid for one that was lent

	// An address is in use once it has been probed. One that is probed again, on a new
	// session, stays so meanwhile.
	usable  bool
	probing bool
	due     time.Time // when the probe is over, or begins if sent is false
	sent    bool
	attempt byte // how many before it were taken

	confirmed                  bool      // in this session
	preferredUntil, validUntil time.Time // zero is for ever
}

const (
	// probeTime is how long an owner may take to answer (RFC 4861 section 10, RetransTimer).
	probeTime = time.Second
	// maxAttempts bounds how many addresses are tried for one prefix (RFC 7217 section 6).
	maxAttempts = 3
	maxPrefixes = 8
	// maxAbandoned bounds how many prefixes are remembered as hopeless.
	maxAbandoned = 32
)

var linkLocal = netip.MustParsePrefix("fe80::/64")

// opaque returns our address in a prefix of 64 bits (RFC 7217 section 5).
func (c *Client) opaque(p netip.Prefix, attempt byte) netip.Addr {
	b := p.Masked().Addr().As16()
	for n := uint16(0); ; n++ {
		h := hmac.New(sha256.New, c.key)
		h.Write(b[:8])
		h.Write(c.mac[:])
		h.Write([]byte{attempt})
		h.Write(binary.BigEndian.AppendUint16(nil, n))
		copy(b[8:], h.Sum(nil))
		if id := binary.BigEndian.Uint64(b[8:]); !reserved(id) {
			return netip.AddrFrom16(b)
		}
		clear(b[8:])
	}
}

// reserved reports whether an identifier belongs to routers, proxies or anycast groups
// (RFC 5453).
func reserved(id uint64) bool {
	return id == 0 || id>>24 == 0x02005efffe || id >= 0xfdffffffffffff80 && id <= 0xfdffffffffffffff
}

func (r *running) find(o origin) *address {
	for _, a := range r.known.addresses {
		if a.origin == o {
			return a
		}
	}
	return nil
}

// local returns our address on the link, nil if all that we have tried are taken.
func (r *running) local() *address { return r.find(ofLink) }

func (r *running) add(a *address, now time.Time) {
	a.confirmed = true
	a.probe(now)
	r.known.addresses = append(r.known.addresses, a)
}

func (r *running) remove(a *address) {
	r.known.addresses = slices.DeleteFunc(r.known.addresses, func(x *address) bool { return x == a })
}

// probe begins a probe.
func (a *address) probe(now time.Time) { a.probing, a.sent, a.due = true, false, now }

// stepAddress sends the probe of a, or ends it.
func (r *running) stepAddress(a *address, now time.Time) {
	if !a.probing || now.Before(a.due) {
		return
	}
	if !a.sent {
		r.send(probe(r.mac, a.addr))
		a.sent, a.due = true, now.Add(probeTime)
		return
	}
	a.probing, a.usable, a.due = false, true, time.Time{}
	if a.origin == ofLink {
		r.known.lease.hurry(now) // which has waited for it
	}
}

// watch has Filter listen for owners of the addresses under probe.
func (r *running) watch() {
	watched := []netip.Addr{} // not nil: Run runs
	for _, a := range r.known.addresses {
		if a.probing {
			watched = append(watched, a.addr)
		}
	}
	if old := r.watched.Load(); old == nil || !slices.Equal(*old, watched) {
		r.watched.Store(&watched)
	}
}

// taken replaces an address that somebody else has, or gives up.
func (r *running) taken(target netip.Addr, who mac, now time.Time) {
	i := slices.IndexFunc(r.known.addresses, func(a *address) bool { return a.addr == target && a.probing })
	if i < 0 {
		return
	}
	a := r.known.addresses[i]
	r.remove(a)
	r.log.Warn("ipv6: address is used by somebody else", "address", a.addr, "owner", netMAC(who))
	switch a.origin {
	case ofUser:
		r.log.Error("ipv6: the static address is not used: give another (-address6)", "address", a.addr)
	case ofServer:
		r.decline(a, now)
	case ofLink, ofRouter:
		if a.attempt+1 >= maxAttempts {
			r.log.Warn("ipv6: giving up: every address tried is taken", "prefix", a.prefix)
			if a.origin == ofRouter {
				old := r.known.abandoned
				r.known.abandoned = append(old[max(0, len(old)-maxAbandoned):], a.prefix)
			}
			return
		}
		next := &address{
			origin: a.origin, prefix: a.prefix, attempt: a.attempt + 1, addr: r.opaque(a.prefix, a.attempt+1),
			preferredUntil: a.preferredUntil, validUntil: a.validUntil,
		}
		r.add(next, now)
		if a.origin == ofLink {
			own := next.addr
			r.answered.Store(&own)
		}
	}
}
