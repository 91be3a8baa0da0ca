package main

import (
	"net"
	"net/netip"
	"testing"
)

func TestOwnPortsAreKnownAtEachAddressOfTheirs(t *testing.T) {
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	udp := func(s string) net.Addr { return net.UDPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	var o ownPorts
	o.add(tcp("198.51.100.7:1080"), tcp("0.0.0.0:8080"), tcp("[::]:8081"), udp("0.0.0.0:53"), &net.UnixAddr{Name: "/s"})
	for _, row := range []struct {
		network, to string
		want        bool
	}{
		{"tcp", "198.51.100.7:1080", true},
		{"tcp", "[::ffff:198.51.100.7]:1080", true},
		{"tcp", "198.51.100.7:1081", false},
		{"tcp", "198.51.100.8:1080", false},
		{"udp", "198.51.100.7:1080", false},
		{"tcp", "127.0.0.1:8080", true}, // which stands for any address of an interface
		{"tcp", "[::1]:8080", false},
		{"tcp", "127.0.0.1:8081", true},
		{"tcp", "198.51.100.7:8080", false}, // not of this machine
		{"udp", "127.0.0.1:53", true},
		{"tcp", "127.0.0.1:53", false},
	} {
		if got := o.has(row.network, netip.MustParseAddrPort(row.to)); got != row.want {
			t.Errorf("%s %s: got %v, want %v", row.network, row.to, got, row.want)
		}
	}
}
