package split

import "net/netip"

// special are the ranges that mean something else on each network, or nothing on any
// (RFC 6890 and its registries). Those for documentation are as good as public ones, and
// so is 198.18.0.0/15: tools that catch names hand out addresses of it on purpose.
var special = []struct {
	prefix netip.Prefix
	kind   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "an address of this machine"},
	{netip.MustParsePrefix("10.0.0.0/8"), "an address of a private network"},
	{netip.MustParsePrefix("100.64.0.0/10"), "an address of a provider's own network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "an address of this machine"},
	{netip.MustParsePrefix("169.254.0.0/16"), "an address of this link alone"},
	{netip.MustParsePrefix("172.16.0.0/12"), "an address of a private network"},
	{netip.MustParsePrefix("192.0.0.0/24"), "an address of a protocol's own"},
	{netip.MustParsePrefix("192.168.0.0/16"), "an address of a private network"},
	{netip.MustParsePrefix("224.0.0.0/4"), "an address of a group"},
	{netip.MustParsePrefix("240.0.0.0/4"), "an address of nobody"},
	{netip.MustParsePrefix("::/96"), "an address of this machine"}, // unspecified, loopback, and IPv4 in its first dress
	{netip.MustParsePrefix("64:ff9b:1::/48"), "an address of a translator's own network"},
	{netip.MustParsePrefix("fc00::/7"), "an address of a private network"},
	{netip.MustParsePrefix("fe80::/10"), "an address of this link alone"},
	{netip.MustParsePrefix("fec0::/10"), "an address of a private network"},
	{netip.MustParsePrefix("ff00::/8"), "an address of a group"},
}

// carriers are ranges of IPv6 addresses that stand for IPv4 addresses, and where in them
// those are.
var carriers = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64 (RFC 6052)
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4 (RFC 3056)
}

// rangeOf returns the special range that a is in: for an address of this machine's own
// interfaces the network that it has there, and for one that carries a special one the
// address alone.
func (r *Rules) rangeOf(a netip.Addr) (p netip.Prefix, kind string, ok bool) {
	if p, ok := r.own(a); ok {
		return p, "an address of this machine", true
	}
	for _, s := range special {
		if s.prefix.Contains(a) {
			return s.prefix, s.kind, true
		}
	}
	for _, c := range carriers {
		if !c.prefix.Contains(a) {
			continue
		}
		b := a.As16()
		if _, kind, ok := r.rangeOf(netip.AddrFrom4([4]byte(b[c.at : c.at+4]))); ok {
			return netip.PrefixFrom(a, a.BitLen()), kind, true
		}
	}
	return netip.Prefix{}, "", false
}

func (r *Rules) kind(a netip.Addr) string {
	_, k, _ := r.rangeOf(a)
	return k
}

// asked reports whether a direct rule for p, which contains a, means a: it has to lie
// within a's special range if there is one. An invalid p means none.
func (r *Rules) asked(p netip.Prefix, a netip.Addr) bool {
	s, _, ok := r.rangeOf(a)
	if !ok {
		return true
	}
	return p.IsValid() && p.Bits() >= s.Bits() && s.Contains(p.Addr())
}
