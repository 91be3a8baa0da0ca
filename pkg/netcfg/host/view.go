package host

import (
	"net/netip"
	"slices"
)

// A view is what was seen on the host at one moment.
type view struct {
	TAP       netIf
	Links     map[int]netIf
	Addresses []ifAddress
	Routes    []seenRoute
	Rules     []seenRule
	Settings  map[string]string // under /proc/sys; the ones that want may ask for
}

// A netIf is an interface.
type netIf struct {
	Index    int
	Name     string
	MTU      int
	MAC      [6]byte
	Up       bool
	Loopback bool
	Sibling  bool // the TAP of another instance
}

// An ifAddress is an address and its subnet on an interface.
type ifAddress struct {
	Dev    int
	Prefix netip.Prefix
}

// A seenRoute is anyone's route.
type seenRoute struct {
	route
	Protocol int
	Dead     bool // its link has no carrier
	Odd      bool // depends on more than the destination, or does more than send on
}

// A seenRule is anyone's rule.
type seenRule struct {
	rule
	Protocol int
	Mask     uint32
	To       netip.Prefix
	Invert   bool
	Odd      bool // looks at ports, users, interfaces
	Suppress int  // prefixes this long or shorter do not count; -1: all do
}

// mine returns the routes and rules that an instance holds: the one with this
// index and policy table (0 if it has none).
func (v view) mine(index, policyTable int) []item {
	var items []item
	for _, r := range v.Routes {
		if r.ours(index) {
			items = append(items, r.route)
		}
	}
	for _, r := range v.Rules {
		if r.Protocol == protocol && (r.Table == keepBase+index || policyTable != 0 && r.Table == policyTable) {
			items = append(items, r.rule)
		}
	}
	return items
}

func (r seenRoute) ours(index int) bool {
	if r.Protocol != protocol {
		return false
	}
	if r.inKeep() {
		return r.Table == keepBase+index // others may mirror a route of ours
	}
	return r.Dev == index && r.Kind == unicast || r.isGuard() && r.Metric == guardBase+index
}

// isGuard reports whether r keeps some instance's server outside its tunnel.
func (r seenRoute) isGuard() bool {
	return r.Protocol == protocol && r.Table == tableMain && r.Dest.IsSingleIP() && r.Metric > guardBase
}

// byTAP reports whether r is one that an instance has by its TAP.
func (r seenRoute) byTAP() bool {
	return r.Protocol == protocol && r.Kind == unicast && !r.inKeep() && !r.isGuard()
}

// findSiblings adds the TAPs that routes tell of to those that journals tell of.
func (v *view) findSiblings() {
	for _, r := range v.Routes {
		if i, ok := v.Links[r.Dev]; ok && r.byTAP() && r.Dev != v.TAP.Index {
			i.Sibling = true
			v.Links[r.Dev] = i
		}
	}
}

func (r route) inKeep() bool { return isKeep(r.Table) }

// isKeep reports whether a table is some instance's table of the way back.
func isKeep(table int) bool { return table >= keepBase && table <= keepBase+keepSpan }

// orphans returns the routes and rules of instances whose TAP is gone.
func (v view) orphans() []item {
	gone := func(index int) bool {
		_, ok := v.Links[index]
		return !ok
	}
	var items []item
	live := map[int]bool{} // policy tables with routes by a TAP
	for _, r := range v.Routes {
		if r.Protocol != protocol {
			continue
		}
		switch {
		case r.inKeep() && gone(r.Table-keepBase):
			items = append(items, r.route)
		case r.inKeep():
		case r.isGuard():
			if gone(r.Metric - guardBase) {
				items = append(items, r.route)
			}
		default:
			live[r.Table] = true
		}
	}
	for _, r := range v.Rules {
		if r.Protocol != protocol {
			continue
		}
		inKeep := isKeep(r.Table)
		if inKeep && gone(r.Table-keepBase) || !inKeep && !live[r.Table] {
			items = append(items, r.rule)
		}
	}
	return items
}

// A reach is how a packet for an address gets on its way.
type reach uint8

const (
	noWay   reach = iota // it is refused
	onHost               // it stays here
	byRoute              // it goes out
)

// underlay finds the way that a packet from this host would take to dest if the
// instance with the TAP of this view were not there. It does what the kernel does
// with rules and tables, for a packet without mark and without source.
func (v view) underlay(dest netip.Addr) (route, reach) {
	for _, r := range v.Rules {
		if r.Table == 0 || r.Odd || r.V6 != dest.Is6() || !r.matchesPlain(dest) {
			continue
		}
		best, ok := v.lookup(r.Table, dest)
		if !ok || best.Kind == throw || best.Dest.Bits() <= r.Suppress {
			continue
		}
		switch best.Kind {
		case localRoute:
			return route{}, onHost
		case unicast:
			return best, byRoute
		}
		return route{}, noWay
	}
	return route{}, noWay
}

// matchesPlain reports whether r is about a packet for dest without mark and source.
func (r seenRule) matchesPlain(dest netip.Addr) bool {
	matches := !r.From.IsValid() && r.Mark&r.Mask == 0 && (!r.To.IsValid() || r.To.Contains(dest))
	return matches != r.Invert
}

// lookup finds the longest prefix, then the lowest metric. Of other instances only
// what they were told to route counts: a tunnel inside another's default route
// would come and go with that, and two that follow each other's guards stand still.
func (v view) lookup(table int, dest netip.Addr) (route, bool) {
	var best route
	found := false
	for _, r := range v.Routes {
		if r.Table != table || !r.Dest.Contains(dest) || r.Dead || r.Odd ||
			r.Kind == unicast && r.Dev == v.TAP.Index || r.Protocol == protocol && (!r.byTAP() || r.Dest.Bits() <= 1) {
			continue
		}
		if !found || r.Dest.Bits() > best.Dest.Bits() ||
			r.Dest.Bits() == best.Dest.Bits() && r.Metric < best.Metric {
			best, found = r.route, true
		}
	}
	return best, found
}

// freeMarks returns two mark values that no other instance routes by, or zeros.
func (v view) freeMarks() (tunnel, keep uint32) {
	for n := uint32(1); n+1 <= markMask>>markShift; n += 2 {
		tunnel, keep = n<<markShift, (n+1)<<markShift
		taken := slices.ContainsFunc(v.Rules, func(r seenRule) bool {
			return r.Protocol == protocol && (r.Mark == tunnel || r.Mark == keep)
		})
		if !taken {
			return tunnel, keep
		}
	}
	return 0, 0
}
