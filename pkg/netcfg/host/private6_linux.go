package host

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg"
)

// firstMetric is that of the best router; the others follow.
const firstMetric = 1024

// applyIPv6 makes the IPv6 side of the interface as c says. As with IPv4 new comes before
// old goes.
func (p *Private) applyIPv6(c netcfg.IPv6) error {
	wanted := make(map[netip.Addr]bool)
	for _, a := range c.Addresses {
		wanted[a.Addr] = true
		if err := p.nl.AddrReplace(p.link, address6(a)); err != nil {
			return fmt.Errorf("host: add address %v: %w", a.Addr, err)
		}
		p.six[a.Addr] = true
	}
	if err := p.applyRoutes6(p.routes6(c)); err != nil {
		return err
	}
	for a := range p.six {
		if wanted[a] {
			continue
		}
		if err := p.nl.AddrDel(p.link, address6(netcfg.Address6{Addr: a})); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("host: remove address %v: %w", a, err)
		}
		delete(p.six, a)
	}
	return nil
}

// address6 is a for the kernel, which need not probe it any more, and which it makes no route
// of: what is on the link is said apart.
func address6(a netcfg.Address6) *netlink.Addr {
	n := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a.Addr, 64)), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE}
	if a.Deprecated {
		n.ValidLft = math.MaxInt32 // and preferred for 0 s
	}
	return n
}

// routes6 lists the routes of c, those by routers last: what they are reached by comes first.
func (p *Private) routes6(c netcfg.IPv6) []*netlink.Route {
	if !c.Usable() {
		return nil
	}
	var near, far []*netlink.Route
	for _, r := range c.Routes {
		n := &netlink.Route{Dst: ipNet(r.Dest), LinkIndex: p.index, Protocol: protocol, Table: unix.RT_TABLE_MAIN, Priority: firstMetric}
		if !r.Via.IsValid() || r.Via.IsUnspecified() {
			near = append(near, n)
			continue
		}
		n.Gw, n.Flags = ip(r.Via), int(netlink.FLAG_ONLINK)
		far = append(far, n)
	}
	for i, gw := range c.Gateways {
		far = append(far, &netlink.Route{Dst: ipNet(netip.PrefixFrom(netip.IPv6Unspecified(), 0)), LinkIndex: p.index, Protocol: protocol,
			Table: unix.RT_TABLE_MAIN, Priority: firstMetric + i, Gw: ip(gw), Flags: int(netlink.FLAG_ONLINK)})
	}
	return append(near, far...)
}

// applyRoutes6 adds routes, and removes those of ours that are not among them.
func (p *Private) applyRoutes6(wanted []*netlink.Route) error {
	keep := make(map[string]bool)
	for _, r := range wanted {
		keep[routeName(r)] = true
		if err := p.nl.RouteReplace(r); err != nil {
			return fmt.Errorf("host: add route to %v by %v: %w", r.Dst, r.Gw, err)
		}
	}
	have, err := p.nl.RouteListFiltered(unix.AF_INET6, &netlink.Route{LinkIndex: p.index, Protocol: protocol},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("host: list routes: %w", err)
	}
	for _, r := range have {
		if keep[routeName(&r)] {
			continue
		}
		if err := p.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("host: remove route to %v: %w", r.Dst, err)
		}
	}
	return nil
}

// routeName tells routes apart.
func routeName(r *netlink.Route) string {
	dest := "::/0"
	if r.Dst != nil {
		dest = r.Dst.String()
	}
	return fmt.Sprintf("%s by %v, metric %d", dest, r.Gw, r.Priority)
}
