package split

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"softether-go/pkg/binding"
)

// A Way is one of the two networks there are.
type Way uint8

// The ways. The zero value is the safe one.
const (
	VPN    Way = iota // into the tunnel, names resolved there
	Direct            // out by this machine's network, names resolved by its resolver
)

// String names the way as its flag does.
func (w Way) String() string { return [...]string{"via-vpn", "direct"}[w] }

// everything is how a Target that stands for the rest is written.
const everything = "default"

// A Target is what a rule is about: a prefix, a domain, or the rest.
type Target struct {
	prefix netip.Prefix
	domain string // in small letters, without a dot at the end
}

// ParseTarget takes an address, a prefix in CIDR form, a domain, or "default".
func ParseTarget(s string) (Target, error) {
	switch {
	case s == "":
		return Target{}, errors.New("is empty: give a network like 10.0.0.0/8, a domain like corp.example, or default")
	case s == everything:
		return Target{domain: everything}, nil
	case strings.Contains(s, "/"):
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Target{}, fmt.Errorf("%.60q is not a network: give one like 10.0.0.0/8 or 2001:db8::/32", s)
		}
		if p != p.Masked() {
			return Target{}, fmt.Errorf("%.60q has bits beyond its length: give %v", s, p.Masked())
		}
		return Target{prefix: unmapped(p)}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return Target{}, fmt.Errorf("%.60q has a zone, which names an interface: give it without", s)
		}
		a = a.Unmap()
		return Target{prefix: netip.PrefixFrom(a, a.BitLen())}, nil
	}
	if below := strings.TrimPrefix(strings.TrimPrefix(s, "*"), "."); below != s && isName(canonical(below)) {
		return Target{}, fmt.Errorf("%.60q: a domain stands for all below it: give %s", s, below)
	}
	name := canonical(s)
	if !isName(name) {
		return Target{}, fmt.Errorf("%.60q is neither a network, an address nor a domain (write others than a to z, digits, dash and underscore in their xn-- form)", s)
	}
	return Target{domain: name}, nil
}

// unmapped writes a prefix of IPv4 addresses in IPv6 clothes as what it is.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// String gives t as ParseTarget takes it.
func (t Target) String() string {
	if t.prefix.IsValid() {
		return t.prefix.String()
	}
	return t.domain
}

// Rules say which way a host is reached. A nil *Rules sends everything by the VPN.
type Rules struct {
	prefixes map[netip.Prefix]Way
	lengths  [2][]int // of the prefixes, longest first: IPv4, IPv6
	domains  map[string]Way
	rest     Way
	own      func(netip.Addr) (netip.Prefix, bool) // binding.OwnNetwork
}

// New returns the rules that two lists come to; nil if both are empty. Every problem is
// reported, one line each.
func New(direct, viaVPN []Target) (*Rules, error) {
	if len(direct)+len(viaVPN) == 0 {
		return nil, nil
	}
	if len(direct) == 0 {
		return nil, fmt.Errorf("everything goes by the VPN already: add -direct %s to send the rest out by this machine's network", everything)
	}
	all := make(map[Target]Way, len(direct)+len(viaVPN))
	var errs []error
	for _, t := range direct {
		all[t] = Direct
	}
	for _, t := range viaVPN {
		if w, ok := all[t]; ok && w == Direct {
			errs = append(errs, fmt.Errorf("%v is in -direct too: drop one of the two", t))
		}
		all[t] = VPN
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	r := &Rules{prefixes: make(map[netip.Prefix]Way), domains: make(map[string]Way), own: binding.OwnNetwork}
	for t, w := range all {
		r.add(t, w)
	}
	return r, nil
}

func (r *Rules) add(t Target, w Way) {
	switch {
	case t.domain == everything:
		r.rest = w
	case t.domain != "":
		r.domains[t.domain] = w
	default:
		r.prefixes[t.prefix] = w
		lengths := &r.lengths[family(t.prefix.Addr())]
		*lengths = insert(*lengths, t.prefix.Bits())
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// insert keeps a list of numbers in descending order, each once.
func insert(list []int, n int) []int {
	for i, m := range list {
		if m == n {
			return list
		}
		if m < n {
			return append(list[:i], append([]int{n}, list[i:]...)...)
		}
	}
	return append(list, n)
}

// Host decides about a host as a client gave it, a name or an IP address.
func (r *Rules) Host(host string) Way {
	if a, err := netip.ParseAddr(host); err == nil {
		return r.Addr(a)
	}
	return r.Name(host)
}

// Name decides about a DNS name.
func (r *Rules) Name(name string) Way {
	if r == nil {
		return VPN
	}
	name = canonical(name)
	if !isName(name) {
		return VPN
	}
	for d := name; d != ""; _, d, _ = strings.Cut(d, ".") {
		if w, ok := r.domains[d]; ok {
			return w
		}
	}
	if a, _ := reversed(name); a.IsValid() {
		return r.Addr(a)
	}
	if !strings.Contains(name, ".") {
		return VPN
	}
	return r.rest
}

// Addr decides about an address that a client gave.
func (r *Rules) Addr(a netip.Addr) Way {
	if r == nil || a.Zone() != "" {
		return VPN
	}
	a = a.Unmap()
	p, w, ok := r.match(a)
	if !ok {
		p, w = netip.Prefix{}, r.rest
	}
	if w == Direct && !r.asked(p, a) {
		return VPN
	}
	return w
}

// match returns the longest prefix that contains a, and what it says.
func (r *Rules) match(a netip.Addr) (netip.Prefix, Way, bool) {
	for _, n := range r.lengths[family(a)] {
		p, err := a.Prefix(n)
		if err != nil {
			continue
		}
		if w, ok := r.prefixes[p]; ok {
			return p, w, true
		}
	}
	return netip.Prefix{}, VPN, false
}

// Answer returns why a direct name may not lead to a, nil if it may.
func (r *Rules) Answer(a netip.Addr) error {
	a = a.WithZone("").Unmap()
	p, w, ok := r.match(a)
	if ok && w == VPN {
		return fmt.Errorf("%v is for the VPN, as -via-vpn %v says", a, p)
	}
	if !ok {
		p = netip.Prefix{}
	}
	if !r.asked(p, a) {
		return fmt.Errorf("%v is %s: allow it with -direct %v if that is meant", a, r.kind(a), a)
	}
	return nil
}

// canonical is the form in which names are compared.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// isName reports whether s is a host name that every resolver takes for one. A last part
// that is a number makes some think of an address.
func isName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInName) {
			return false
		}
		last = label
	}
	return !isNumber(last)
}

func notInName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_'
}

// isNumber reports whether inet_aton would take s for one: 127, 0177, 0x7f, 0x.
func isNumber(s string) bool {
	digits, isHex := strings.CutPrefix(s, "0x")
	return strings.Trim(digits, "0123456789") == "" || isHex && strings.Trim(digits, "0123456789abcdef") == ""
}
