package netstack

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"softether-go/pkg/netcfg"
)

// A way is a destination and what would be sent to it from.
type way struct {
	dst, src   netip.Addr // src is invalid if there is no route
	deprecated bool       // src is
}

// order returns the addresses of a host in the order in which to try them: best first
// (RFC 6724 section 6), then the families in turn (RFC 8305 section 4). A family that
// was too slow lately does not come first.
func (s *Stack) order(cfg netcfg.Config, addrs []netip.Addr) []netip.Addr {
	if len(addrs) < 2 {
		return addrs
	}
	ways := make([]way, len(addrs))
	for i, a := range addrs {
		ways[i] = s.wayTo(cfg, a)
	}
	slices.SortStableFunc(ways, compareWays)
	return s.slow.demote(alternate(ways))
}

func (s *Stack) wayTo(cfg netcfg.Config, dst netip.Addr) way {
	w := way{dst: dst}
	r, err := s.ns.FindRoute(nicID, tcpip.Address{}, toAddress(dst), protocolOf(dst), false)
	if err != nil {
		return w
	}
	defer r.Release()
	local := r.LocalAddress()
	w.src, _ = netip.AddrFromSlice(local.AsSlice())
	w.deprecated = slices.Contains(cfg.IPv6.Addresses, netcfg.Address6{Addr: w.src, Deprecated: true})
	return w
}

// compareWays is negative if a is to be tried before b. The rules are those of RFC 6724
// section 6 that matter to a host with one interface and no tunnels of its own.
func compareWays(a, b way) int {
	prefer := func(a, b bool) int { // who alone has a good property comes first
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	la, lb := policyOf(a.dst), policyOf(b.dst)
	return cmp.Or(
		prefer(a.src.IsValid(), b.src.IsValid()),                                     // rule 1
		prefer(scope(a.dst) == scope(a.src), scope(b.dst) == scope(b.src)),           // rule 2
		prefer(!a.deprecated, !b.deprecated),                                         // rule 3
		prefer(la.label == policyOf(a.src).label, lb.label == policyOf(b.src).label), // rule 5
		-cmp.Compare(la.precedence, lb.precedence),                                   // rule 6
		cmp.Compare(scope(a.dst), scope(b.dst)),                                      // rule 8
		comparePrefixes(a, b),                                                        // rule 9
	)
}

// comparePrefixes prefers the destination that has more bits in common with its source,
// among IPv6 addresses: names with several IPv4 addresses spread their load by the order.
func comparePrefixes(a, b way) int {
	if !a.dst.Is6() || !b.dst.Is6() || !a.src.IsValid() || !b.src.IsValid() {
		return 0
	}
	return -cmp.Compare(commonBits(a.dst, a.src), commonBits(b.dst, b.src))
}

// commonBits counts how many of the first 64 bits a and b share; what follows names a
// host in its network.
func commonBits(a, b netip.Addr) int {
	for n := 64; n > 0; n-- {
		if p, err := a.Prefix(n); err == nil && p.Contains(b) {
			return n
		}
	}
	return 0
}

// scope is how far an address reaches (RFC 4291 section 2.7; RFC 6724 section 3.2).
func scope(a netip.Addr) int {
	const link, global = 2, 14
	if a.IsLinkLocalUnicast() || a.IsLoopback() {
		return link
	}
	return global
}

// policies is the default table of RFC 6724 section 2.1, the more specific first.
var policies = []struct {
	prefix            netip.Prefix
	precedence, label int
}{
	{netip.MustParsePrefix("::1/128"), 50, 0},
	{netip.MustParsePrefix("::ffff:0:0/96"), 35, 4},
	{netip.MustParsePrefix("2001::/32"), 5, 5},
	{netip.MustParsePrefix("2002::/16"), 30, 2},
	{netip.MustParsePrefix("fc00::/7"), 3, 13},
	{netip.MustParsePrefix("::/0"), 40, 1},
}

func policyOf(a netip.Addr) (p struct{ precedence, label int }) {
	if !a.IsValid() {
		return p
	}
	a = netip.AddrFrom16(a.As16())
	for _, row := range policies {
		if row.prefix.Contains(a) {
			p.precedence, p.label = row.precedence, row.label
			break
		}
	}
	return p
}

// alternate takes the families in turn, beginning with that of the best.
func alternate(ways []way) []netip.Addr {
	var same, other []netip.Addr
	for _, w := range ways {
		if w.dst.Is4() == ways[0].dst.Is4() {
			same = append(same, w.dst)
		} else {
			other = append(other, w.dst)
		}
	}
	all := make([]netip.Addr, 0, len(ways))
	for i := range max(len(same), len(other)) {
		if i < len(same) {
			all = append(all, same[i])
		}
		if i < len(other) {
			all = append(all, other[i])
		}
	}
	return all
}

// slowTime is for how long a family that was too slow is not tried first. Long enough
// that a page's connections do not each wait for it, and short enough that nobody
// notices when it has been repaired.
const slowTime = time.Minute

// slowness remembers which family was outrun though it had a head start.
type slowness struct {
	mu    sync.Mutex   // guards until
	until [2]time.Time // by family
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// note tells how a race ended: loser was tried first and had not answered when winner,
// of the other family, did; an invalid loser means that winner was as good as any.
func (s *slowness) note(winner, loser netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until[familyOf(winner)] = time.Time{}
	if loser.IsValid() && familyOf(loser) != familyOf(winner) {
		s.until[familyOf(loser)] = time.Now().Add(slowTime)
	}
}

// demote puts an address of the other family first if the first is of a slow one.
func (s *slowness) demote(addrs []netip.Addr) []netip.Addr {
	s.mu.Lock()
	slow := time.Now().Before(s.until[familyOf(addrs[0])])
	s.mu.Unlock()
	if !slow {
		return addrs
	}
	i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is4() != addrs[0].Is4() })
	if i < 0 {
		return addrs
	}
	other := addrs[i]
	return slices.Insert(slices.Delete(addrs, i, i+1), 0, other)
}
