package split

import (
	"cmp"
	"net/netip"
	"strings"
	"testing"
)

// rules makes Rules of two lists in one line each.
func rules(t testing.TB, direct, viaVPN string) *Rules {
	t.Helper()
	r, err := New(targets(t, direct), targets(t, viaVPN))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func targets(t testing.TB, list string) (all []Target) {
	t.Helper()
	for _, s := range strings.Fields(list) {
		target, err := ParseTarget(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, target)
	}
	return all
}

func TestMostSpecificRuleDecides(t *testing.T) {
	r := rules(t, "example.com 192.0.2.0/24 10.1.0.0/16 2001:db8::/32 fd00:1::/48 127.0.0.1",
		"corp.example.com 192.0.2.128/25 2001:db8:1::/48")
	inverse := rules(t, "default www.corp.example", "corp.example 203.0.113.0/24 printer")
	for _, row := range []struct {
		name  string
		rules *Rules
		host  string
		want  Way
	}{
		{"no rules", nil, "example.com", VPN},
		{"no rules, an address", nil, "192.0.2.1", VPN},
		{"a domain", r, "example.com", Direct},
		{"below it", r, "a.b.example.com", Direct},
		{"in capitals, with the final dot", r, "A.EXAMPLE.com.", Direct},
		{"a longer name that ends alike", r, "badexample.com", VPN},
		{"above it", r, "com", VPN},
		{"a domain below another", r, "corp.example.com", VPN},
		{"below that", r, "db.corp.example.com", VPN},
		{"nothing about it", r, "example.org", VPN},
		{"an address", r, "192.0.2.1", Direct},
		{"an address in a longer prefix", r, "192.0.2.200", VPN},
		{"the same in the dress of IPv6", r, "::ffff:192.0.2.1", Direct},
		{"an address of IPv6", r, "2001:db8::1", Direct},
		{"an address of IPv6 in a longer prefix", r, "2001:db8:1::1", VPN},
		{"an address with a zone", r, "2001:db8::1%eth0", VPN},
		{"a private address that is asked for", r, "10.1.2.3", Direct},
		{"a private address that is not", r, "10.2.0.1", VPN},
		{"a local address of IPv6 that is asked for", r, "fd00:1::1", Direct},
		{"this machine, asked for", r, "127.0.0.1", Direct},
		{"this machine by another address", r, "127.0.0.2", VPN},

		{"the rest", inverse, "example.org", Direct},
		{"the rest, an address", inverse, "192.0.2.1", Direct},
		{"the rest, an address of IPv6", inverse, "2001:db8::1", Direct},
		{"a VPN name", inverse, "db.corp.example", VPN},
		{"a direct name among VPN names", inverse, "www.corp.example", Direct},
		{"a VPN address", inverse, "203.0.113.9", VPN},
		{"a private address is not of the rest", inverse, "10.0.0.1", VPN},
		{"nor is this machine", inverse, "127.0.0.1", VPN},
		{"nor this machine by IPv6", inverse, "::1", VPN},
		{"nor all addresses of it", inverse, "0.0.0.0", VPN},
		{"nor this machine behind IPv6", inverse, "::ffff:127.0.0.1", VPN},
		{"nor this machine behind a translator", inverse, "64:ff9b::7f00:1", VPN},
		{"nor this machine behind 6to4", inverse, "2002:7f00:1::1", VPN},
		{"a public address behind a translator is", inverse, "64:ff9b::808:808", Direct},
		{"nor a link's address", inverse, "169.254.169.254", VPN},
		{"nor a link's address of IPv6", inverse, "fe80::1", VPN},
		{"nor a name without a dot", inverse, "files", VPN},
		{"nor what some resolvers take for an address", inverse, "127.1", VPN},
		{"nor that in hexadecimal", inverse, "0x7f.0x1", VPN},
		{"nor that in one number", inverse, "2130706433", VPN},
		{"nor a name in other letters", inverse, "bücher.example", VPN},
		{"nor a name with another dot", inverse, "db。corp。example", VPN},
		{"nor a name with an empty part", inverse, "a..example", VPN},
		{"nor nothing", inverse, "", VPN},
		{"nor a name that is too long", inverse, strings.Repeat("a.", 200) + "example", VPN},
	} {
		if got := row.rules.Host(row.host); got != row.want {
			t.Errorf("%s: %q goes %v, want %v", row.name, row.host, got, row.want)
		}
	}
}

func TestEverythingIsNotThisMachine(t *testing.T) {
	r := rules(t, "0.0.0.0/0 ::/0", "")
	for host, want := range map[string]Way{"192.0.2.1": Direct, "127.0.0.1": VPN, "192.168.1.1": VPN, "::1": VPN, "2001:db8::1": Direct} {
		if got := r.Host(host); got != want {
			t.Errorf("with 0.0.0.0/0 and ::/0 %s goes %v, want %v", host, got, want)
		}
	}
}

// What this machine serves at its own addresses is no more of the rest than its loopback.
func TestOwnAddressesAreNotDirectByAccident(t *testing.T) {
	own := func(a netip.Addr) (netip.Prefix, bool) {
		p, ok := map[string]string{"198.51.100.7": "198.51.100.0/24", "2001:db8::7": "2001:db8::/64", "10.1.0.7": "10.1.0.0/16"}[a.String()]
		return netip.MustParsePrefix(cmp.Or(p, "0.0.0.0/0")), ok
	}
	for _, row := range []struct {
		direct string
		want   map[string]Way
	}{
		{"default", map[string]Way{"198.51.100.7": VPN, "::ffff:198.51.100.7": VPN, "64:ff9b::c633:6407": VPN, "2001:db8::7": VPN, "10.1.0.7": VPN,
			"198.51.100.8": Direct, "2001:db8::8": Direct}},
		{"0.0.0.0/0 198.51.0.0/16 ::/0 10.0.0.0/8", map[string]Way{"198.51.100.7": VPN, "2001:db8::7": VPN, "10.1.0.7": VPN, "10.1.0.8": Direct}},
		{"198.51.100.0/24 2001:db8::7 10.1.0.0/24", map[string]Way{"198.51.100.7": Direct, "2001:db8::7": Direct, "10.1.0.7": Direct}}, // named
	} {
		r := rules(t, row.direct, "")
		r.own = own
		for host, want := range row.want {
			if got := r.Host(host); got != want {
				t.Errorf("-direct %q: %s goes %v, want %v", row.direct, host, got, want)
			}
		}
		if err := r.Answer(netip.MustParseAddr("198.51.100.7")); (err == nil) != (row.want["198.51.100.7"] == Direct) {
			t.Errorf("-direct %q: as an answer: %v", row.direct, err)
		}
	}
	if _, ok := rules(t, "default", "").own(netip.MustParseAddr("127.0.0.1")); !ok {
		t.Error("rules do not know the addresses of this machine")
	}
}

// Names of addresses are asked for where the addresses are.
func TestReverseNamesGoWithTheirAddresses(t *testing.T) {
	r := rules(t, "default 10.99.0.0/16 9.99.10.in-addr.arpa", "corp.example 203.0.113.0/24 2001:db8:1::/48 192.0.2.in-addr.arpa")
	zeros := strings.Repeat("0.", 16)
	for name, want := range map[string]Way{
		"1.0.200.10.in-addr.arpa":                          VPN, // private
		"1.0.200.10.IN-ADDR.ARPA.":                         VPN,
		"200.10.in-addr.arpa":                              VPN, // the network of it
		"10.in-addr.arpa":                                  VPN,
		"7.0.99.10.in-addr.arpa":                           Direct, // named by its prefix
		"9.113.0.203.in-addr.arpa":                         VPN,
		"113.0.203.in-addr.arpa":                           VPN,
		"1.100.51.198.in-addr.arpa":                        Direct,
		"0-25.113.0.203.in-addr.arpa":                      VPN, // RFC 2317
		"1.0-25.113.0.203.in-addr.arpa":                    VPN,
		"1.9.113.0.203.in-addr.arpa":                       VPN,
		"in-addr.arpa":                                     Direct, // nobody's
		"x.in-addr.arpa":                                   Direct,
		"256.in-addr.arpa":                                 Direct,
		zeros + "0.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": VPN,
		zeros + "0.0.0.0.2.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": Direct,
		"8.e.f.ip6.arpa":                                   VPN, // fe80::
		// A domain that is named decides before.
		"5.9.99.10.in-addr.arpa": Direct,
		"5.192.0.2.in-addr.arpa": VPN,
		"arpa":                   VPN, // no dot
	} {
		if got := r.Name(name); got != want {
			t.Errorf("%s goes %v, want %v", name, got, want)
		}
	}
}

func TestRebindingIsRefused(t *testing.T) {
	r := rules(t, "example.com 10.1.0.0/16", "203.0.113.0/24")
	for answer, want := range map[string]string{
		"192.0.2.1":        "",
		"2001:db8::1":      "",
		"10.1.2.3":         "", // asked for
		"10.2.0.1":         "private network: allow it with -direct 10.2.0.1",
		"127.0.0.1":        "this machine",
		"::1":              "this machine",
		"::ffff:127.0.0.1": "this machine",
		"0.0.0.0":          "this machine",
		"169.254.169.254":  "this link",
		"fe80::1%eth0":     "this link",
		"fd00::1":          "private network",
		"100.64.1.1":       "provider",
		"224.0.0.251":      "group",
		"64:ff9b::a00:1":   "private network",
		"2002:c0a8:101::1": "private network",
		"203.0.113.5":      "for the VPN, as -via-vpn 203.0.113.0/24 says",
	} {
		err := r.Answer(netip.MustParseAddr(answer))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("answer %s: got %v, want %q", answer, err, want)
		}
	}
}

