package addresses

import (
	"net"
	"net/netip"
	"testing"

	"softether-go/pkg/autoconf"
	"softether-go/pkg/netcfg"
)

func TestBothFamiliesAreAppliedAsOne(t *testing.T) {
	addr := netip.MustParseAddr
	v4 := netcfg.Config{Address: netip.MustParsePrefix("10.0.0.5/24"), MTU: 1400, DNS: netcfg.DNS{Servers: []netip.Addr{addr("10.0.0.1")}, Search: []string{"corp"}}}
	v6 := netcfg.Config{IPv6: netcfg.IPv6{Addresses: []netcfg.Address6{{Addr: addr("2001:db8::5")}}}, MTU: 1300,
		DNS: netcfg.DNS{Servers: []netip.Addr{addr("2001:db8::53"), addr("10.0.0.1")}, Search: []string{"corp", "lab"}}}
	wide := v6
	wide.MTU = 1500
	own := func(c netcfg.Config) netcfg.Config { c.DNS.Servers = []netip.Addr{addr("192.0.2.1")}; return c }
	for _, row := range []struct {
		name    string
		v4, v6  netcfg.Config
		adjust  func(netcfg.Config) netcfg.Config
		mtu     int
		servers int
		search  int
		zero    bool
	}{
		{"both", v4, v6, nil, 1300, 2, 2, false},
		{"both, IPv6 on a wider link", v4, wide, nil, 1400, 2, 2, false},
		{"IPv4 alone", v4, netcfg.Config{}, nil, 1400, 1, 1, false},
		{"IPv6 alone", netcfg.Config{}, v6, nil, 1300, 2, 2, false},
		{"with name servers of the user", v4, v6, own, 1300, 1, 2, false},
		{"neither, whatever the user says", netcfg.Config{}, netcfg.Config{}, own, 0, 0, 0, true},
	} {
		k := New(Config{IPv6: &autoconf.Config{MAC: net.HardwareAddr{0x5e, 0, 0, 0, 0, 1}}, Adjust: row.adjust}, nil, nil)
		k.v4, k.v6 = row.v4, row.v6
		if got := k.merged(); got.MTU != row.mtu || len(got.DNS.Servers) != row.servers || len(got.DNS.Search) != row.search || got.IsZero() != row.zero {
			t.Errorf("%s: got %+v", row.name, got)
		}
	}
}
