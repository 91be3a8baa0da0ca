package autoconf

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"time"

	"softether-go/pkg/netcfg"
)

const (
	maxRouters = 8
	maxRoutes  = 16
	maxServers = 8
	maxSearch  = 8
)

// shortest is what a valid lifetime is not cut below by an advertisement, which anybody
// can send (RFC 4862 section 5.5.3).
const shortest = 2 * time.Hour

// A router is one that offers itself for everything.
type router struct {
	addr       netip.Addr
	preference int
	until      time.Time
	confirmed  bool // in this session
	before     bool // known from an earlier one
}

// A routeVia is a route by a router.
type routeVia struct {
	dest netip.Prefix
	via  netip.Addr
}

// A held is something to keep until a time.
type held[T comparable] struct {
	what       T
	preference int
	until      time.Time
	confirmed  bool
}

func unconfirm[T comparable](list []held[T]) {
	for i := range list {
		list[i].confirmed = false
	}
}

func earliest[T comparable](t time.Time, list []held[T]) time.Time {
	for _, x := range list {
		t = earlier(t, x.until)
	}
	return t
}

// keep puts x into a list of at most so many, in place of what it had of the same; one
// whose time is over already is taken out. It is false if there is no room.
func keep[T comparable](list []held[T], x held[T], now time.Time, most int) ([]held[T], bool) {
	i := slices.IndexFunc(list, func(y held[T]) bool { return y.what == x.what })
	x.confirmed = true
	switch {
	case !now.Before(x.until):
		if i >= 0 {
			list = slices.Delete(list, i, i+1)
		}
	case i >= 0:
		list[i] = x
	case len(list) >= most:
		return list, false
	default:
		list = append(list, x)
	}
	return list, true
}

// hear deals with what Filter has copied.
func (r *running) hear(h heard, now time.Time) {
	switch h.kind {
	case 0:
		r.hearServer(h, now)
	case routerAdvertisement:
		a, err := parseAdvert(h.body)
		if err != nil || r.static.IsValid() {
			r.ignored.Add(1)
			return
		}
		r.hearRouter(h.src, a, now)
	case neighborAdvertisement:
		r.taken(netip.AddrFrom16([16]byte(h.body[4:])), h.from, now)
	case neighborSolicitation:
		target := netip.AddrFrom16([16]byte(h.body[4:]))
		if h.src == unspecified {
			r.taken(target, h.from, now)
		} else if own := r.local(); own != nil && own.usable && own.addr == target {
			r.send(advertise(r.mac, target, h.from, h.src))
		}
	}
}

// hearRouter takes in an advertisement.
func (r *running) hearRouter(from netip.Addr, a advert, now time.Time) {
	k := &r.known
	r.soliciting = false
	if r.spoken.IsZero() {
		r.spoken = now
	}
	r.noteRouter(router{addr: from, preference: a.preference, until: now.Add(a.lifetime), confirmed: true}, now)
	if a.mtu != 0 {
		k.mtu, r.mtuSaid = a.mtu, true
	}
	fits := true
	note := func(ok bool) { fits = fits && ok }
	var ok bool
	for _, p := range a.prefixes {
		if p.onLink {
			k.onLink, ok = keep(k.onLink, held[netip.Prefix]{what: p.prefix, until: now.Add(p.valid)}, now, maxRoutes)
			note(ok)
		}
		if p.auto && p.prefix.Bits() == 64 && p.preferred <= p.valid {
			note(r.notePrefix(p, now))
		}
	}
	for _, x := range a.routes {
		via := routeVia{x.prefix, from}
		k.routes, ok = keep(k.routes, held[routeVia]{what: via, preference: x.preference, until: now.Add(x.lifetime)}, now, maxRoutes)
		note(ok)
	}
	for _, x := range a.servers {
		k.servers, ok = keep(k.servers, held[netip.Addr]{what: x.what, until: now.Add(x.lifetime)}, now, maxServers)
		note(ok)
	}
	for _, x := range a.search {
		k.search, ok = keep(k.search, held[string]{what: x.what, until: now.Add(x.lifetime)}, now, maxSearch)
		note(ok)
	}
	if !fits {
		r.overflow.Add(1)
	}
	r.managed, r.other = r.managed || a.managed, r.other || a.other
	k.lease.want(a.managed, a.other, now)
}

func (r *running) noteRouter(x router, now time.Time) {
	k := &r.known
	i := slices.IndexFunc(k.routers, func(y router) bool { return y.addr == x.addr })
	switch {
	case !now.Before(x.until):
		if i >= 0 {
			k.routers = slices.Delete(k.routers, i, i+1)
		}
	case i >= 0:
		x.before = k.routers[i].before
		k.routers[i] = x
	case len(k.routers) < maxRouters:
		k.routers = append(k.routers, x)
	default:
		r.overflow.Add(1)
	}
}

