package underlay

import (
	"context"
	"net"
	"net/netip"
)

// A machine is what Watch asks about the network here.
type machine interface {
	// addresses returns those of all interfaces, with their interfaces' flags.
	addresses() (map[netip.Addr]net.Flags, error)
	// has reports whether connections may come from an address that no interface has,
	// as by local routes.
	has(netip.Addr) bool
	// way returns which address a connection would come from, none if there is no way.
	way(Bind, netip.Addr) netip.Addr
}

// here is the machine itself.
type here struct{}

func (here) addresses() (map[netip.Addr]net.Flags, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	found := make(map[netip.Addr]net.Flags)
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				found[plain(p.Addr())] |= i.Flags
			}
		}
	}
	return found, nil
}

func (here) has(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// way asks by a UDP socket, whose connecting sends nothing.
func (here) way(b Bind, to netip.Addr) netip.Addr {
	dialer := net.Dialer{LocalAddr: b.local("udp"), Control: (&Dialer{Bind: b}).control}
	c, err := dialer.DialContext(context.Background(), "udp", netip.AddrPortFrom(to, 443).String())
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return plain(c.LocalAddr().(*net.UDPAddr).AddrPort().Addr())
}
