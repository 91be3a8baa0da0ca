package host

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/netcfg"
)

// lease is what the VPN of most tests gives.
func lease() netcfg.Config {
	return netcfg.Config{
		Address: netip.MustParsePrefix("10.77.0.50/24"),
		Gateway: netip.MustParseAddr("10.77.0.1"),
		Routes: []netcfg.Route{
			{Dest: netip.MustParsePrefix("172.20.0.0/16"), Via: netip.MustParseAddr("10.77.0.2")},
			{Dest: netip.MustParsePrefix("172.21.0.0/24")},
			{Dest: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.77.0.1")},
		},
		MTU: 1400,
	}
}

func everything() Options {
	return Options{AcceptDefaultGateway: true, AcceptStaticRoutes: true, PolicyTable: 200, ConnMark: true, BlockIPv6: true}
}

// aHost is one with eth0 (10) and the TAP vpn0 (100).
func aHost() view {
	v := view{
		TAP: netIf{Index: 100, Name: "vpn0", MTU: 1500, Up: true},
		Addresses: []ifAddress{
			{1, netip.MustParsePrefix("127.0.0.1/8")},
			{10, netip.MustParsePrefix("192.0.2.10/24")},
			{10, netip.MustParsePrefix("2001:db8::10/64")},
			{10, netip.MustParsePrefix("fe80::10/64")},
		},
		Routes: []seenRoute{
			theirs("0.0.0.0/0", "192.0.2.1", 10, 100),
			theirs("192.0.2.0/24", "", 10, 0),
			theirs("::/0", "fe80::1", 10, 1024),
			theirs("2001:db8::/64", "", 10, 256),
			theirs("fe80::/64", "", 10, 256),
			local("192.0.2.10/32"),
			local("2001:db8::10/128"),
		},
		Rules: []seenRule{
			lookup(0, tableLocal), lookup(32766, tableMain), lookup(32767, tableDefault),
			lookup6(0, tableLocal), lookup6(32766, tableMain),
		},
		Settings: map[string]string{},
	}
	v.Links = map[int]netIf{1: {Index: 1, Name: "lo", Loopback: true}, 10: {Index: 10, Name: "eth0", Up: true}, 100: v.TAP}
	return v
}

func theirs(dest, via string, dev, metric int) seenRoute {
	r := seenRoute{Protocol: 3, route: route{Table: tableMain, Dest: netip.MustParsePrefix(dest), Dev: dev, Metric: metric}}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

func local(dest string) seenRoute {
	return seenRoute{route: route{Table: tableLocal, Dest: netip.MustParsePrefix(dest), Dev: 1, Kind: localRoute}}
}

func lookup(priority, table int) seenRule {
	return seenRule{rule: rule{Priority: priority, Table: table}, Suppress: -1}
}

func lookup6(priority, table int) seenRule {
	r := lookup(priority, table)
	r.V6 = true
	return r
}

func in(table int, r seenRoute) seenRoute {
	r.Table = table
	return r
}

// aWish is one for the usual lease.
func aWish(o Options) wish {
	return wish{Options: o, Config: lease(), Servers: []netip.Addr{netip.MustParseAddr("203.0.113.5")},
		LinkWas: link{MTU: 1500}, TunnelMark: 1 << 24, KeepMark: 2 << 24}
}

func text(items []item) string {
	var lines []string
	for _, i := range byRank(items) {
		lines = append(lines, i.String())
	}
	return strings.Join(lines, "\n")
}

const base = `link up=true mtu 1400
address 10.77.0.50/24
route 203.0.113.5/32 via 192.0.2.1 dev 10 metric 1100`

const wayBack4 = `route 0.0.0.0/0 via 192.0.2.1 dev 10 metric 100 table 1577058404
route 192.0.2.0/24 dev 10 metric 0 table 1577058404
marks of vpn0: by the tunnel 0x0, by others 0x2000000 or to 192.0.2.10
rule 32765 from 192.0.2.10/32 table 1577058404
rule 32765 from all mark 0x2000000/0xf000000 table 1577058404`

func TestWant(t *testing.T) {
	for _, tt := range []struct {
		name string
		host func(*view)
		wish func(*wish)
		want string
	}{
		{name: "closed is as it was", wish: func(w *wish) { w.Closed = true }, want: "link up=false mtu 1500"},
		{name: "without a lease only the server is taken care of", wish: func(w *wish) { w.Config = netcfg.Config{} },
			want: "link up=true mtu 1500\nroute 203.0.113.5/32 via 192.0.2.1 dev 10 metric 1100"},
		{name: "without flags", want: base},
		{name: "default gateway", wish: func(w *wish) { w.AcceptDefaultGateway = true },
			want: base + "\n" + wayBack4 + "\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50"},
		{name: "default gateway from the classless routes alone",
			wish: func(w *wish) { w.AcceptDefaultGateway, w.Config.Gateway = true, netip.Addr{} },
			want: base + "\n" + wayBack4 + "\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50"},
		{name: "no default gateway to accept",
			wish: func(w *wish) {
				w.AcceptDefaultGateway, w.Config.Gateway, w.Config.Routes = true, netip.Addr{}, nil
			},
			want: base},
		{name: "a better default route needs halves",
			host: func(v *view) { v.Routes[0].Metric = 0 },
			wish: func(w *wish) { w.AcceptDefaultGateway = true },
			want: base + "\n" + strings.Replace(wayBack4, "metric 100", "metric 0", 1) +
				"\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50\nroute 0.0.0.0/1 via 10.77.0.1 dev 100 metric 50" +
				"\nroute 128.0.0.0/1 via 10.77.0.1 dev 100 metric 50"},
		{name: "one with the metric of ours leaves no room but for halves",
			host: func(v *view) { v.Routes[0].Metric = 50 },
			wish: func(w *wish) { w.AcceptDefaultGateway = true },
			want: base + "\n" + strings.Replace(wayBack4, "metric 100", "metric 50", 1) +
				"\nroute 0.0.0.0/1 via 10.77.0.1 dev 100 metric 50\nroute 128.0.0.0/1 via 10.77.0.1 dev 100 metric 50"},
		{name: "without nf_tables there are no marks",
			wish: func(w *wish) { w.AcceptDefaultGateway, w.KeepMark, w.TunnelMark = true, 0, 0 },
			want: base + "\nroute 0.0.0.0/0 via 192.0.2.1 dev 10 metric 100 table 1577058404" +
				"\nroute 192.0.2.0/24 dev 10 metric 0 table 1577058404\nrule 32765 from 192.0.2.10/32 table 1577058404" +
				"\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50"},
		{name: "an address on lo is one to be reached by too",
			host: func(v *view) {
				v.Addresses = append(v.Addresses, ifAddress{1, netip.MustParsePrefix("198.51.100.1/32")})
			},
			wish: func(w *wish) { w.AcceptDefaultGateway, w.KeepMark = true, 0 },
			want: base + "\nroute 0.0.0.0/0 via 192.0.2.1 dev 10 metric 100 table 1577058404" +
				"\nroute 192.0.2.0/24 dev 10 metric 0 table 1577058404\nrule 32765 from 192.0.2.10/32 table 1577058404" +
				"\nrule 32765 from 198.51.100.1/32 table 1577058404\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50"},
		{name: "who is refused an answer gets none by the way back",
			host: func(v *view) {
				r := theirs("198.51.100.66/32", "", 0, 0)
				r.Kind = unreachable
				v.Routes = append(v.Routes, r)
			},
			wish: func(w *wish) { w.AcceptDefaultGateway = true },
			want: base + "\n" + strings.Replace(wayBack4, "\nmarks", "\nroute unreachable 198.51.100.66/32 metric 0 table 1577058404\nmarks", 1) +
				"\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50"},
		{name: "another instance's network is not ours to keep",
			host: func(v *view) {
				v.Links[101] = netIf{Index: 101, Name: "vpn1", Sibling: true}
				v.Addresses = append(v.Addresses, ifAddress{101, netip.MustParsePrefix("10.88.0.50/24")})
				r := theirs("172.30.0.0/16", "10.88.0.1", 101, 50)
				r.Protocol = protocol
				v.Routes = append(v.Routes, theirs("10.88.0.0/24", "", 101, 0), r)
			},
			wish: func(w *wish) { w.AcceptDefaultGateway = true },
			want: base + "\n" + strings.Replace(wayBack4, "192.0.2.10\n", "192.0.2.10, not those of vpn1\n", 1) +
				"\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50"},
		{name: "classless routes, without the default among them", wish: func(w *wish) { w.AcceptStaticRoutes = true },
			want: base + "\n" + wayBack4 + "\nroute 172.20.0.0/16 via 10.77.0.2 dev 100 metric 50" +
				"\nroute 172.21.0.0/24 dev 100 metric 50"},
		{name: "a router 0.0.0.0 is none (RFC 3442)",
			wish: func(w *wish) {
				w.AcceptStaticRoutes = true
				w.Config.Routes = []netcfg.Route{{Dest: netip.MustParsePrefix("172.21.0.9/24"), Via: netip.IPv4Unspecified()}}
			},
			want: base + "\n" + wayBack4 + "\nroute 172.21.0.0/24 dev 100 metric 50"},
		{name: "policy table", wish: func(w *wish) { w.PolicyTable = 200 },
			want: base + "\nrule 5100 from 10.77.0.50/32 table 200\nroute 10.77.0.0/24 dev 100 metric 0 table 200" +
				"\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 0 table 200"},
		{name: "policy table for a single address, its gateway is on link",
			wish: func(w *wish) { w.PolicyTable, w.Config.Address = 200, netip.MustParsePrefix("10.77.0.50/32") },
			want: strings.Replace(base, "/24", "/32", 1) + "\nrule 5100 from 10.77.0.50/32 table 200" +
				"\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 0 onlink table 200"},
		{name: "marks of connections", wish: func(w *wish) { w.PolicyTable, w.ConnMark = 200, true },
			want: base + "\nmarks of vpn0: by the tunnel 0x1000000, by others 0x0\nrule 5100 from 10.77.0.50/32 table 200" +
				"\nrule 5100 from all mark 0x1000000/0xf000000 table 200\nroute 10.77.0.0/24 dev 100 metric 0 table 200" +
				"\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 0 table 200"},
		{name: "IPv6 block",
			wish: func(w *wish) { w.AcceptDefaultGateway, w.BlockIPv6 = true, true },
			want: base + "\n" + strings.Replace(wayBack4, "or to 192.0.2.10",
				"or to 192.0.2.10, IPv6 only to 2001:db8::/64 fe80::/10 ff00::/8", 1) +
				"\nroute 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50"},
		{name: "the block without the default gateway is none", wish: func(w *wish) { w.BlockIPv6 = true }, want: base},
		{name: "names", wish: func(w *wish) {
			w.AcceptDNS = true
			w.Config.DNS = netcfg.DNS{Servers: []netip.Addr{netip.MustParseAddr("10.77.0.1")}, Search: []string{"a.example", "b.example"}}
		}, want: base + "\nnames by 10.77.0.1 search \"a.example b.example\""},
		{name: "search domains without a server are nothing", wish: func(w *wish) {
			w.AcceptDNS = true
			w.Config.DNS.Search = []string{"a.example"}
		}, want: base},
		{name: "several servers: by a gateway, on link, this host, IPv6",
			wish: func(w *wish) {
				w.Config = netcfg.Config{}
				w.Servers = addrs("203.0.113.5 192.0.2.77 192.0.2.10 2001:db8:f::5")
			},
			want: `link up=true mtu 1500
route 203.0.113.5/32 via 192.0.2.1 dev 10 metric 1100
route 192.0.2.77/32 dev 10 metric 1100
route 2001:db8:f::5/128 via fe80::1 dev 10 metric 1100`},
		{name: "a server that cannot be reached must not be sought in the tunnel",
			host: func(v *view) { v.Routes = v.Routes[1:] },
			wish: func(w *wish) { w.AcceptDefaultGateway, w.KeepMark = true, 0 },
			want: `link up=true mtu 1400
address 10.77.0.50/24
route unreachable 203.0.113.5/32 metric 1100
route 192.0.2.0/24 dev 10 metric 0 table 1577058404
rule 32765 from 192.0.2.10/32 table 1577058404
route 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, w := aHost(), aWish(Options{})
			if tt.host != nil {
				tt.host(&v)
			}
			if tt.wish != nil {
				tt.wish(&w)
			}
			items, err := want(v, w)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, text(items)); d != "" {
				t.Errorf("items (-want +got):\n%s", d)
			}
		})
	}
}

func addrs(list string) []netip.Addr {
	var all []netip.Addr
	for _, a := range strings.Fields(list) {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func TestSettings(t *testing.T) {
	const all, eth0, vpn0 = "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/vpn0/rp_filter"
	const six = "net/ipv6/conf/vpn0/"
	for _, tt := range []struct {
		name string
		have map[string]string
		set  map[string]setting
		wish func(*wish)
		want string
	}{
		{name: "a filter that is off stays off", have: map[string]string{all: "0", eth0: "0", vpn0: "0"}, want: ""},
		{name: "a strict one becomes loose", have: map[string]string{all: "0", eth0: "1", vpn0: "1"},
			want: "setting net/ipv4/conf/vpn0/rp_filter=2 (was 1)\nsetting net/ipv4/conf/eth0/rp_filter=2 (was 1)"},
		{name: "strict for all, loose where it matters", have: map[string]string{all: "1", eth0: "0", vpn0: "0"},
			want: "setting net/ipv4/conf/vpn0/rp_filter=2 (was 0)\nsetting net/ipv4/conf/eth0/rp_filter=2 (was 0)"},
		{name: "loose for all is enough", have: map[string]string{all: "2", eth0: "1", vpn0: "1"}, want: ""},
		{name: "eth0 only where traffic moves", have: map[string]string{all: "1", eth0: "1", vpn0: "1"},
			wish: func(w *wish) { w.AcceptDefaultGateway = false },
			want: "setting net/ipv4/conf/vpn0/rp_filter=2 (was 1)"},
		{name: "what we set stays ours, and is left to whoever changes it", have: map[string]string{all: "1", eth0: "0", vpn0: "2"},
			set:  map[string]setting{eth0: {eth0, "2", "1", 10}, vpn0: {vpn0, "2", "0", 100}},
			want: "setting net/ipv4/conf/vpn0/rp_filter=2 (was 0)\nsetting net/ipv4/conf/eth0/rp_filter=2 (was 1)"},
		{name: "another eth0 has not been set", have: map[string]string{all: "0", eth0: "1", vpn0: "0"},
			set:  map[string]setting{eth0: {eth0, "2", "0", 9}},
			want: "setting net/ipv4/conf/eth0/rp_filter=2 (was 1)"},
		{name: "no IPv6 on the TAP", have: map[string]string{six + "disable_ipv6": "0", six + "accept_ra": "1"},
			want: "setting net/ipv6/conf/vpn0/disable_ipv6=1 (was 0)"},
		{name: "IPv6 by the kernel, with its default route",
			have: map[string]string{six + "disable_ipv6": "1", six + "accept_ra": "1", six + "autoconf": "1", six + "accept_ra_defrtr": "1"},
			wish: func(w *wish) { w.SLAAC = true },
			want: "setting net/ipv6/conf/vpn0/disable_ipv6=0 (was 1)\nsetting net/ipv6/conf/vpn0/accept_ra=2 (was 1)"},
		{name: "IPv6 by the kernel, without its default route",
			have: map[string]string{six + "disable_ipv6": "0", six + "accept_ra": "2", six + "autoconf": "0", six + "accept_ra_defrtr": "1"},
			wish: func(w *wish) { w.SLAAC, w.AcceptDefaultGateway = true, false },
			want: "setting net/ipv6/conf/vpn0/autoconf=1 (was 0)\nsetting net/ipv6/conf/vpn0/accept_ra_defrtr=0 (was 1)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, w := aHost(), aWish(Options{AcceptDefaultGateway: true})
			v.Settings, w.Set = tt.have, tt.set
			if tt.wish != nil {
				tt.wish(&w)
			}
			items, err := want(v, w)
			if err != nil {
				t.Fatal(err)
			}
			var settings []item
			for _, i := range items {
				if s, ok := i.(setting); ok {
					settings = append(settings, s)
				}
			}
			if d := cmp.Diff(tt.want, text(settings)); d != "" {
				t.Errorf("settings (-want +got):\n%s", d)
			}
		})
	}
}

func TestIPv6GoesByTheRouterOnTheTAP(t *testing.T) {
	v, w := aHost(), aWish(Options{AcceptDefaultGateway: true, BlockIPv6: true, SLAAC: true})
	v.Routes = append(v.Routes, theirs("::/0", "fe80::99", 100, 1024))
	items, err := want(v, w)
	if err != nil {
		t.Fatal(err)
	}
	got := text(items)
	for _, want := range []string{
		"route ::/1 via fe80::99 dev 100 metric 50", "route 8000::/1 via fe80::99 dev 100 metric 50",
		"route ::/0 via fe80::1 dev 10 metric 1024 table 1577058404", "rule6 32765 from 2001:db8::10/128 table 1577058404",
		"rule6 32765 from all mark 0x2000000/0xf000000 table 1577058404",
	} {
		if !strings.Contains(got+"\n", "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "fe80::99 dev 100 metric 1024") {
		t.Errorf("the way back leads into the tunnel:\n%s", got)
	}
}
