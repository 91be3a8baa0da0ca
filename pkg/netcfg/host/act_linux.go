package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	nlpkg "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg/host/resolv"
)

// An actor takes steps.
type actor struct {
	nl    *netlink.Handle
	tap   netIf
	marks marker
	names namer
}

// A marker keeps the table of marks; the zero marks take it away. It is for one
// goroutine at a time.
type marker interface {
	Set(marks) error
}

// A namer keeps the name servers. It is for one goroutine at a time.
type namer interface {
	Set(context.Context, resolv.Names) error
	Restore(context.Context) error
	Held() bool // reports whether what was set is still in force
}

// take takes one step. What is gone already need not be removed.
func (a *actor) take(ctx context.Context, s step) error {
	err := a.act(ctx, s)
	if s.Do == remove && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s, explain(s, err))
	}
	return nil
}

// explain adds the remedy where one is known.
func explain(s step, err error) error {
	_, isRoute := s.New.(route)
	_, isRule := s.New.(rule)
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: needs root or CAP_NET_ADMIN", err)
	case errors.Is(err, unix.EEXIST) && isRoute:
		return fmt.Errorf("%w: someone else has a route to the same destination with the same metric", err)
	case isRule && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)):
		return fmt.Errorf("%w: the kernel lacks policy routing (CONFIG_IP_MULTIPLE_TABLES)", err)
	}
	return err
}

func (a *actor) act(ctx context.Context, s step) error {
	subject := s.New
	if s.Do == remove {
		subject = s.Old
	}
	switch i := subject.(type) {
	case setting:
		if s.Do == remove {
			return a.restoreSetting(i)
		}
		return a.writeSetting(i.Path, i.Value)
	case link:
		return a.setLink(s)
	case address:
		return a.setAddress(s.Do, i)
	case route:
		return a.setRoute(s.Do, i)
	case rule:
		return a.setRule(s.Do, i)
	case marks:
		if s.Do == remove {
			i = marks{TAP: i.TAP}
		}
		return a.marks.Set(i)
	case names:
		if s.Do == remove {
			return a.names.Restore(ctx)
		}
		return a.names.Set(ctx, i.parse())
	}
	panic(fmt.Sprintf("host: no way to %v", s))
}

// restoreSetting puts a value back unless someone has changed it since.
func (a *actor) restoreSetting(s setting) error {
	now, err := readSetting(s.Path)
	if err != nil || now != s.Value {
		return nil
	}
	return a.writeSetting(s.Path, s.Was)
}

// writeSetting writes a value. In a container /proc/sys is often read-only; then
// what netlink can set is set by it.
func (a *actor) writeSetting(path, value string) error {
	err := os.WriteFile(filepath.Join(settingsDir, path), []byte(value), 0o644)
	if !errors.Is(err, unix.EROFS) {
		return err
	}
	parts := strings.Split(path, "/") // net ipv4 conf NAME KEY
	number, bad := strconv.Atoi(value)
	conf, known := inetConf[parts[len(parts)-1]]
	switch {
	case parts[1] == "ipv4" && known && bad == nil:
		return a.setInetConf(parts[3], conf, uint32(number))
	case parts[1] == "ipv6":
		return a.setIPv6(parts[3], parts[4], value)
	}
	return err
}

// inetConf are numbers of settings in IFLA_INET_CONF: IPV4_DEVCONF_ in linux/ip.h.
var inetConf = map[string]uint16{"rp_filter": 8, "promote_secondaries": 20}

const iflaInetConf = 1 // IFLA_INET_CONF in linux/if_link.h

func (a *actor) setInetConf(name string, conf uint16, value uint32) error {
	l, err := a.nl.LinkByName(name)
	if err != nil {
		return err
	}
	req := nlpkg.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nlpkg.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	spec := nlpkg.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	inet := spec.AddRtAttr(unix.AF_INET, nil)
	inet.AddRtAttr(iflaInetConf, nil).AddRtAttr(int(conf), nlpkg.Uint32Attr(value))
	req.AddData(spec)
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// setIPv6 does what it can where /proc/sys is read-only: without a link-local
// address the kernel does not configure IPv6. The rest of SLAAC's settings are
// near their defaults anyway.
func (a *actor) setIPv6(name, key, value string) error {
	if key != "disable_ipv6" {
		return nil
	}
	l, err := a.nl.LinkByName(name)
	if err != nil {
		return err
	}
	mode := 0 // IN6_ADDR_GEN_MODE_EUI64
	if value == "1" {
		mode = 1 // IN6_ADDR_GEN_MODE_NONE
	}
	err = a.nl.LinkSetIP6AddrGenMode(l, mode)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // no IPv6 here
	}
	return err
}

// setLink changes what differs.
func (a *actor) setLink(s step) error {
	old, _ := s.Old.(link)
	now, _ := s.New.(link)
	l := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: a.tap.Index, Name: a.tap.Name}}
	if now.MTU != old.MTU && now.MTU != 0 {
		if err := a.nl.LinkSetMTU(l, now.MTU); err != nil {
			return err
		}
	}
	switch {
	case now.Up && !old.Up:
		return a.nl.LinkSetUp(l)
	case old.Up && !now.Up:
		return a.nl.LinkSetDown(l)
	}
	return nil
}

func (a *actor) setAddress(do verb, i address) error {
	addr := &netlink.Addr{IPNet: ipNet(i.Prefix), LinkIndex: a.tap.Index}
	if do == remove {
		return a.nl.AddrDel(nil, addr)
	}
	err := a.nl.AddrAdd(nil, addr)
	if errors.Is(err, unix.EEXIST) {
		return nil // by someone's hand, or an earlier life of a lasting TAP
	}
	return err
}

func (a *actor) setRoute(do verb, i route) error {
	r := &netlink.Route{Table: i.Table, Dst: ipNet(i.Dest), Gw: ip(i.Via), LinkIndex: i.Dev, Priority: i.Metric,
		Src: ip(i.Source), MTU: i.MTU, Protocol: protocol, Type: unix.RTN_UNICAST}
	if i.Kind == unreachable {
		r.Type = unix.RTN_UNREACHABLE
	}
	if i.Kind == unicast && !i.Via.IsValid() && i.Dest.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	if i.OnLink {
		r.Flags = unix.RTNH_F_ONLINK
	}
	if i.Via.IsValid() && i.Via.Is6() && i.Dest.Addr().Is4() {
		r.Gw, r.Via = nil, &netlink.Via{AddrFamily: unix.AF_INET6, Addr: ip(i.Via)}
	}
	switch do {
	case add:
		return a.nl.RouteAdd(r)
	case replace:
		return a.nl.RouteReplace(r)
	default:
		return a.nl.RouteDel(r)
	}
}

func (a *actor) setRule(do verb, i rule) error {
	r := netlink.NewRule()
	r.Priority, r.Table, r.Protocol, r.Src = i.Priority, i.Table, protocol, ipNet(i.From)
	r.Family = unix.AF_INET
	if i.V6 {
		r.Family = unix.AF_INET6
	}
	if i.Mark != 0 {
		mask := uint32(markMask)
		r.Mark, r.Mask = i.Mark, &mask
	}
	if do == remove {
		return a.nl.RuleDel(r)
	}
	err := a.nl.RuleAdd(r)
	if errors.Is(err, unix.EEXIST) {
		return nil // the kernel's listing lagged behind
	}
	return err
}
