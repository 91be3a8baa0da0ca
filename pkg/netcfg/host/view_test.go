package host

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnderlay(t *testing.T) {
	const server = "203.0.113.5"
	ours := func(r seenRoute) seenRoute {
		r.Protocol = protocol
		return r
	}
	kind := func(k routeKind, r seenRoute) seenRoute {
		r.Kind = k
		return r
	}
	for _, tt := range []struct {
		name   string
		dest   string
		routes []seenRoute // beside the usual
		rules  []seenRule  // before the main table's
		edit   func(*view)
		want   string
	}{
		{name: "by the default route", want: "192.0.2.1 dev 10"},
		{name: "on link", dest: "192.0.2.99", want: "invalid IP dev 10"},
		{name: "this host", dest: "192.0.2.10", want: "here"},
		{name: "IPv6", dest: "2001:db8:f::5", want: "fe80::1 dev 10"},
		{name: "our own routes do not count", routes: []seenRoute{
			ours(theirs("0.0.0.0/1", "10.77.0.1", 100, 50)), ours(theirs(server+"/32", "192.0.2.254", 10, 1100)),
		}, want: "192.0.2.1 dev 10"},
		{name: "nor do others' by the TAP", routes: []seenRoute{theirs("203.0.113.0/24", "10.77.0.9", 100, 0)}, want: "192.0.2.1 dev 10"},
		{name: "another instance's way to the same server does not", routes: []seenRoute{ours(theirs(server+"/32", "192.0.2.254", 10, 1101))}, want: "192.0.2.1 dev 10"},
		{name: "nor does its default route", routes: []seenRoute{
			ours(theirs("0.0.0.0/0", "10.88.0.1", 101, 50)), ours(theirs("128.0.0.0/1", "10.88.0.1", 101, 50)),
		}, want: "192.0.2.1 dev 10"},
		{name: "but a route that it was told does", routes: []seenRoute{ours(theirs("203.0.113.0/24", "10.88.0.1", 101, 50))}, want: "10.88.0.1 dev 101"},
		{name: "the longest prefix", routes: []seenRoute{theirs("203.0.113.0/24", "192.0.2.7", 10, 900), theirs("203.0.0.0/8", "192.0.2.8", 10, 0)}, want: "192.0.2.7 dev 10"},
		{name: "the lowest metric", routes: []seenRoute{theirs("0.0.0.0/0", "192.0.2.7", 10, 99)}, want: "192.0.2.7 dev 10"},
		{name: "not one without carrier", routes: []seenRoute{{route: theirs("0.0.0.0/0", "192.0.2.7", 10, 1).route, Dead: true}}, want: "192.0.2.1 dev 10"},
		{name: "not one for a type of service", routes: []seenRoute{{route: theirs("0.0.0.0/0", "192.0.2.7", 10, 1).route, Odd: true}}, want: "192.0.2.1 dev 10"},
		{name: "one that is refused", routes: []seenRoute{kind(unreachable, theirs("203.0.113.0/24", "", 0, 0))}, want: "no way"},
		{name: "nothing", edit: func(v *view) { v.Routes = nil }, want: "no way"},
		{name: "a full tunnel of someone else's (wg-quick)", rules: []seenRule{
			{rule: rule{Table: 51820, Mark: 51820}, Mask: 0xffffffff, Invert: true, Suppress: -1},
			{rule: rule{Table: tableMain}, Suppress: 0},
		}, routes: []seenRoute{in(51820, theirs("0.0.0.0/0", "", 30, 0))}, want: "invalid IP dev 30"},
		{name: "a rule that suppresses the default", rules: []seenRule{
			{rule: rule{Table: 300}, Suppress: 0},
		}, routes: []seenRoute{in(300, theirs("0.0.0.0/0", "", 30, 0))}, want: "192.0.2.1 dev 10"},
		{name: "a rule for a mark", rules: []seenRule{{rule: rule{Table: 300, Mark: 1}, Mask: 0xff, Suppress: -1}},
			routes: []seenRoute{in(300, theirs("0.0.0.0/0", "", 30, 0))}, want: "192.0.2.1 dev 10"},
		{name: "a rule for a source", rules: []seenRule{{rule: rule{Table: 300, From: netip.MustParsePrefix("10.0.0.0/8")}, Suppress: -1}},
			routes: []seenRoute{in(300, theirs("0.0.0.0/0", "", 30, 0))}, want: "192.0.2.1 dev 10"},
		{name: "a rule for the destination", rules: []seenRule{{rule: rule{Table: 300}, To: netip.MustParsePrefix("203.0.113.0/24"), Suppress: -1}},
			routes: []seenRoute{in(300, theirs("0.0.0.0/0", "192.0.2.3", 10, 0))}, want: "192.0.2.3 dev 10"},
		{name: "a rule for another destination", rules: []seenRule{{rule: rule{Table: 300}, To: netip.MustParsePrefix("198.51.100.0/24"), Suppress: -1}},
			routes: []seenRoute{in(300, theirs("0.0.0.0/0", "192.0.2.3", 10, 0))}, want: "192.0.2.1 dev 10"},
		{name: "a rule for a port or a user", rules: []seenRule{{rule: rule{Table: 300}, Odd: true, Suppress: -1}},
			routes: []seenRoute{in(300, theirs("0.0.0.0/0", "", 30, 0))}, want: "192.0.2.1 dev 10"},
		{name: "a rule of the other family", rules: []seenRule{lookup6(1, 300)},
			routes: []seenRoute{in(300, theirs("0.0.0.0/0", "", 30, 0))}, want: "192.0.2.1 dev 10"},
		{name: "a table that throws", rules: []seenRule{lookup(1, 300)},
			routes: []seenRoute{in(300, kind(throw, theirs("203.0.113.0/24", "", 0, 0)))}, want: "192.0.2.1 dev 10"},
		{name: "a table with nothing for it", rules: []seenRule{lookup(1, 300)}, want: "192.0.2.1 dev 10"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := aHost()
			v.Routes = append(v.Routes, tt.routes...)
			v.Rules = append(append([]seenRule{v.Rules[0]}, tt.rules...), v.Rules[1:]...)
			if tt.edit != nil {
				tt.edit(&v)
			}
			if tt.dest == "" {
				tt.dest = server
			}
			way, reach := v.underlay(netip.MustParseAddr(tt.dest))
			got := map[any]string{noWay: "no way", onHost: "here"}[reach]
			if reach == byRoute {
				got = fmt.Sprintf("%v dev %d", way.Via, way.Dev)
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// crowded is a host with our instance (100), another that lives (101), a dead one
// (90) and things of other programs.
func crowded() view {
	v := aHost()
	v.Links[101] = netIf{Index: 101, Name: "vpn1"}
	our := func(table int, dest string, dev, metric int) {
		r := in(table, theirs(dest, "", dev, metric))
		r.Protocol = protocol
		v.Routes = append(v.Routes, r)
	}
	our(tableMain, "203.0.113.5/32", 10, 1100)
	our(tableMain, "0.0.0.0/0", 100, 50)
	our(200, "0.0.0.0/0", 100, 0)
	our(keepBase+100, "0.0.0.0/0", 10, 100)
	our(keepBase+101, "10.77.0.0/24", 100, 0) // mirrored by the other
	our(tableMain, "203.0.113.6/32", 10, 1101)
	our(201, "0.0.0.0/0", 101, 0)
	our(tableMain, "203.0.113.7/32", 10, 1090)
	our(keepBase+90, "0.0.0.0/0", 10, 100)
	v.Routes = append(v.Routes, theirs("203.0.113.9/32", "192.0.2.1", 10, 90), in(200, theirs("10.9.0.0/16", "", 10, 0)))
	rules := []rule{
		{Priority: policyPriority, From: netip.MustParsePrefix("10.77.0.50/32"), Table: 200},
		{Priority: policyPriority, From: netip.MustParsePrefix("10.88.0.50/32"), Table: 201},
		{Priority: policyPriority, From: netip.MustParsePrefix("10.99.0.50/32"), Table: 290},
		{Priority: policyPriority, Mark: 5 << 24, Table: 290},
		{Priority: keepPriority, Table: keepBase + 100},
		{Priority: keepPriority, Table: keepBase + 101},
		{Priority: keepPriority, V6: true, Table: keepBase + 90},
	}
	for _, r := range rules {
		v.Rules = append(v.Rules, seenRule{rule: r, Protocol: protocol, Suppress: -1})
	}
	v.Rules = append(v.Rules, seenRule{rule: rule{Priority: 100, Table: 200}, Suppress: -1})
	return v
}

func TestMine(t *testing.T) {
	const want = `route 203.0.113.5/32 dev 10 metric 1100
route 0.0.0.0/0 dev 10 metric 100 table 1577058404
rule 5100 from 10.77.0.50/32 table 200
rule 32765 from all table 1577058404
route 0.0.0.0/0 dev 100 metric 0 table 200
route 0.0.0.0/0 dev 100 metric 50`
	if d := cmp.Diff(want, text(crowded().mine(100, 200))); d != "" {
		t.Errorf("items (-want +got):\n%s", d)
	}
}

func TestOrphans(t *testing.T) {
	const want = `route 203.0.113.7/32 dev 10 metric 1090
route 0.0.0.0/0 dev 10 metric 100 table 1577058394
rule 5100 from 10.99.0.50/32 table 290
rule 5100 from all mark 0x5000000/0xf000000 table 290
rule6 32765 from all table 1577058394`
	if d := cmp.Diff(want, text(crowded().orphans())); d != "" {
		t.Errorf("items (-want +got):\n%s", d)
	}
}

func TestFreeMarks(t *testing.T) {
	v := aHost()
	for instance := range uint32(7) {
		tunnel, keep := v.freeMarks()
		if want := (2*instance + 1) << 24; tunnel != want || keep != want+1<<24 || (tunnel|keep)&^markMask != 0 {
			t.Fatalf("instance %d: got %#x and %#x", instance, tunnel, keep)
		}
		mark := []uint32{tunnel, keep}[instance%2] // either is enough
		v.Rules = append(v.Rules, seenRule{rule: rule{Mark: mark, Table: 1}, Protocol: protocol})
	}
	if tunnel, keep := v.freeMarks(); tunnel != 0 || keep != 0 {
		t.Errorf("an eighth instance gets %#x and %#x", tunnel, keep)
	}
	other := aHost()
	other.Rules = append(other.Rules, seenRule{rule: rule{Mark: 1 << 24, Table: 1}, Protocol: 3})
	if tunnel, _ := other.freeMarks(); tunnel != 1<<24 {
		t.Errorf("a stranger's rule: got %#x", tunnel)
	}
}