func TestBadTargetsAreExplained(t *testing.T) {
	for s, want := range map[string]string{
		"":                 "is empty",
		"10.0.0.1/8":       "give 10.0.0.0/8",
		"10.0.0.0/33":      "is not a network",
		"fe80::1%eth0":     "zone",
		".corp.example":    "give corp.example",
		"*.corp.example":   "give corp.example",
		"corp..example":    "neither",
		"bücher.example":   "xn--",
		"http://corp":      "is not a network",
		"corp.example:443": "neither",
		"1.2.3":            "neither",
	} {
		if got, err := ParseTarget(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want an error with %q", s, got, err, want)
		}
	}
}

func TestTargetsAreShownAsGiven(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "192.0.2.1": "192.0.2.1/32", "2001:db8::1": "2001:db8::1/128",
		"Corp.Example.": "corp.example", "default": "default", "::ffff:10.0.0.0/104": "10.0.0.0/8",
	} {
		if got, err := ParseTarget(s); err != nil || got.String() != want {
			t.Errorf("%q: got %v, %v; want %s", s, got, err, want)
		}
	}
}

func TestRulesThatSayNothingAreRefused(t *testing.T) {
	if r, err := New(nil, nil); r != nil || err != nil {
		t.Errorf("no rules: got %v, %v", r, err)
	}
	if _, err := New(nil, targets(t, "corp.example")); err == nil || !strings.Contains(err.Error(), "add -direct default") {
		t.Errorf("-via-vpn alone: got %v", err)
	}
	_, err := New(targets(t, "corp.example 10.0.0.0/8 example.org"), targets(t, "10.0.0.0/8 CORP.example"))
	if err == nil || strings.Count(err.Error(), "is in -direct too") != 2 {
		t.Errorf("both ways at once: got %v", err)
	}
}

