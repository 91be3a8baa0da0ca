package host

import (
	"net/netip"
	"slices"
	"strings"

	"softether-go/pkg/netcfg"
)

// A wish is all that decides what should be there, but for the host itself.
type wish struct {
	Options
	Config  netcfg.Config
	Servers []netip.Addr
	Closed  bool // nothing should be there
	InForce bool // the configuration has been accepted before
	LinkWas link // the TAP before us

	TunnelMark, KeepMark uint32             // zero where there is no nf_tables
	Set                  map[string]setting // what we have changed already, by path
}

var (
	default4 = netip.MustParsePrefix("0.0.0.0/0")
	default6 = netip.MustParsePrefix("::/0")
	halves4  = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1")}
	halves6  = []netip.Prefix{netip.MustParsePrefix("::/1"), netip.MustParsePrefix("8000::/1")}
)

// want returns the items that should be on the host, or why the configuration
// cannot be.
func want(v view, w wish) ([]item, error) {
	if w.Closed {
		return []item{w.LinkWas}, nil
	}
	b := builder{v: v, w: w, gateway: w.gateway(), statics: w.statics()}
	b.tap()
	b.servers()
	if w.Config.IsZero() {
		return b.items, nil
	}
	if err := refuse(v, w); err != nil && !w.InForce {
		return nil, err
	}
	b.add(address{w.Config.Address})
	b.loosen(v.TAP)
	b.wayBack()
	b.policy()
	b.routes4()
	b.routes6()
	b.marks()
	b.names()
	return b.items, nil
}

// gateway is the router for all that no route covers, wherever the lease has it.
func (w wish) gateway() netip.Addr {
	if w.Config.Gateway.IsValid() {
		return w.Config.Gateway
	}
	for _, r := range w.Config.Routes {
		if r.Dest.Bits() == 0 && r.Via.IsValid() && !r.Via.IsUnspecified() {
			return r.Via
		}
	}
	return netip.Addr{}
}

// statics are the classless routes to use.
func (w wish) statics() []netcfg.Route {
	if !w.AcceptStaticRoutes {
		return nil
	}
	var routes []netcfg.Route
	for _, r := range w.Config.Routes {
		if r.Dest.Bits() == 0 || !r.Dest.Addr().Is4() {
			continue
		}
		if r.Via.IsValid() && r.Via.IsUnspecified() {
			r.Via = netip.Addr{}
		}
		routes = append(routes, netcfg.Route{Dest: r.Dest.Masked(), Via: r.Via})
	}
	return routes
}

func (w wish) takesDefault() bool { return w.AcceptDefaultGateway && w.gateway().IsValid() }

// A builder collects the items of one wish on one host.
type builder struct {
	v       view
	w       wish
	gateway netip.Addr
	statics []netcfg.Route
	items   []item
}

func (b *builder) add(i item) { b.items = append(b.items, i) }

// changed returns what we have set of an interface before.
func (b *builder) changed(path string, of netIf) (setting, bool) {
	s, ok := b.w.Set[path]
	return s, ok && s.Dev == of.Index
}

// set asks for a value under /proc/sys. One that we have set before and that someone
// changed since is left to them.
func (b *builder) set(path, value string, of netIf) {
	old, done := b.changed(path, of)
	current, known := b.v.Settings[path]
	switch {
	case done:
		b.add(old)
	case known && current != value:
		b.add(setting{Path: path, Value: value, Was: current, Dev: of.Index})
	}
}

// tap is what the interface needs before it has an address.
func (b *builder) tap() {
	four, six := "net/ipv4/conf/"+b.v.TAP.Name+"/", "net/ipv6/conf/"+b.v.TAP.Name+"/"
	if !b.w.SLAAC {
		b.set(six+"disable_ipv6", "1", b.v.TAP)
	} else {
		b.set(six+"disable_ipv6", "0", b.v.TAP)
		b.set(six+"accept_ra", "2", b.v.TAP) // also where this host forwards
		b.set(six+"autoconf", "1", b.v.TAP)
		defrtr := "0"
		if b.w.AcceptDefaultGateway {
			defrtr = "1"
		}
		b.set(six+"accept_ra_defrtr", defrtr, b.v.TAP)
	}
	// Without it the kernel removes a new address along with the old one of its subnet.
	b.set(four+"promote_secondaries", "1", b.v.TAP)
	mtu := b.w.LinkWas.MTU
	if !b.w.Config.IsZero() {
		mtu = b.w.Config.EffectiveMTU()
	}
	b.add(link{Up: true, MTU: mtu})
}

