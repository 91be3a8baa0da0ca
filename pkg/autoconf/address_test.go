package autoconf

import (
	"net/netip"
	"strings"
	"testing"
)

// An address says nothing of the MAC address, is the same each time, and another on
// another network, of another host and after a conflict.
func TestAddressesAreOpaqueAndStable(t *testing.T) {
	p, q := netip.MustParsePrefix("2001:db8:1::/64"), netip.MustParsePrefix("2001:db8:2::/64")
	make := func(key string, m mac) *Client { return New(Config{MAC: netMAC(m), Key: []byte(key)}) }
	c := make("secret", ourMAC)
	a := c.opaque(p, 0)
	if again := make("secret", ourMAC).opaque(p, 0); again != a {
		t.Errorf("another time: got %v, want %v", again, a)
	}
	seen := map[netip.Addr]string{a: "it"}
	for what, b := range map[string]netip.Addr{
		"after a conflict": c.opaque(p, 1), "on another network": c.opaque(q, 0),
		"of another host": make("secret", otherMAC).opaque(p, 0), "with another key": make("other", ourMAC).opaque(p, 0),
		"with a random key": make("", ourMAC).opaque(p, 0), "with another random key": make("", ourMAC).opaque(p, 0),
	} {
		if was, ok := seen[b]; ok {
			t.Errorf("%s: the same as %s", what, was)
		}
		seen[b] = what
		low := b.As16()
		if strings.Contains(string(low[8:]), "\xff\xfe") && strings.Contains(string(low[8:]), string(ourMAC[3:])) {
			t.Errorf("%s: %v has the MAC address in it", what, b)
		}
		if !p.Contains(b) && !q.Contains(b) {
			t.Errorf("%s: %v is out of its prefix", what, b)
		}
	}
}

func TestReservedIdentifiers(t *testing.T) {
	for id, want := range map[uint64]bool{
		0: true, 1: false, 0x02005efffe000000: true, 0x02005efffe123456: true, 0x02005effff000000: false,
		0xfdffffffffffff80: true, 0xfdffffffffffffff: true, 0xfdffffffffffff7f: false, 0xfe00000000000000: false,
	} {
		if got := reserved(id); got != want {
			t.Errorf("%#x: got %v, want %v", id, got, want)
		}
	}
}

func TestMisuseIsReported(t *testing.T) {
	for _, m := range []string{"", "\x01\x00\x00\x00\x00\x01", "\x00\x00\x00\x00\x00\x00"} {
		if err := New(Config{MAC: []byte(m)}).Run(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), "not the MAC address") {
			t.Errorf("%x: got %v", m, err)
		}
	}
}
