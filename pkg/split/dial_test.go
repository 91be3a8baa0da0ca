package split

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

// A tape is a Network that notes what it is asked, and answers nothing.
type tape struct {
	name  string
	notes *[]string
}

func (n tape) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	*n.notes = append(*n.notes, fmt.Sprintf("%s dials %s %s", n.name, network, address))
	return nil, errors.New("not today")
}

func (n tape) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	*n.notes = append(*n.notes, fmt.Sprintf("%s looks up %s %s", n.name, network, host))
	return nil, errors.New("not today")
}

// newSwitch has a tape for a VPN, and a host on which names have the given addresses.
func newSwitch(r *Rules, names map[string]string) (*Switch, *[]string) {
	notes := new([]string)
	host := &Host{
		Rules: r,
		Dial: func(_ context.Context, network string, addrs []netip.Addr, port uint16) (net.Conn, error) {
			*notes = append(*notes, fmt.Sprintf("host dials %s %v %d", network, addrs, port))
			return nil, syscall.ECONNREFUSED
		},
		Lookup: func(_ context.Context, network, name string) ([]netip.Addr, error) {
			*notes = append(*notes, fmt.Sprintf("host looks up %s %s", network, name))
			var addrs []netip.Addr
			for _, a := range strings.Fields(names[name]) {
				addrs = append(addrs, netip.MustParseAddr(a))
			}
			return addrs, nil
		},
	}
	return &Switch{Rules: r, VPN: tape{"vpn", notes}, Direct: host}, notes
}

func TestEachNameIsAskedForOnItsOwnSideOnly(t *testing.T) {
	names := map[string]string{
		"www.example.com.":   "192.0.2.7 2001:db8::7",
		"evil.example.com.":  "127.0.0.1",
		"mixed.example.com.": "10.0.0.1 192.0.2.8",
		"lan.example.com.":   "10.1.0.9",
	}
	for _, row := range []struct {
		address string
		trail   string
		want    error
	}{
		{"files.corp:80", "vpn dials tcp files.corp:80", nil},
		{"files:80", "vpn dials tcp files:80", nil},
		{"10.0.0.1:80", "vpn dials tcp 10.0.0.1:80", nil},
		{"192.0.2.9:80", "host dials tcp [192.0.2.9] 80", syscall.ECONNREFUSED},
		{"www.example.com:443", "host looks up ip www.example.com., host dials tcp [192.0.2.7 2001:db8::7] 443", syscall.ECONNREFUSED},
		{"evil.example.com:80", "host looks up ip evil.example.com.", syscall.EACCES},
		{"mixed.example.com:80", "host looks up ip mixed.example.com., host dials tcp [192.0.2.8] 80", syscall.ECONNREFUSED},
		{"lan.example.com:80", "host looks up ip lan.example.com., host dials tcp [10.1.0.9] 80", syscall.ECONNREFUSED},
		{"none.example.com:80", "host looks up ip none.example.com.", nil},
		{"www.example.com:http", "", nil},
	} {
		s, notes := newSwitch(rules(t, "default 10.1.0.0/16", "corp"), names)
		_, err := s.DialContext(t.Context(), "tcp", row.address)
		if err == nil || row.want != nil && !errors.Is(err, row.want) {
			t.Errorf("%s: got error %v, want %v", row.address, err, row.want)
		}
		if got := strings.Join(*notes, ", "); got != row.trail {
			t.Errorf("%s:\n got %s\nwant %s", row.address, got, row.trail)
		}
	}
}

// Of a name's addresses those are dialed that the caller permits, on either side.
func TestDialPermitted(t *testing.T) {
	no := errors.New("not this one")
	only := func(good string) func(netip.AddrPort) error {
		return func(ap netip.AddrPort) error {
			if ap.String() == good {
				return nil
			}
			return no
		}
	}
	names := map[string]string{"www.example.com.": "192.0.2.7 192.0.2.8"}
	for _, row := range []struct {
		address, good string
		trail         string
		want          error
	}{
		{"www.example.com:443", "192.0.2.8:443", "host looks up ip www.example.com., host dials tcp [192.0.2.8] 443", syscall.ECONNREFUSED},
		{"www.example.com:443", "192.0.2.8:80", "host looks up ip www.example.com.", no},
		{"192.0.2.9:80", "192.0.2.8:80", "", no},
		{"files.corp:80", "", "", syscall.EACCES}, // a tape cannot ask
	} {
		s, notes := newSwitch(rules(t, "default", "corp"), names)
		_, err := s.DialPermitted(t.Context(), "tcp", row.address, only(row.good))
		if !errors.Is(err, row.want) {
			t.Errorf("%s: got error %v, want %v", row.address, err, row.want)
		}
		if got := strings.Join(*notes, ", "); got != row.trail {
			t.Errorf("%s:\n got %s\nwant %s", row.address, got, row.trail)
		}
	}
}

func TestLookupsAreSplitToo(t *testing.T) {
	s, notes := newSwitch(rules(t, "example.com", ""), map[string]string{"www.example.com.": "192.0.2.7"})
	if got, err := s.LookupNetIP(t.Context(), "ip4", "WWW.example.com"); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	s.LookupNetIP(t.Context(), "ip", "files.corp")
	if got, want := strings.Join(*notes, ", "), "host looks up ip4 www.example.com., vpn looks up ip files.corp"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestHostKeepsToTheRulesWhoeverCalls(t *testing.T) {
	s, notes := newSwitch(rules(t, "example.com", ""), nil)
	for _, host := range []string{"files.corp", "127.0.0.1", "files"} {
		if _, err := s.Direct.LookupNetIP(t.Context(), "ip", host); !errors.Is(err, syscall.EACCES) {
			t.Errorf("%s: got %v, want EACCES", host, err)
		}
	}
	if len(*notes) > 0 {
		t.Errorf("asked: %v", *notes)
	}
}

// Names of direct addresses are this machine's resolver's to tell, and of nothing else.
func TestNamesOfDirectAddresses(t *testing.T) {
	s, _ := newSwitch(rules(t, "default", "203.0.113.0/24"), nil)
	s.Direct.(*Host).LookupAddr = func(_ context.Context, addr string) ([]string, error) { return []string{"name of " + addr}, nil }
	zeros := strings.Repeat("0.", 23)
	for _, row := range []struct {
		name, want string
		err        error
	}{
		{"7.100.51.198.in-addr.arpa", "name of 198.51.100.7", nil},
		{"7.100.51.198.IN-ADDR.arpa.", "name of 198.51.100.7", nil},
		{"7." + zeros + "8.b.d.0.1.0.0.2.ip6.arpa", "name of 2001:db8::7", nil},
		{"7.113.0.203.in-addr.arpa", "", syscall.EACCES},
		{"1.0.200.10.in-addr.arpa", "", syscall.EACCES},
		{"100.51.198.in-addr.arpa", "", errors.ErrUnsupported}, // a network
		{"x.7.100.51.198.in-addr.arpa", "", errors.ErrUnsupported},
		{"8.b.d.0.1.0.0.2.ip6.arpa", "", errors.ErrUnsupported},
		{"www.example.com", "", errors.ErrUnsupported},
	} {
		got, err := s.LookupPTR(t.Context(), row.name)
		if strings.Join(got, " ") != row.want || !errors.Is(err, row.err) {
			t.Errorf("%s: got %q, %v; want %q, %v", row.name, got, err, row.want, row.err)
		}
	}
}