// servers are kept outside the tunnel, by the way that leads to them without us.
// Where there is none, their packets must not go into the tunnel either.
func (b *builder) servers() {
	for _, s := range b.w.Servers {
		host := route{Table: tableMain, Dest: netip.PrefixFrom(s, s.BitLen()), Metric: guardBase + b.v.TAP.Index}
		way, reach := b.v.underlay(s)
		switch {
		case reach == byRoute:
			host.Via, host.Dev, host.Source, host.MTU, host.OnLink = way.Via, way.Dev, way.Source, way.MTU, way.OnLink
			b.add(host)
		case reach == noWay && s.Is4() && !b.w.Config.IsZero() && b.w.takesDefault():
			host.Kind = unreachable
			b.add(host)
		}
	}
}

// loosen lets packets in that would be answered by another interface, if the
// reverse-path filter is strict there. The kernel takes the higher of two values.
func (b *builder) loosen(i netIf) {
	path := "net/ipv4/conf/" + i.Name + "/rp_filter"
	all, own := b.v.Settings["net/ipv4/conf/all/rp_filter"], b.v.Settings[path]
	if _, done := b.changed(path, i); done || own != "2" && all != "2" && (own == "1" || all == "1") {
		b.set(path, "2", i)
	}
}

// movesTraffic reports whether the main table gets routes that traffic may take
// which went elsewhere before.
func (b *builder) movesTraffic() bool { return b.w.takesDefault() || len(b.statics) > 0 }

// routerByTAP is the IPv6 router on the TAP that the kernel heard of, if any.
func (b *builder) routerByTAP() netip.Addr {
	for _, r := range b.v.Routes {
		if b.w.SLAAC && r.Table == tableMain && r.Dest == default6 && r.Dev == b.v.TAP.Index &&
			r.Protocol != protocol && r.Via.IsValid() {
			return r.Via
		}
	}
	return netip.Addr{}
}

func (b *builder) moves6() bool { return b.w.takesDefault() && b.routerByTAP().IsValid() }

// wayBack keeps the way of connections that do not belong to the tunnel.
func (b *builder) wayBack() {
	if !b.movesTraffic() {
		return
	}
	table, six := keepBase+b.v.TAP.Index, b.moves6()
	for _, r := range b.v.Routes {
		refuses := r.Kind == unreachable && r.Dest.Addr().Is4() // whom the host does not speak to
		if r.Table != tableMain || r.Protocol == protocol || r.Kind != unicast && !refuses || r.Odd || r.Dead ||
			b.tunnel(r.Dev) || r.Dest.Addr().Is6() && (!six || scoped(r.Dest.Addr())) {
			continue
		}
		r.route.Table = table
		b.add(r.route)
		if r.Via.IsValid() && r.Via.Is4() {
			b.loosen(b.v.Links[r.Dev])
		}
	}
	for _, addr := range b.beside(six) {
		b.add(rule{Priority: keepPriority, V6: addr.Is6(), From: netip.PrefixFrom(addr, addr.BitLen()), Table: table})
	}
	if b.w.KeepMark != 0 {
		b.add(rule{Priority: keepPriority, Mark: b.w.KeepMark, Table: table})
	}
	if b.w.KeepMark != 0 && six {
		b.add(rule{Priority: keepPriority, V6: true, Mark: b.w.KeepMark, Table: table})
	}
}

