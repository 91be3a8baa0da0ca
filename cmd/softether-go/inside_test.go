package main

import (
	"fmt"
	"net/netip"
	"testing"

	"softether-go/pkg/config"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/split"
)

// What is behind the tunnel is the lease's subnet, routes and search domains, and what the
// user says; a default route is none of it.
func TestInsideIsWhatTheLeaseNames(t *testing.T) {
	corp, err := split.ParseTarget("corp.example")
	if err != nil {
		t.Fatal(err)
	}
	lab, err := split.ParseTarget("192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	got := inside(netcfg.Config{
		Address: netip.MustParsePrefix("10.0.0.5/24"), Gateway: netip.MustParseAddr("10.0.0.1"),
		Routes: []netcfg.Route{{Dest: netip.MustParsePrefix("10.9.0.0/16")}},
		IPv6: netcfg.IPv6{Routes: []netcfg.Route{{Dest: netip.MustParsePrefix("2001:db8::/64")},
			{Dest: netip.MustParsePrefix("::/0")}, {Dest: netip.MustParsePrefix("fe80::/64")}}},
		DNS: netcfg.DNS{Search: []string{"corp"}},
	}, config.Split{ViaVPN: []split.Target{corp, lab}})
	if got, want := fmt.Sprint(got), "{[10.0.0.0/24 10.9.0.0/16 2001:db8::/64 192.0.2.0/24] [corp corp.example]}"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := fmt.Sprint(inside(netcfg.Config{}, config.Split{})); got != "{[] []}" {
		t.Errorf("without a lease: got %s", got)
	}
}
