package host

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlan(t *testing.T) {
	old, fresh := address{netip.MustParsePrefix("10.77.0.50/24")}, address{netip.MustParsePrefix("10.88.0.50/24")}
	gateway := func(via string) route {
		return route{Table: tableMain, Dest: default4, Via: netip.MustParseAddr(via), Dev: 100, Metric: 50}
	}
	from := func(a address) rule {
		return rule{Priority: policyPriority, From: netip.PrefixFrom(a.Addr(), 32), Table: 200}
	}
	up := link{Up: true, MTU: 1500}
	strict := setting{"net/x", "2", "1", 0}
	for _, tt := range []struct {
		name       string
		have, want []item
		steps      []string
	}{
		{name: "nothing"},
		{name: "the same", have: []item{up, old, gateway("10.77.0.1")}, want: []item{gateway("10.77.0.1"), old, up}},
		{name: "all new, in order", want: []item{gateway("10.77.0.1"), from(old), old, up, strict, up}, steps: []string{
			"add setting net/x=2 (was 1)", "add link up=true mtu 1500", "add address 10.77.0.50/24",
			"add rule 5100 from 10.77.0.50/32 table 200", "add route 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50",
		}},
		{name: "all gone, in reverse", have: []item{strict, old, from(old), gateway("10.77.0.1")}, steps: []string{
			"remove route 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50", "remove rule 5100 from 10.77.0.50/32 table 200",
			"remove address 10.77.0.50/24", "remove setting net/x=2 (was 1)",
		}},
		{name: "another lease: new before old, and the default route is there all the time",
			have: []item{old, from(old), gateway("10.77.0.1")}, want: []item{fresh, from(fresh), gateway("10.88.0.1")},
			steps: []string{
				"add address 10.88.0.50/24", "add rule 5100 from 10.88.0.50/32 table 200",
				"replace route 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50 by route 0.0.0.0/0 via 10.88.0.1 dev 100 metric 50",
				"remove rule 5100 from 10.77.0.50/32 table 200", "remove address 10.77.0.50/24",
			}},
		{name: "the link goes down last", have: []item{link{Up: true, MTU: 1400}, gateway("10.77.0.1"), strict}, want: []item{link{MTU: 1500}},
			steps: []string{"remove route 0.0.0.0/0 via 10.77.0.1 dev 100 metric 50",
				"replace link up=true mtu 1400 by link up=false mtu 1500", "remove setting net/x=2 (was 1)"}},
		{name: "another MTU", have: []item{up}, want: []item{link{Up: true, MTU: 1400}},
			steps: []string{"replace link up=true mtu 1500 by link up=true mtu 1400"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, s := range plan(tt.have, tt.want) {
				got = append(got, s.String())
			}
			if d := cmp.Diff(strings.Join(tt.steps, "\n"), strings.Join(got, "\n")); d != "" {
				t.Errorf("steps (-want +got):\n%s", d)
			}
		})
	}
}

// Taking the steps of a plan leads to what is wanted, and their inverses lead back.
func TestPlanArrivesAndReturns(t *testing.T) {
	v := aHost()
	wishes := []wish{{Closed: true}, aWish(Options{}), aWish(everything()), aWish(Options{PolicyTable: 201})}
	wishes[3].Config.Address = netip.MustParsePrefix("10.88.0.50/24")
	for i, a := range wishes {
		for j, b := range wishes {
			from, err := want(v, a)
			if err != nil {
				t.Fatal(err)
			}
			to, err := want(v, b)
			if err != nil {
				t.Fatal(err)
			}
			have := set(from)
			steps := plan(from, to)
			for _, s := range steps {
				walk(have, s)
			}
			if d := cmp.Diff(set(to), have, cmp.Comparer(func(x, y item) bool { return x == y })); d != "" {
				t.Errorf("%d to %d (-want +got):\n%s", i, j, d)
			}
			for _, s := range slices.Backward(steps) {
				walk(have, s.inverse())
			}
			if d := cmp.Diff(set(from), have, cmp.Comparer(func(x, y item) bool { return x == y })); d != "" {
				t.Errorf("%d to %d and back (-want +got):\n%s", i, j, d)
			}
		}
	}
}

func set(items []item) map[string]item {
	m := map[string]item{}
	for _, i := range items {
		m[i.String()] = i
	}
	return m
}

func walk(have map[string]item, s step) {
	if s.Old != nil {
		delete(have, s.Old.String())
	}
	if s.New != nil {
		have[s.New.String()] = s.New
	}
}
