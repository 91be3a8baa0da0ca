package dhcp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

// How much of a reply's lists is taken; what follows is dropped.
const (
	maxRoutes  = 256 // SoftEther's SecureNAT pushes up to 64
	maxServers = 8
	maxSearch  = 16
)

// minMTU is the smallest MTU believed: what every host must be able to take
// (RFC 791). Below, a wrong option would strangle the tunnel.
const minMTU = 576

const (
	optionLong            = 250 // continues the option before it
	optionMicrosoftRoutes = dhcpv4.GenericOptionCode(249)

	snameStart, fileStart = 44, 108 // fields that may hold options, RFC 2131 §4.1
)

// decode parses a DHCP message. p is changed.
func decode(p []byte) (*dhcpv4.DHCPv4, error) {
	const cookieEnd = headerEnd + 4
	if len(p) < cookieEnd {
		return nil, fmt.Errorf("message of %d bytes is shorter than its header", len(p))
	}
	joinLong(p[cookieEnd:])
	// The codec insists on an end mark, some servers do not send one.
	m, err := dhcpv4.FromBytes(append(p[:len(p):len(p)], dhcpv4.OptionEnd.Code()))
	if err != nil {
		return nil, err
	}
	overload := m.Options.Get(dhcpv4.OptionOptionOverload)
	if len(overload) != 1 {
		return m, nil
	}
	for _, field := range []struct {
		bit  byte
		data []byte
	}{{1, p[fileStart:headerEnd]}, {2, p[snameStart:fileStart]}} {
		if overload[0]&field.bit == 0 {
			continue
		}
		joinLong(field.data)
		if err := m.Options.FromBytes(field.data); err != nil {
			return nil, fmt.Errorf("overloaded field: %w", err)
		}
	}
	return m, nil
}

// joinLong renames options that continue the one before them. SoftEther, after
// Microsoft, cuts a long option into 255 bytes and pieces under another code
// (Mayaqua/TcpIp.c, BuildDhcpOptionsBuf); the standard repeats the code (RFC 3396).
func joinLong(options []byte) {
	var full byte // the code of the option before, if that has no room left
	for i := 0; i < len(options); {
		code := options[i]
		if code == dhcpv4.OptionPad.Code() {
			i++
			continue
		}
		if code == dhcpv4.OptionEnd.Code() || i+1 == len(options) {
			return
		}
		if code == optionLong && full != 0 {
			options[i] = full
		}
		n := int(options[i+1])
		full = 0
		if n == 255 {
			full = options[i]
		}
		i += 2 + n
	}
}

// leaseFrom reads the lease out of an OFFER or ACK. start is when it was asked for.
func leaseFrom(m *dhcpv4.DHCPv4, r reply, start time.Time) (Lease, error) {
	addr := toAddr(m.YourIPAddr)
	if !usable(addr) {
		return Lease{}, fmt.Errorf("%v is not an address for a host", addr)
	}
	l := Lease{
		Server:    serverOf(m, r),
		ServerMAC: net.HardwareAddr(slices.Clone(r.from[:])),
		Broadcast: toAddr(m.BroadcastAddress()),
	}
	l.Address = netip.PrefixFrom(addr, maskBits(m.SubnetMask()))
	if !usable(l.Server) || l.Server == addr {
		return Lease{}, fmt.Errorf("%v is not an address for a server", l.Server)
	}
	if err := checkHost(l.Address); err != nil {
		return Lease{}, err
	}
	if routers := hosts(m.Router(), addr); len(routers) > 0 {
		l.Gateway = routers[0]
	}
	// The default route of option 121 wins over option 3. Without one, option 3 is
	// kept, although RFC 3442 has it ignored: who sends everything into the tunnel
	// needs it, who wants only the listed routes can leave Gateway alone.
	routes, gateway := routesOf(m, addr)
	l.Routes = routes
	if gateway.IsValid() {
		l.Gateway = gateway
	}
	l.DNS = netcfg.DNS{Servers: hosts(m.DNS(), addr), Search: searchOf(m)}
	l.NTP = hosts(m.NTPServers(), addr)
	l.MTU = mtuOf(m)
	l.schedule(start, m.IPAddressLeaseTime(0), m.IPAddressRenewalTime(0), m.IPAddressRebindingTime(0))
	return l, nil
}

// serverOf returns who speaks: option 54, or the sender where that is missing.
func serverOf(m *dhcpv4.DHCPv4, r reply) netip.Addr {
	if id := toAddr(m.ServerIdentifier()); id.IsValid() {
		return id
	}
	return r.src
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

// usable reports whether a can be the address of one host on a network.
func usable(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	first := a.As4()[0]
	return first != 0 && first != 127 && first < 224
}

// checkHost refuses an address that stands for its whole network.
func checkHost(p netip.Prefix) error {
	if p.Bits() >= 31 {
		return nil // no such addresses there (RFC 3021)
	}
	host := ipKey(p.Addr()) << p.Bits() >> p.Bits()
	if host == 0 || host == 1<<(32-p.Bits())-1 {
		return fmt.Errorf("%v is the network's own or its broadcast address", p)
	}
	return nil
}

// maskBits returns the length of the prefix that mask stands for. A mask that is
// missing or makes no sense counts as 24 bits: the classes of old would put all
// of 10.0.0.0/8 on the link and hide it from the router.
func maskBits(mask net.IPMask) int {
	if ones, bits := mask.Size(); bits == 32 && ones > 0 {
		return ones
	}
	return 24
}

// hosts returns the usable ones of list, each once, without our own.
func hosts(list []net.IP, own netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, ip := range list {
		a := toAddr(ip)
		if len(out) < maxServers && usable(a) && a != own && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// routesOf returns the classless routes of m, and among them the default route's
// router. Option 249 is what old Windows servers send instead of 121.
func routesOf(m *dhcpv4.DHCPv4, own netip.Addr) (routes []netcfg.Route, gateway netip.Addr) {
	var list dhcpv4.Routes
	if list.FromBytes(m.Options.Get(dhcpv4.OptionClasslessStaticRoute)) != nil || len(list) == 0 {
		list = nil
		if list.FromBytes(m.Options.Get(optionMicrosoftRoutes)) != nil {
			return nil, gateway
		}
	}
	for _, r := range list {
		bits, _ := r.Dest.Mask.Size()
		dest := netip.PrefixFrom(toAddr(r.Dest.IP), bits).Masked()
		via := toAddr(r.Router)
		onLink := via.IsUnspecified()
		switch {
		case !onLink && (!usable(via) || via == own):
		case bits == 0 && onLink: // a Config has no word for it
		case bits == 0 && !gateway.IsValid():
			gateway = via
		case bits == 0, dest.Addr().IsLoopback(), dest.Addr().IsMulticast():
		case len(routes) == maxRoutes:
			return routes, gateway
		case onLink:
			routes = append(routes, netcfg.Route{Dest: dest})
		default:
			routes = append(routes, netcfg.Route{Dest: dest, Via: via})
		}
	}
	return routes, gateway
}

// mtuOf returns option 26 as far as it can be followed, zero for the default.
func mtuOf(m *dhcpv4.DHCPv4) int {
	v := m.Options.Get(dhcpv4.OptionInterfaceMTU)
	if len(v) != 2 {
		return 0
	}
	mtu := int(binary.BigEndian.Uint16(v))
	if mtu < minMTU {
		return 0
	}
	return min(mtu, frame.MaxMTU)
}
