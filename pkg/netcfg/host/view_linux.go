package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often a listing is asked for that changed while it was made.
const dumpTries = 5

// dump lists something, again if it changed meanwhile.
func dump[T any](what string, list func() ([]T, error)) ([]T, error) {
	var err error
	for range dumpTries {
		var items []T
		if items, err = list(); err == nil {
			return items, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return nil, fmt.Errorf("list %s: %w", what, err)
}

// look takes a view of the host. Without a TAP of that name there is none in it.
func look(nl *netlink.Handle, tap string, siblings []string) (view, error) {
	v := view{Links: map[int]netIf{}, Settings: map[string]string{}}
	links, err := dump("interfaces", nl.LinkList)
	if err != nil {
		return view{}, err
	}
	for _, l := range links {
		a := l.Attrs()
		i := netIf{Index: a.Index, Name: a.Name, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0,
			Loopback: a.Flags&net.FlagLoopback != 0, Sibling: slices.Contains(siblings, a.Name)}
		copy(i.MAC[:], a.HardwareAddr)
		v.Links[a.Index] = i
		if a.Name == tap {
			v.TAP = i
		}
	}
	addrs, err := dump("addresses", func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return view{}, err
	}
	for _, a := range addrs {
		v.Addresses = append(v.Addresses, ifAddress{Dev: a.LinkIndex, Prefix: prefix(a.IPNet)})
	}
	if err := v.lookRoutes(nl); err != nil {
		return view{}, err
	}
	if err := v.lookRules(nl); err != nil {
		return view{}, err
	}
	v.findSiblings()
	v.lookSettings()
	return v, nil
}

func (v *view) lookRoutes(nl *netlink.Handle) error {
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump("routes", func() ([]netlink.Route, error) {
			return nl.RouteListFiltered(family, all, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return err
		}
		for _, r := range routes {
			v.Routes = append(v.Routes, seeRoute(r))
		}
	}
	return nil
}

// seeRoute keeps of a route what matters here.
func seeRoute(r netlink.Route) seenRoute {
	if len(r.MultiPath) > 0 {
		r = firstPath(r)
	}
	s := seenRoute{
		route: route{Table: r.Table, Dest: prefix(r.Dst), Via: addr(r.Gw), Dev: r.LinkIndex, Metric: r.Priority,
			Source: addr(r.Src), MTU: r.MTU, OnLink: r.Flags&unix.RTNH_F_ONLINK != 0},
		Protocol: int(r.Protocol),
		Dead:     r.Flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) != 0,
		Odd:      r.Tos != 0 || r.Encap != nil || r.MPLSDst != nil,
	}
	if via, ok := r.Via.(*netlink.Via); ok {
		s.Via = addr(via.Addr)
	}
	switch r.Type {
	case unix.RTN_UNICAST:
		s.Kind = unicast
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT:
		s.Kind, s.Dev = unreachable, 0 // IPv6 says lo
	case unix.RTN_THROW:
		s.Kind = throw
	default:
		s.Kind = localRoute
	}
	return s
}

// firstPath reduces a multipath route to its first path that is up.
func firstPath(r netlink.Route) netlink.Route {
	best := r.MultiPath[0]
	for _, p := range r.MultiPath {
		if p.Flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) == 0 {
			best = p
			break
		}
	}
	r.LinkIndex, r.Gw, r.Via, r.Encap, r.MultiPath = best.LinkIndex, best.Gw, best.Via, best.Encap, nil
	r.Flags |= best.Flags
	return r
}

func (v *view) lookRules(nl *netlink.Handle) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := dump("rules", func() ([]netlink.Rule, error) { return nl.RuleList(family) })
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // no IPv6, or no policy routing: the first rule to be added says so
		}
		if err != nil {
			return err
		}
		for _, r := range rules {
			v.Rules = append(v.Rules, seeRule(r, family == netlink.FAMILY_V6))
		}
	}
	return nil
}

// seeRule keeps of a rule what matters here. The kernel lists them by priority.
func seeRule(r netlink.Rule, v6 bool) seenRule {
	s := seenRule{
		rule: rule{Priority: r.Priority, V6: v6, From: prefix(r.Src), Mark: r.Mark, Table: r.Table},
		To:   prefix(r.Dst), Protocol: int(r.Protocol), Invert: r.Invert, Suppress: r.SuppressPrefixlen,
		Odd: r.IifName != "" && r.IifName != "lo" || r.OifName != "" || r.Sport != nil || r.Dport != nil ||
			r.IPProto > 0 || r.UIDRange != nil || r.Tos != 0 || r.Goto >= 0 || r.TunID != 0 || r.SuppressIfgroup >= 0,
	}
	if r.Mask != nil {
		s.Mask = *r.Mask
	}
	return s
}

// prefix converts, to an invalid one from nil.
func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr(n.IP), bits)
}

// addr converts, to an invalid one from nil.
func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func ipNet(p netip.Prefix) *net.IPNet {
	if !p.IsValid() {
		return nil
	}
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func ip(a netip.Addr) net.IP {
	if !a.IsValid() {
		return nil
	}
	return a.AsSlice()
}

const settingsDir = "/proc/sys"

// lookSettings reads the settings that want may ask for. One that cannot be read
// is not there: a kernel without IPv6, an interface that has just gone.
func (v *view) lookSettings() {
	paths := []string{"net/ipv4/conf/all/rp_filter"}
	for _, i := range v.Links {
		paths = append(paths, "net/ipv4/conf/"+i.Name+"/rp_filter")
	}
	if v.TAP.Name != "" {
		paths = append(paths, "net/ipv4/conf/"+v.TAP.Name+"/promote_secondaries")
		for _, name := range []string{"disable_ipv6", "accept_ra", "autoconf", "accept_ra_defrtr"} {
			paths = append(paths, "net/ipv6/conf/"+v.TAP.Name+"/"+name)
		}
	}
	for _, p := range paths {
		if value, err := readSetting(p); err == nil {
			v.Settings[p] = value
		}
	}
}

func readSetting(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join(settingsDir, path))
	return strings.TrimSpace(string(text)), err
}
