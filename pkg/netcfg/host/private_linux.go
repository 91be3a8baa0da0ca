package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg"
)

// A Private is the network stack of a namespace that is there for one tunnel alone.
// There is nobody to spare and nothing to put back: all of the namespace is ours, it
// ends as a whole, and what a configuration asks for is set as it is. It needs
// CAP_NET_ADMIN in the namespace, no file and no directory.
type Private struct {
	nl    *netlink.Handle
	link  netlink.Link
	index int
	mac   [6]byte
	log   *slog.Logger
	six   map[netip.Addr]bool // IPv6 addresses that Apply has added: the kernel has one of its own
}

// OpenPrivate prepares the network namespace of the calling thread, in which
// there is the interface of the tunnel: loopback comes up, ping and ports below 1024
// are for everybody as far as the kernel lets us say so. With ipv6 there may be IPv6, which
// comes by Apply alone, and else there is none. A nil log discards.
func OpenPrivate(tap string, ipv6 bool, log *slog.Logger) (*Private, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("host: open netlink: %w", err)
	}
	p := &Private{nl: nl, log: log, six: map[netip.Addr]bool{}}
	if err := p.open(tap, ipv6); err != nil {
		nl.Close()
		return nil, fmt.Errorf("host: %w", err)
	}
	return p, nil
}

func (p *Private) open(tap string, ipv6 bool) error {
	lo, err := p.nl.LinkByName("lo")
	if err == nil {
		err = p.nl.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set the loopback interface up: %w", err)
	}
	if p.link, err = p.nl.LinkByName(tap); err != nil {
		return fmt.Errorf("%s: %w", tap, err)
	}
	p.index = p.link.Attrs().Index
	copy(p.mac[:], p.link.Attrs().HardwareAddr)
	gid := strconv.Itoa(os.Getgid())
	settings := []setting{
		{Path: "net/ipv4/ping_group_range", Value: gid + " " + gid},
		{Path: "net/ipv4/ip_unprivileged_port_start", Value: "0"},
		{Path: "net/ipv4/conf/" + tap + "/promote_secondaries", Value: "1"},
	}
	if ipv6 {
		settings = append(settings, setting{Path: "net/ipv6/conf/" + tap + "/accept_ra", Value: "0"})
	} else {
		settings = append(settings, setting{Path: "net/ipv6/conf/" + tap + "/disable_ipv6", Value: "1"})
	}
	for _, s := range settings {
		err := os.WriteFile(filepath.Join(settingsDir, s.Path), []byte(s.Value), 0o644)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // as without IPv6
			p.log.Debug("not set", "setting", s.Path, "cause", err)
		}
	}
	if err := p.nl.LinkSetUp(p.link); err != nil {
		return fmt.Errorf("set %s up: %w", tap, err)
	}
	return nil
}

// Apply makes the interface as the configuration says and announces the address. The
// zero Config takes the addresses and routes away. New ones come before old ones go,
// so what stays the same is never gone. It may be called again after an error.
func (p *Private) Apply(_ context.Context, cfg netcfg.Config) error {
	if cfg.IsZero() {
		return errors.Join(p.removeRoutes(nil), p.removeAddresses(netip.Prefix{}), p.applyIPv6(netcfg.IPv6{}))
	}
	if err := p.nl.LinkSetMTU(p.link, cfg.EffectiveMTU()); err != nil {
		return fmt.Errorf("host: set MTU %d: %w", cfg.EffectiveMTU(), err)
	}
	if err := p.applyIPv6(cfg.IPv6); err != nil {
		return err
	}
	if !cfg.Address.IsValid() {
		return errors.Join(p.removeRoutes(nil), p.removeAddresses(netip.Prefix{}))
	}
	addr := &netlink.Addr{IPNet: ipNet(cfg.Address), LinkIndex: p.index}
	if err := p.nl.AddrReplace(p.link, addr); err != nil {
		return fmt.Errorf("host: add address %v: %w", cfg.Address, err)
	}
	routes := privateRoutes(cfg)
	if err := p.addRoutes(routes, cfg.Address); err != nil {
		return err
	}
	if err := errors.Join(p.removeRoutes(routes), p.removeAddresses(cfg.Address)); err != nil {
		return err
	}
	// Again: with an address the kernel may have removed routes.
	if err := p.addRoutes(routes, cfg.Address); err != nil {
		return err
	}
	if err := announce(p.index, p.mac, cfg.Address.Addr()); err != nil {
		p.log.Debug("address not announced", "cause", err)
	}
	return nil
}

func (p *Private) addRoutes(routes []netcfg.Route, own netip.Prefix) error {
	for _, r := range routes {
		if err := p.nl.RouteReplace(p.route(r, own)); err != nil {
			return fmt.Errorf("host: add route to %v by %v: %w", r.Dest, r.Via, err)
		}
	}
	return nil
}

// privateRoutes lists the routes of a configuration, the default route last: the
// routers of the others may be reached by theirs.
func privateRoutes(cfg netcfg.Config) []netcfg.Route {
	var routes []netcfg.Route
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	gateway := cfg.Gateway
	for _, r := range cfg.Routes {
		if r.Dest == all {
			gateway = r.Via // RFC 3442: with classless routes the router option counts no more
			continue
		}
		routes = append(routes, r)
	}
	if gateway.IsValid() {
		routes = append(routes, netcfg.Route{Dest: all, Via: gateway})
	}
	return routes
}

// route is r for the kernel. A router outside of our subnet is taken to be on the link.
func (p *Private) route(r netcfg.Route, own netip.Prefix) *netlink.Route {
	n := &netlink.Route{Dst: ipNet(r.Dest), LinkIndex: p.index, Protocol: protocol, Table: unix.RT_TABLE_MAIN}
	switch {
	case !r.Via.IsValid() || r.Via.IsUnspecified():
		n.Scope = netlink.SCOPE_LINK
	default:
		n.Gw = ip(r.Via)
		if !own.Contains(r.Via) {
			n.Flags = int(netlink.FLAG_ONLINK)
		}
	}
	return n
}

// removeRoutes removes those of ours that are not wanted.
func (p *Private) removeRoutes(wanted []netcfg.Route) error {
	have, err := p.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{LinkIndex: p.index, Protocol: protocol},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("host: list routes: %w", err)
	}
	keep := map[string]bool{}
	for _, r := range wanted {
		keep[r.Dest.Masked().String()] = true
	}
	for _, r := range have {
		dest := "0.0.0.0/0"
		if r.Dst != nil {
			dest = r.Dst.String()
		}
		if keep[dest] {
			continue
		}
		if err := p.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("host: remove route to %s: %w", dest, err)
		}
	}
	return nil
}

// removeAddresses removes all IPv4 addresses but one.
func (p *Private) removeAddresses(but netip.Prefix) error {
	have, err := p.nl.AddrList(p.link, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("host: list addresses: %w", err)
	}
	for _, a := range have {
		if but.IsValid() && a.IPNet.String() == ipNet(but).String() {
			continue
		}
		if err := p.nl.AddrDel(p.link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("host: remove address %v: %w", a.IPNet, err)
		}
	}
	return nil
}

// HasDefaultRoute reports whether there is a way out already.
func (p *Private) HasDefaultRoute() (bool, error) {
	routes, err := p.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, fmt.Errorf("host: list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.String() == "0.0.0.0/0" {
			return true, nil
		}
	}
	return false, nil
}

// Close leaves everything as it is: it ends with the namespace.
func (p *Private) Close() { p.nl.Close() }
