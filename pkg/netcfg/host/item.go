package host

import (
	"fmt"
	"net/netip"
	"strings"

	"softether-go/pkg/netcfg/host/resolv"
)

const (
	// protocol is in every route and rule of ours. No number near it is taken in
	// iproute2's rt_protos; it is 0x5e, for SoftEther.
	protocol = 94

	tableDefault = 253 // RT_TABLE_DEFAULT
	tableMain    = 254 // RT_TABLE_MAIN
	tableLocal   = 255 // RT_TABLE_LOCAL

	// keepBase plus the TAP's index is the table of the way back. People and
	// programs number theirs from the low end; 0x5e again.
	keepBase = 0x5e000000
	keepSpan = 0x00ffffff

	// routeMetric is the metric of the lease's routes in the main table.
	routeMetric = 50
	// guardBase plus the TAP's index is the metric of a route to the server.
	guardBase = 1000

	// policyPriority is before Tailscale's rules (5210 and on) and all that the
	// kernel numbers by itself: the rule is about our own address alone.
	policyPriority = 5100
	// keepPriority is the last before the main table (32766), for which it stands in.
	// Rules of others at the same priority that were there before come first.
	keepPriority = 32765

	markMask  = 0x0f000000
	markShift = 24
)

// An item is one thing of ours on the host. Items are values: equal ones are the same.
type item interface {
	key() any // items with the same key replace one another
	rank() rank
	String() string
}

// A rank orders items: what a later one needs is in an earlier one, and traffic
// moves with the last, when everything that protects it is there.
type rank int

const (
	rankSetting rank = iota
	rankLink
	rankAddress
	rankGuard // routes to the server and back
	rankMarks
	rankRule
	rankPolicyRoute
	rankRoute
	rankDNS
)

// A setting is a value under /proc/sys. Was is what it was before us. Dev is the index
// of the interface that it is of: another one of the same name has its own.
type setting struct {
	Path, Value, Was string
	Dev              int
}

func (s setting) key() any   { return "setting " + s.Path }
func (s setting) rank() rank { return rankSetting }
func (s setting) String() string {
	return fmt.Sprintf("setting %s=%s (was %s)", s.Path, s.Value, s.Was)
}

// A link is the state of the TAP itself.
type link struct {
	Up  bool
	MTU int
}

func (l link) key() any       { return "link" }
func (l link) rank() rank     { return rankLink }
func (l link) String() string { return fmt.Sprintf("link up=%t mtu %d", l.Up, l.MTU) }

// An address is one of the TAP.
type address struct{ netip.Prefix }

func (a address) key() any       { return a }
func (a address) rank() rank     { return rankAddress }
func (a address) String() string { return "address " + a.Prefix.String() }

// A routeKind is what a route does with a packet.
type routeKind uint8

const (
	unicast     routeKind = iota // sends it on
	unreachable                  // refuses it
	localRoute                   // it is for this host (or a broadcast)
	throw                        // the next table decides
)

// A route is one of any table.
type route struct {
	Table  int
	Dest   netip.Prefix
	Via    netip.Addr // invalid: on link
	Dev    int        // interface index
	Metric int
	Source netip.Addr // preferred source
	Kind   routeKind
	MTU    int  // of packets by this route; 0: the interface's
	OnLink bool // Via is on link though no subnet says so
}

type routeKey struct {
	table  int
	dest   netip.Prefix
	metric int
}

func (r route) key() any { return routeKey{r.Table, r.Dest, r.Metric} }

func (r route) rank() rank {
	switch {
	case r.inKeep():
		return rankGuard
	case r.Table != tableMain:
		return rankPolicyRoute
	case r.Dest.IsSingleIP():
		return rankGuard
	default:
		return rankRoute
	}
}

func (r route) String() string {
	var b strings.Builder
	b.WriteString("route ")
	if r.Kind == unreachable {
		b.WriteString("unreachable ")
	}
	b.WriteString(r.Dest.String())
	if r.Via.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Via)
	}
	if r.Kind == unicast {
		fmt.Fprintf(&b, " dev %d", r.Dev)
	}
	if r.Source.IsValid() {
		fmt.Fprintf(&b, " src %s", r.Source)
	}
	fmt.Fprintf(&b, " metric %d", r.Metric)
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	if r.Table != tableMain {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	return b.String()
}

// A rule says which table decides about a packet: one from an address, or one with
// a mark.
type rule struct {
	Priority int
	V6       bool
	From     netip.Prefix // invalid: from anywhere
	Mark     uint32       // under markMask; 0: whatever it is
	Table    int
}

func (r rule) key() any   { return r }
func (r rule) rank() rank { return rankRule }

func (r rule) String() string {
	from, mark := "all", ""
	if r.From.IsValid() {
		from = r.From.String()
	}
	if r.Mark != 0 {
		mark = fmt.Sprintf(" mark %#x/%#x", r.Mark, uint32(markMask))
	}
	family := ""
	if r.V6 {
		family = "6"
	}
	return fmt.Sprintf("rule%s %d from %s%s table %d", family, r.Priority, from, mark, r.Table)
}

// marks is the nftables table. A zero mark is not given.
type marks struct {
	TAP    string
	Tunnel uint32 // of connections that came by the TAP
	Keep   uint32 // of those that came by another interface
	Block  bool   // no IPv6 of our own making leaves but by the TAP
	Allow  string // prefixes that Block leaves open, joined by spaces
	Others string // TAPs of other instances, whose connections are theirs
	Own    string // addresses not on a TAP, joined by spaces; what is connected to them already is Keep's
}

func (m marks) key() any   { return "marks" }
func (m marks) rank() rank { return rankMarks }

func (m marks) String() string {
	block := ""
	if m.Block {
		block = ", IPv6 only to " + m.Allow
	}
	own := ""
	if m.Own != "" {
		own = " or to " + m.Own
	}
	if m.Others != "" {
		block += ", not those of " + m.Others
	}
	return fmt.Sprintf("marks of %s: by the tunnel %#x, by others %#x%s%s", m.TAP, m.Tunnel, m.Keep, own, block)
}

// A names is what resolves names. Lists are joined by spaces, so that it compares.
type names struct{ Servers, Search string }

// parse takes the lists apart.
func (n names) parse() resolv.Names {
	p := resolv.Names{Search: strings.Fields(n.Search)}
	for _, s := range strings.Fields(n.Servers) {
		if a, err := netip.ParseAddr(s); err == nil {
			p.Servers = append(p.Servers, a)
		}
	}
	return p
}

func (n names) key() any       { return "names" }
func (n names) rank() rank     { return rankDNS }
func (n names) String() string { return fmt.Sprintf("names by %s search %q", n.Servers, n.Search) }
