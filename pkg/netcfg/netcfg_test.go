package netcfg

import (
	"net/netip"
	"testing"
)

func full() Config {
	return Config{
		Address: netip.MustParsePrefix("10.0.0.5/24"), Gateway: netip.MustParseAddr("10.0.0.1"),
		Routes: []Route{{Dest: netip.MustParsePrefix("192.0.2.0/24"), Via: netip.MustParseAddr("10.0.0.2")}},
		DNS:    DNS{Servers: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Search: []string{"corp"}},
		IPv6: IPv6{
			Addresses: []Address6{{Addr: netip.MustParseAddr("2001:db8::5")}}, Gateways: []netip.Addr{netip.MustParseAddr("fe80::1")},
			Routes: []Route{{Dest: netip.MustParsePrefix("2001:db8::/64")}},
		},
		MTU: 1400, NTP: []netip.Addr{netip.MustParseAddr("10.0.0.3")},
	}
}

func TestEqualSeesEveryField(t *testing.T) {
	if !full().Equal(full()) {
		t.Error("a configuration does not equal its twin")
	}
	for name, change := range map[string]func(*Config){
		"address":         func(c *Config) { c.Address = netip.MustParsePrefix("10.0.0.6/24") },
		"prefix":          func(c *Config) { c.Address = netip.MustParsePrefix("10.0.0.5/16") },
		"gateway":         func(c *Config) { c.Gateway = netip.Addr{} },
		"routes":          func(c *Config) { c.Routes = nil },
		"via":             func(c *Config) { c.Routes = []Route{{Dest: c.Routes[0].Dest}} },
		"servers":         func(c *Config) { c.DNS.Servers = nil },
		"search":          func(c *Config) { c.DNS.Search = []string{"lab"} },
		"IPv6 address":    func(c *Config) { c.IPv6.Addresses = nil },
		"IPv6 preference": func(c *Config) { c.IPv6.Addresses = []Address6{{c.IPv6.Addresses[0].Addr, true}} },
		"IPv6 gateway":    func(c *Config) { c.IPv6.Gateways = nil },
		"IPv6 route":      func(c *Config) { c.IPv6.Routes = nil },
		"MTU":             func(c *Config) { c.MTU = 0 },
		"NTP":             func(c *Config) { c.NTP = nil },
	} {
		c := full()
		change(&c)
		if c.Equal(full()) {
			t.Errorf("another %s is not seen", name)
		}
	}
}

func TestZeroAsksForNothing(t *testing.T) {
	if !(Config{}).IsZero() || full().IsZero() {
		t.Error("IsZero is wrong")
	}
	if got := (Config{}).EffectiveMTU(); got != DefaultMTU {
		t.Errorf("MTU of nothing said: %d, want %d", got, DefaultMTU)
	}
	if a, b := (Config{MTU: DefaultMTU}), (Config{}); !a.Equal(b) {
		t.Error("the default MTU, said or not, differs")
	}
}

func TestALinkLocalAddressIsNotEnough(t *testing.T) {
	near := Address6{Addr: netip.MustParseAddr("fe80::5")}
	for _, row := range []struct {
		name string
		of   IPv6
		want bool
	}{
		{"none", IPv6{}, false},
		{"of the link", IPv6{Addresses: []Address6{near}}, false},
		{"of the world", full().IPv6, true},
		{"of both", IPv6{Addresses: append([]Address6{near}, full().IPv6.Addresses...)}, true},
		{"deprecated", IPv6{Addresses: []Address6{{netip.MustParseAddr("2001:db8::5"), true}}}, true},
	} {
		if got := row.of.Usable(); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
}

func TestPacketsGoByTheLongestRoute(t *testing.T) {
	c := Config{Address: netip.MustParsePrefix("10.0.0.5/24"), Gateway: netip.MustParseAddr("10.0.0.1")}
	c.Routes = []Route{
		{Dest: netip.MustParsePrefix("192.0.2.0/24"), Via: netip.MustParseAddr("10.0.0.2")},
		{Dest: netip.MustParsePrefix("192.0.2.128/25"), Via: netip.MustParseAddr("10.0.0.3")},
		{Dest: netip.MustParsePrefix("203.0.113.0/24"), Via: netip.IPv4Unspecified()},
	}
	for to, want := range map[string]string{
		"10.0.0.77": "10.0.0.77", "192.0.2.1": "10.0.0.2", "192.0.2.200": "10.0.0.3", "203.0.113.5": "203.0.113.5", "198.51.100.1": "10.0.0.1",
	} {
		if got := c.NextHop(netip.MustParseAddr(to)); got.String() != want {
			t.Errorf("%s: got %v, want %s", to, got, want)
		}
	}
}
