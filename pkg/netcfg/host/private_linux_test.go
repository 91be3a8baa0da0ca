package host

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"softether-go/pkg/netcfg"
)

// privateState is what the namespace has of the tunnel.
func (w *world) privateState() string {
	w.Helper()
	return w.sh(`ip -4 -o address show dev vpn0 | tr -s ' ' | cut -d' ' -f3-6; ip -4 route show | sed 's/ *$//' | sort; ip -o link show vpn0 | grep -o 'mtu [0-9]*'`)
}

func TestAPrivateNamespaceIsAsTheConfigurationSays(t *testing.T) {
	inWorld(t, func(w *world) {
		w.sh("ip link delete eth0; ip -n vpn link set hub up")
		p, err := OpenPrivate("vpn0", false, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if out, err := p.HasDefaultRoute(); out || err != nil {
			t.Errorf("a default route before there is one: %v, %v", out, err)
		}
		addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
		first := netcfg.Config{Address: prefix("10.77.0.50/24"), Gateway: addr("10.77.0.1"), MTU: 1400,
			Routes: []netcfg.Route{{Dest: prefix("10.88.0.0/16"), Via: addr("10.77.0.2")}, {Dest: prefix("10.99.0.0/24")}}}
		for _, step := range []struct {
			name string
			cfg  netcfg.Config
			want string
		}{
			{"a first configuration", first, `inet 10.77.0.50/24 brd 10.77.0.255
10.77.0.0/24 dev vpn0 proto kernel scope link src 10.77.0.50
10.88.0.0/16 via 10.77.0.2 dev vpn0 proto 94
10.99.0.0/24 dev vpn0 proto 94 scope link
default via 10.77.0.1 dev vpn0 proto 94
mtu 1400
`},
			{"the same again", first, ""},
			{"another address in the subnet, another gateway", netcfg.Config{Address: prefix("10.77.0.51/24"), Gateway: addr("10.77.0.2")},
				`inet 10.77.0.51/24 brd 10.77.0.255
10.77.0.0/24 dev vpn0 proto kernel scope link src 10.77.0.51
default via 10.77.0.2 dev vpn0 proto 94
mtu 1500
`},
			{"another subnet", netcfg.Config{Address: prefix("10.66.0.9/16"), Gateway: addr("10.66.0.1")},
				`inet 10.66.0.9/16 brd 10.66.255.255
10.66.0.0/16 dev vpn0 proto kernel scope link src 10.66.0.9
default via 10.66.0.1 dev vpn0 proto 94
mtu 1500
`},
			{"a gateway outside of the prefix, and a default among the classless routes", netcfg.Config{Address: prefix("10.77.0.50/32"),
				Gateway: addr("10.77.0.1"), Routes: []netcfg.Route{{Dest: prefix("0.0.0.0/0"), Via: addr("10.77.0.2")}}},
				`inet 10.77.0.50/32
default via 10.77.0.2 dev vpn0 proto 94 onlink
mtu 1500
`},
			{"nothing", netcfg.Config{}, "mtu 1500\n"},
		} {
			before := w.privateState()
			if err := p.Apply(t.Context(), step.cfg); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			want := step.want
			if want == "" {
				want = before
			}
			// A peer of the same subnet at the other end lets the kernel say no more.
			got := strings.ReplaceAll(w.privateState(), " scope global", "")
			if got != strings.ReplaceAll(want, " scope global", "") {
				t.Errorf("%s:\n%swant\n%s", step.name, got, want)
			}
		}
		if out := w.sh("ip -6 -o address show dev vpn0"); out != "" {
			t.Errorf("IPv6 without being asked: %s", out)
		}
		if start, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err != nil || strings.TrimSpace(string(start)) != "0" {
			t.Errorf("ports are for root from %s, %v", start, err)
		}
	})
}

// The kernel has an address of the link's own, which is left alone.
func TestAPrivateNamespaceHasTheIPv6ThatIsSaid(t *testing.T) {
	inWorld(t, func(w *world) {
		w.sh("ip link delete eth0; ip -n vpn link set hub up")
		p, err := OpenPrivate("vpn0", true, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		state := func() string {
			return w.sh(`ip -6 -o address show dev vpn0 scope global | sed 's/.*inet6 //; s/ scope.*noprefixroute//; s/preferred_lft forever//; s/ *\\ *valid_lft [a-z0-9]*//; s/ *$//' | sort
				ip -6 route show proto 94 | sed 's/ pref medium//; s/ *$//'; ip -6 -o address show dev vpn0 scope link | grep -c fe80::5e | cat`)
		}
		addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
		six := netcfg.IPv6{
			Addresses: []netcfg.Address6{{Addr: addr("fe80::5e:1")}, {Addr: addr("2001:db8::5")}, {Addr: addr("2001:db8:1::5"), Deprecated: true}},
			Gateways:  []netip.Addr{addr("fe80::1"), addr("fe80::2")},
			Routes:    []netcfg.Route{{Dest: prefix("2001:db8::/64")}, {Dest: prefix("2001:db8:9::/48"), Via: addr("fe80::3")}},
		}
		const all = `2001:db8:1::5/64 preferred_lft 0sec
2001:db8::5/64
2001:db8::/64 dev vpn0 metric 1024
2001:db8:9::/48 via fe80::3 dev vpn0 metric 1024 onlink
default via fe80::1 dev vpn0 metric 1024 onlink
default via fe80::2 dev vpn0 metric 1025 onlink
1
`
		alone := netcfg.Config{IPv6: six}
		both := netcfg.Config{Address: prefix("10.77.0.50/24"), IPv6: six}
		fewer := netcfg.Config{IPv6: netcfg.IPv6{Addresses: six.Addresses[:2], Gateways: six.Gateways[1:], Routes: six.Routes[:1]}}
		for _, step := range []struct {
			name string
			cfg  netcfg.Config
			want string
		}{
			{"IPv6 alone", alone, all},
			{"the same again", alone, all},
			{"IPv4 too", both, all},
			{"less", fewer, `2001:db8::5/64
2001:db8::/64 dev vpn0 metric 1024
default via fe80::2 dev vpn0 metric 1024 onlink
1
`},
			{"nothing", netcfg.Config{}, "0\n"},
		} {
			if err := p.Apply(t.Context(), step.cfg); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			if got := state(); got != step.want {
				t.Errorf("%s:\n%swant\n%s", step.name, got, step.want)
			}
			if four := w.sh("ip -4 -o address show dev vpn0"); (four != "") != step.cfg.Address.IsValid() {
				t.Errorf("%s: of IPv4 there is %q", step.name, four)
			}
		}
		if w.sh("ip -6 -o address show dev vpn0 scope link") == "" {
			t.Error("the kernel's own address is gone")
		}
	})
}