// notePrefix makes an address in a prefix, or changes the lifetimes of the one there is
// (RFC 4862 section 5.5.3). It is false if there are too many.
func (r *running) notePrefix(p prefixInfo, now time.Time) bool {
	k := &r.known
	prefixes := 0
	for _, a := range k.addresses {
		if a.origin != ofRouter {
			continue
		}
		prefixes++
		if a.prefix != p.prefix {
			continue
		}
		a.confirmed = true
		a.preferredUntil = now.Add(p.preferred)
		switch left := a.validUntil.Sub(now); {
		case p.valid > shortest || p.valid > left:
			a.validUntil = now.Add(p.valid)
		case left > shortest:
			a.validUntil = now.Add(shortest)
		}
		return true
	}
	switch {
	case p.preferred == 0 || slices.Contains(k.abandoned, p.prefix):
		return true // not for new connections, so not for us
	case prefixes >= maxPrefixes:
		return false
	}
	r.add(&address{
		origin: ofRouter, prefix: p.prefix, addr: r.opaque(p.prefix, 0),
		preferredUntil: now.Add(p.preferred), validUntil: now.Add(p.valid),
	}, now)
	return true
}

// expire drops what is over, and once what another network had.
func (r *running) expire(now time.Time) {
	k := &r.known
	over := func(until time.Time) bool { return !until.IsZero() && !now.Before(until) }
	drop := func(confirmed bool) bool { return false }
	if !r.spoken.IsZero() && !r.staleDropped && !now.Before(r.spoken.Add(patience)) {
		r.staleDropped = true
		drop = func(confirmed bool) bool { return !confirmed }
		if !r.mtuSaid {
			k.mtu = 0
		}
		if len(k.routers) > 0 && r.before > 0 && !slices.ContainsFunc(k.routers, func(x router) bool { return x.before && x.confirmed }) {
			r.log.Info("ipv6: this is another network than before")
			r.forgetLent()
			k.lease = lease{}
			k.lease.want(r.managed, r.other, now)
		}
	}
	had := len(k.routers)
	k.routers = slices.DeleteFunc(k.routers, func(x router) bool { return over(x.until) || drop(x.confirmed) })
	k.onLink = dropHeld(k.onLink, over, drop)
	k.routes = dropHeld(k.routes, over, drop)
	k.servers = dropHeld(k.servers, over, drop)
	k.search = dropHeld(k.search, over, drop)
	k.addresses = slices.DeleteFunc(k.addresses, func(a *address) bool {
		gone := over(a.validUntil) || a.origin == ofRouter && drop(a.confirmed)
		if gone {
			r.log.Info("ipv6: address is over", "address", a.addr)
		}
		return gone
	})
	if had > 0 && len(k.routers) == 0 && !r.static.IsValid() {
		r.soliciting, r.solicited, r.askRouters = true, 0, now // who knows who is there
	}
}

func dropHeld[T comparable](list []held[T], over func(time.Time) bool, drop func(bool) bool) []held[T] {
	return slices.DeleteFunc(list, func(x held[T]) bool { return over(x.until) || drop(x.confirmed) })
}

// config is what all of it comes to.
func (r *running) config(now time.Time) netcfg.Config {
	k := &r.known
	var c netcfg.Config
	for _, a := range k.addresses {
		if a.usable {
			deprecated := !a.preferredUntil.IsZero() && !now.Before(a.preferredUntil)
			c.IPv6.Addresses = append(c.IPv6.Addresses, netcfg.Address6{Addr: a.addr, Deprecated: deprecated})
		}
	}
	if len(c.IPv6.Addresses) == 0 {
		return c // nothing can be sent yet
	}
	c.MTU = k.mtu
	if r.static.IsValid() {
		if c.IPv6.Usable() {
			c.IPv6.Routes = []netcfg.Route{{Dest: r.static.Masked()}}
			if r.gateway.IsValid() {
				c.IPv6.Gateways = []netip.Addr{r.gateway}
			}
		}
		return c
	}
	for _, x := range k.onLink {
		c.IPv6.Routes = append(c.IPv6.Routes, netcfg.Route{Dest: x.what})
	}
	for _, x := range sorted(k.routes) {
		c.IPv6.Routes = append(c.IPv6.Routes, netcfg.Route{Dest: x.what.dest, Via: x.what.via})
	}
	routers := slices.Clone(k.routers)
	slices.SortStableFunc(routers, func(a, b router) int { return -cmp.Compare(a.preference, b.preference) })
	for _, x := range routers {
		c.IPv6.Gateways = append(c.IPv6.Gateways, x.addr)
	}
	c.DNS.Servers = append(c.DNS.Servers, r.known.lease.servers...)
	for _, x := range k.servers {
		if !slices.Contains(c.DNS.Servers, x.what) {
			c.DNS.Servers = append(c.DNS.Servers, x.what)
		}
	}
	c.DNS.Search = append(c.DNS.Search, r.known.lease.search...)
	for _, x := range k.search {
		if !slices.Contains(c.DNS.Search, x.what) {
			c.DNS.Search = append(c.DNS.Search, x.what)
		}
	}
	return c
}

func sorted[T comparable](list []held[T]) []held[T] {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b held[T]) int { return -cmp.Compare(a.preference, b.preference) })
	return list
}

// report logs what there is now, if it leads beyond the link.
func (r *running) report(c netcfg.Config) {
	if !c.IPv6.Usable() {
		return
	}
	var addrs []netip.Addr
	for _, a := range c.IPv6.Addresses {
		if !a.Addr.IsLinkLocalUnicast() && !a.Deprecated {
			addrs = append(addrs, a.Addr)
		}
	}
	r.log.Info("ipv6: configured", "addresses", addrs, "gateways", c.IPv6.Gateways, "dns", c.DNS.Servers)
}

func netMAC(m mac) net.HardwareAddr { return net.HardwareAddr(m[:]) }
