package health

import (
	"net/netip"

	"softether-go/pkg/netcfg"
)

// router returns whom there is to ask: the gateway of IPv4, or else IPv6's best. While
// there are both, one tells as much of the tunnel as the other.
func router(c netcfg.Config) (addr netip.Addr) {
	switch {
	case c.Gateway.IsValid() && c.Address.IsValid():
		return c.Gateway
	case c.IPv6.Usable() && len(c.IPv6.Gateways) > 0:
		return c.IPv6.Gateways[0]
	}
	return addr
}

// source returns our address to ask another from; invalid means that there is none of its
// family.
func source(c netcfg.Config, to netip.Addr) (own netip.Addr) {
	if to.Is4() {
		return c.Address.Addr()
	}
	for _, a := range c.IPv6.Addresses {
		switch near := a.Addr.IsLinkLocalUnicast(); {
		case near && !to.IsLinkLocalUnicast():
		case near == to.IsLinkLocalUnicast() && !a.Deprecated:
			return a.Addr
		default:
			own = a.Addr
		}
	}
	return own
}

func isOwn(c netcfg.Config, addr netip.Addr) bool {
	for _, a := range c.IPv6.Addresses {
		if a.Addr == addr {
			return true
		}
	}
	return addr == c.Address.Addr()
}

// nextHop returns the station to send a packet to; invalid means that there is no way.
func nextHop(c netcfg.Config, to netip.Addr) netip.Addr {
	switch {
	case to.Is4():
		return c.NextHop(to)
	case to.IsLinkLocalUnicast():
		return to
	}
	var via netip.Addr
	if len(c.IPv6.Gateways) > 0 {
		via = c.IPv6.Gateways[0]
	}
	bits := -1
	for _, r := range c.IPv6.Routes {
		if r.Dest.Contains(to) && r.Dest.Bits() > bits {
			via, bits = r.Via, r.Dest.Bits()
			if !via.IsValid() || via.IsUnspecified() {
				via = to
			}
		}
	}
	return via
}
