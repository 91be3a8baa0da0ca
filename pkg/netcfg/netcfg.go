// Package netcfg says what network configuration the tunnel calls for: address,
// routes, DNS, MTU. It is data and arithmetic only; who applies it is another
// package's affair (the user-space stack in netstack, the kernel elsewhere).
//
// A Config is a complete statement of what should be. It comes from a DHCP lease
// or from flags, may be applied any number of times, and the zero Config means
// that nothing of ours should be there.
package netcfg

import (
	"net/netip"
	"slices"
)

// DefaultMTU is used where neither the lease nor the user names one, in IP bytes.
const DefaultMTU = 1500

// Config is the desired configuration of the tunnel's interface. What is not of IPv6
// by its name is of IPv4, or of both. It is treated as immutable once handed on.
type Config struct {
	Address netip.Prefix // our address and its on-link prefix; invalid means none
	Gateway netip.Addr   // the router for everything no Route covers; invalid means none
	Routes  []Route      // classless static routes, without the default route
	IPv6    IPv6         // for a host that is all ours; a machine's kernel configures itself
	DNS     DNS          // the servers may be of either family
	MTU     int          // IP bytes; 0 means DefaultMTU
	NTP     []netip.Addr
}

// IPv6 is the IPv6 side of a Config. The zero value asks for none.
type IPv6 struct {
	Addresses []Address6   // ours, the link-local one among them
	Gateways  []netip.Addr // routers for everything no Route covers, the best first
	Routes    []Route      // what is on the link, which no address implies (RFC 5942), and beyond it
}

// An Address6 is an IPv6 address of ours.
type Address6 struct {
	Addr netip.Addr
	// Deprecated says that it is for connections that there are, and not for new ones
	// if there is another.
	Deprecated bool
}

// Equal reports whether a and b ask for the same.
func (a IPv6) Equal(b IPv6) bool {
	return slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Gateways, b.Gateways) && slices.Equal(a.Routes, b.Routes)
}

// Usable reports whether there is an address to reach others by than those on the link.
func (a IPv6) Usable() bool {
	return slices.ContainsFunc(a.Addresses, func(x Address6) bool { return !x.Addr.IsLinkLocalUnicast() })
}

// A Route sends packets for Dest to Via, or straight onto the link if Via is
// invalid or unspecified (RFC 3442, router 0.0.0.0).
type Route struct {
	Dest netip.Prefix
	Via  netip.Addr
}

// DNS names the resolvers reachable through the tunnel and the domains that
// complete a name without a dot.
type DNS struct {
	Servers []netip.Addr
	Search  []string
}

// EffectiveMTU returns the MTU to use, in IP bytes.
func (c Config) EffectiveMTU() int {
	if c.MTU == 0 {
		return DefaultMTU
	}
	return c.MTU
}

// Equal reports whether c and d ask for the same configuration.
func (c Config) Equal(d Config) bool {
	return c.Address == d.Address && c.Gateway == d.Gateway && c.IPv6.Equal(d.IPv6) &&
		c.EffectiveMTU() == d.EffectiveMTU() &&
		slices.Equal(c.Routes, d.Routes) && slices.Equal(c.NTP, d.NTP) &&
		slices.Equal(c.DNS.Servers, d.DNS.Servers) && slices.Equal(c.DNS.Search, d.DNS.Search)
}

// IsZero reports whether c asks for nothing.
func (c Config) IsZero() bool { return c.Equal(Config{}) }

// NextHop returns the station to send an IPv4 packet to, by the longest prefix;
// invalid means that there is no way.
func (c Config) NextHop(to netip.Addr) netip.Addr {
	if c.Address.Contains(to) {
		return to
	}
	via, bits := c.Gateway, -1
	for _, r := range c.Routes {
		if r.Dest.Contains(to) && r.Dest.Bits() > bits {
			via, bits = r.Via, r.Dest.Bits()
			if !via.IsValid() || via.IsUnspecified() {
				via = to
			}
		}
	}
	return via
}
