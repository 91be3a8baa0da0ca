package binding

import (
	"net"
	"net/netip"
)

// Network narrows tcp or udp to IPv4 where that is the family of the address to listen at.
// Package net takes 0.0.0.0 for all addresses there are, those of IPv6 too, and nobody who
// writes it opens the latter on purpose. Of both families are [::] and no host at all.
func Network(network, address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return network
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is4() {
		return network + "4"
	}
	return network
}
