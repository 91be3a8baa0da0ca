package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// besides is a resolver beside the tunnel for names below direct.example.
type besides struct {
	names map[string]string // to addresses with spaces between, or an error's text

	mu    sync.Mutex // guards asked
	asked []string
}

func (b *besides) TakesName(name string) bool {
	return strings.HasSuffix(strings.ToLower(name), "direct.example")
}

func (b *besides) LookupNetIP(_ context.Context, network, name string) ([]netip.Addr, error) {
	b.mu.Lock()
	b.asked = append(b.asked, network+" "+name)
	b.mu.Unlock()
	var found []netip.Addr
	for _, text := range strings.Fields(b.names[strings.ToLower(name)]) {
		a, err := netip.ParseAddr(text)
		switch {
		case text == "refused":
			return nil, fmt.Errorf("by a rule")
		case text == "down":
			return nil, &net.DNSError{Err: "no server answered", IsTimeout: true}
		case err != nil:
			panic(err)
		}
		if network == "ip" || network == "ip4" && a.Is4() || network == "ip6" && a.Is6() {
			found = append(found, a)
		}
	}
	if len(found) == 0 {
		return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	return found, nil
}

func (b *besides) LookupPTR(_ context.Context, name string) ([]string, error) {
	switch name {
	case "1.2.0.192.direct.example":
		return []string{"www.direct.example.", "w3.direct.example."}, nil
	case "2.2.0.192.direct.example":
		return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	return nil, errors.ErrUnsupported
}

func TestNamesBesideTheTunnelAreNotAskedForInIt(t *testing.T) {
	n := &tunnel{answer: func(_, _ string, m dnsmessage.Message) []dnsmessage.Message { return one(txt(m, "of the tunnel")) }}
	many := make([]string, 100)
	for i := range many {
		many[i] = fmt.Sprintf("192.0.2.%d", i)
	}
	b := &besides{names: map[string]string{
		"www.direct.example": "192.0.2.1 192.0.2.2 2001:db8::1", "four.direct.example": "192.0.2.1",
		"evil.direct.example": "refused", "slow.direct.example": "down", "many.direct.example": strings.Join(many, " "),
	}}
	s := start(t, n, Config{Beside: b})
	for _, row := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		want string
	}{
		{"WWW.direct.example.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, "192.0.2.1 192.0.2.2"},
		{"www.direct.example.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, "2001:db8::1"},
		{"four.direct.example.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, ""},
		{"none.direct.example.", dnsmessage.TypeAAAA, dnsmessage.RCodeNameError, ""},
		{"evil.direct.example.", dnsmessage.TypeA, dnsmessage.RCodeRefused, ""},
		{"slow.direct.example.", dnsmessage.TypeA, dnsmessage.RCodeServerFailure, ""},
		{"1.2.0.192.direct.example.", dnsmessage.TypePTR, dnsmessage.RCodeSuccess, "www.direct.example."},
		{"2.2.0.192.direct.example.", dnsmessage.TypePTR, dnsmessage.RCodeNameError, ""},
		{"www.direct.example.", dnsmessage.TypePTR, dnsmessage.RCodeNotImplemented, ""},
		{"www.direct.example.", dnsmessage.TypeMX, dnsmessage.RCodeNotImplemented, ""},
		{"many.direct.example.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, strings.Join(many[:24], " ")},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m := resolve(t, s, network, query(7, row.name, row.kind))
			var got []string
			for _, a := range m.Answers {
				switch r := a.Body.(type) {
				case *dnsmessage.AResource:
					got = append(got, netip.AddrFrom4(r.A).String())
				case *dnsmessage.PTRResource:
					got = append(got, r.PTR.String())
				case *dnsmessage.AAAAResource:
					got = append(got, netip.AddrFrom16(r.AAAA).String())
				}
			}
			if m.ID != 7 || !m.Response || m.RCode != row.code || strings.Join(got, " ") != row.want || m.Questions[0].Name.String() != row.name {
				t.Errorf("%v %s over %s: got %v %q (%+v), want %v %q", row.kind, row.name, network, m.RCode, got, m.Header, row.code, row.want)
			}
		}
	}
	if got := n.questions(); len(got) > 0 {
		t.Errorf("asked in the tunnel: %q", got)
	}
	resolve(t, s, "udp", query(8, "files.corp.", dnsmessage.TypeA))
	if got := n.questions(); !slices.Equal(got, []string{"udp 10.0.0.1 A files.corp."}) {
		t.Errorf("asked in the tunnel: %q", got)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range b.asked {
		if strings.Contains(q, "corp") {
			t.Errorf("asked beside the tunnel: %q", q)
		}
	}
	if st := s.Stats(); st.Beside != 22 {
		t.Errorf("counters: %+v", st)
	}
}
