package host

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		host func(*view)
		wish func(*wish)
		want string // in the error
	}{
		{"no address", nil, func(w *wish) { w.Config.Address = netip.Prefix{} }, "not an address"},
		{"an IPv6 address", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("2001:db8::1/64") }, "not an address"},
		{"a loopback address", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("127.0.0.2/8") }, "not an address"},
		{"a multicast address", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("224.0.0.1/24") }, "not an address"},
		{"the unspecified address", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("0.0.0.0/24") }, "not an address"},
		{"the broadcast address", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("255.255.255.255/24") }, "not an address"},
		{"all of the Internet on link", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("10.77.0.50/0") }, "all of the Internet"},
		{"an MTU too small", nil, func(w *wish) { w.Config.MTU = 67 }, "MTU of 67"},
		{"an MTU too large", nil, func(w *wish) { w.Config.MTU = 65536 }, "MTU of 65536"},
		{"ourselves as gateway", nil, func(w *wish) { w.Config.Gateway = netip.MustParseAddr("10.77.0.50") }, "cannot be the gateway"},
		{"a gateway of IPv6", nil, func(w *wish) { w.Config.Gateway = netip.MustParseAddr("fe80::1") }, "cannot be the gateway"},
		{"the server in the VPN's subnet", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("203.0.113.50/24") }, "server's own address 203.0.113.5"},
		{"the local subnet", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("192.0.2.50/24") }, "this host's own 192.0.2.0/24 on eth0"},
		{"a part of the local subnet", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("192.0.2.50/28") }, "this host's own 192.0.2.0/24 on eth0"},
		{"this host's own address", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("192.0.2.10/16") }, "which eth0 has already"},
		{"a route to the local subnet", nil, func(w *wish) { w.Config.Routes[0].Dest = netip.MustParsePrefix("192.0.2.128/25") }, "route to 192.0.2.128/25"},
		{"a route to the server", nil, func(w *wish) { w.Config.Routes[0].Dest = netip.MustParsePrefix("203.0.113.5/32") }, "lead the tunnel into itself"},
		{"a route to loopback", nil, func(w *wish) { w.Config.Routes[0].Dest = netip.MustParsePrefix("127.0.0.0/8") }, "not one to another network"},
		{"a table with a default route", func(v *view) { v.Routes = append(v.Routes, in(200, theirs("0.0.0.0/0", "192.0.2.1", 10, 0))) }, nil, "table 200 has a default route already, by eth0"},
		{"no mark left", nil, func(w *wish) { w.ConnMark, w.TunnelMark = true, 0 }, "no mark is free"},
		{"another VPN with the default route", func(v *view) {
			v.Links[101] = netIf{Index: 101, Name: "vpn1"}
			r := theirs("0.0.0.0/0", "10.88.0.1", 101, 50)
			r.Protocol = protocol
			v.Routes = append(v.Routes, r)
		}, nil, "another VPN of this program, on vpn1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, w := aHost(), aWish(Options{AcceptDefaultGateway: true, AcceptStaticRoutes: true, PolicyTable: 200})
			if tt.host != nil {
				tt.host(&v)
			}
			if tt.wish != nil {
				tt.wish(&w)
			}
			_, err := want(v, w)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want one with %q", err, tt.want)
			}
			w.InForce = true
			if _, err := want(v, w); err != nil {
				t.Errorf("in force already: %v", err)
			}
		})
	}
}

func TestNotRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		host func(*view)
		wish func(*wish)
	}{
		{"a subnet around the local one", nil, func(w *wish) { w.Config.Address = netip.MustParsePrefix("192.0.0.50/16") }},
		{"a route around the local subnet and the server", nil, func(w *wish) { w.Config.Routes[0].Dest = netip.MustParsePrefix("192.0.0.0/3") }},
		{"bad routes that are not accepted", nil, func(w *wish) {
			w.AcceptStaticRoutes = false
			w.Config.Routes[0].Dest = netip.MustParsePrefix("192.0.2.128/25")
		}},
		{"the subnet of another instance", func(v *view) {
			v.Links[101] = netIf{Index: 101, Name: "vpn1", Sibling: true}
			v.Addresses = append(v.Addresses, ifAddress{101, netip.MustParsePrefix("10.77.0.51/24")})
		}, nil},
		{"a table with other routes of others", func(v *view) { v.Routes = append(v.Routes, in(200, theirs("10.9.0.0/16", "192.0.2.1", 10, 0))) }, nil},
		{"an MTU at the edges", nil, func(w *wish) { w.Config.MTU = 68 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, w := aHost(), aWish(Options{AcceptDefaultGateway: true, AcceptStaticRoutes: true, PolicyTable: 200})
			if tt.host != nil {
				tt.host(&v)
			}
			if tt.wish != nil {
				tt.wish(&w)
			}
			if _, err := want(v, w); err != nil {
				t.Error(err)
			}
		})
	}
}