// FuzzTarget holds what is accepted to what it says: its text means the same again, and
// a rule is about what it names and about nothing that it must not let out.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "corp.example", "default", "*.corp", "::/0", "0.0.0.0/0", "::ffff:0:0/96", "1.2.3", "fe80::1%1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		target, err := ParseTarget(s)
		if err != nil {
			return
		}
		again, err := ParseTarget(target.String())
		if err != nil || again != target {
			t.Fatalf("%q is %v, which is %v, %v", s, target, again, err)
		}
		r, err := New([]Target{target}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if target.domain != "" && target.domain != everything && (r.Name(target.domain) != Direct || r.Name("x."+target.domain) == VPN && len(target.domain) < 250) {
			t.Errorf("%q does not speak of itself", s)
		}
		if r.Addr(netip.MustParseAddr("127.0.0.1")) == Direct && (!target.prefix.IsValid() || target.prefix.Bits() < 8) {
			t.Errorf("%q opens this machine", s)
		}
	})
}

// FuzzHost looks for a name that leads a VPN name's question beside the tunnel.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"db.corp.example", "DB.CORP.EXAMPLE.", "corp.example", "db。corp.example", "a..corp.example", "127.1", "::1", "::ffff:7f00:1"} {
		f.Add(s)
	}
	r := rules(f, "default", "corp.example")
	f.Fuzz(func(t *testing.T, s string) {
		if r.Host(s) != Direct {
			return
		}
		a, err := netip.ParseAddr(s)
		if err == nil {
			if a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast() {
				t.Errorf("%q goes direct", s)
			}
			return
		}
		if lower := strings.ToLower(strings.Trim(s, ".")); lower == "corp.example" || strings.HasSuffix(lower, ".corp.example") || !strings.Contains(lower, ".") {
			t.Errorf("%q goes direct", s)
		}
	})
}