// beside lists the host's addresses that are not on a TAP.
func (b *builder) beside(six bool) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range b.v.Addresses {
		addr := a.Prefix.Addr()
		if !b.tunnel(a.Dev) && !addr.IsLoopback() && (addr.Is4() || six && !scoped(addr)) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// tunnel reports whether an interface is the TAP of this or another instance.
func (b *builder) tunnel(dev int) bool { return dev == b.v.TAP.Index || b.v.Links[dev].Sibling }

// scoped reports whether addr means nothing without an interface, which then
// decides by itself.
func scoped(addr netip.Addr) bool { return addr.IsLinkLocalUnicast() || addr.IsMulticast() }

// via is a route by the tunnel.
func (b *builder) via(table int, dest netip.Prefix, gateway netip.Addr) route {
	return route{Table: table, Dest: dest, Via: gateway, Dev: b.v.TAP.Index,
		OnLink: gateway.Is4() && !b.w.Config.Address.Contains(gateway)}
}

// policy is what decides for packets from our address.
func (b *builder) policy() {
	table := b.w.PolicyTable
	if table == 0 {
		return
	}
	own := b.w.Config.Address
	if !own.IsSingleIP() {
		b.add(b.via(table, own.Masked(), netip.Addr{}))
	}
	for _, r := range b.statics {
		b.add(b.via(table, r.Dest, r.Via))
	}
	if b.gateway.IsValid() {
		b.add(b.via(table, default4, b.gateway))
	}
	b.add(rule{Priority: policyPriority, From: netip.PrefixFrom(own.Addr(), own.Addr().BitLen()), Table: table})
	if b.w.ConnMark {
		b.add(rule{Priority: policyPriority, Mark: b.w.TunnelMark, Table: table})
	}
}

// routes4 are what the lease adds to the main table.
func (b *builder) routes4() {
	dests := make([]netip.Prefix, 0, 3)
	if b.w.takesDefault() {
		best, same := b.rivalDefault()
		if !same {
			dests = append(dests, default4)
		}
		if best >= 0 && best <= routeMetric {
			dests = append(dests, halves4...)
		}
	}
	for _, d := range dests {
		r := b.via(tableMain, d, b.gateway)
		r.Metric = routeMetric
		b.add(r)
	}
	for _, s := range b.statics {
		r := b.via(tableMain, s.Dest, s.Via)
		r.Metric = routeMetric
		b.add(r)
	}
}

// rivalDefault returns the best metric of others' default routes, -1 if there is
// none, and whether one has the metric that ours would have.
func (b *builder) rivalDefault() (best int, same bool) {
	best = -1
	for _, r := range b.v.Routes {
		if r.Table != tableMain || r.Dest != default4 || r.ours(b.v.TAP.Index) {
			continue
		}
		if best < 0 || r.Metric < best {
			best = r.Metric
		}
		same = same || r.Metric == routeMetric
	}
	return best, same
}

// routes6 lead IPv6 into the tunnel if the kernel found a router there.
func (b *builder) routes6() {
	if !b.moves6() {
		return
	}
	for _, d := range halves6 {
		r := b.via(tableMain, d, b.routerByTAP())
		r.Metric = routeMetric
		b.add(r)
	}
}

func (b *builder) marks() {
	m := marks{TAP: b.v.TAP.Name}
	if b.w.ConnMark {
		m.Tunnel = b.w.TunnelMark
	}
	if b.movesTraffic() {
		m.Keep = b.w.KeepMark
		m.Others = b.siblings()
	}
	if m.Keep != 0 {
		m.Own = b.own()
	}
	if b.w.BlockIPv6 && b.w.takesDefault() {
		m.Block, m.Allow = true, b.beside6()
	}
	if m != (marks{TAP: m.TAP}) {
		b.add(m)
	}
}

// own lists the IPv4 addresses to which connections may have come before us.
func (b *builder) own() string {
	var own []string
	for _, a := range b.beside(false) {
		own = append(own, a.String())
	}
	slices.Sort(own)
	return strings.Join(slices.Compact(own), " ")
}

// siblings lists the TAPs of other instances.
func (b *builder) siblings() string {
	var taps []string
	for _, i := range b.v.Links {
		if i.Sibling {
			taps = append(taps, i.Name)
		}
	}
	slices.Sort(taps)
	return strings.Join(taps, " ")
}

// beside6 lists what IPv6 may reach beside the tunnel: what has no way through a
// router, and the server.
func (b *builder) beside6() string {
	allow := []string{"fe80::/10", "ff00::/8"}
	for _, a := range b.v.Addresses {
		if a.Prefix.Addr().Is6() && !scoped(a.Prefix.Addr()) && a.Dev != b.v.TAP.Index && !b.v.Links[a.Dev].Loopback {
			allow = append(allow, a.Prefix.Masked().String())
		}
	}
	for _, s := range b.w.Servers {
		if s.Is6() {
			allow = append(allow, netip.PrefixFrom(s, s.BitLen()).String())
		}
	}
	slices.Sort(allow)
	return strings.Join(slices.Compact(allow), " ")
}

func (b *builder) names() {
	dns := b.w.Config.DNS
	if !b.w.AcceptDNS || len(dns.Servers) == 0 {
		return
	}
	var servers []string
	for _, s := range dns.Servers {
		servers = append(servers, s.String())
	}
	b.add(names{Servers: strings.Join(servers, " "), Search: strings.Join(dns.Search, " ")})
}
