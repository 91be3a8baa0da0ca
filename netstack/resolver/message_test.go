package resolver

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func packed(t testing.TB, m dnsmessage.Message) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var askOne = question(dnsmessage.MustNewName("one.example."), dnsmessage.TypeA)

func response(m dnsmessage.Message) dnsmessage.Message {
	m.ID, m.Response = 7, true
	m.Questions = []dnsmessage.Question{askOne}
	return m
}

func TestEveryShortMessageIsRefused(t *testing.T) {
	full := packed(t, response(dnsmessage.Message{Answers: []dnsmessage.Resource{
		cname("one.example.", 60, "b.example."), a("b.example.", 60, "192.0.2.1"),
	}}))
	if got, err := parseAnswer(full, 7, askOne); err != nil || len(got.addrs) != 1 {
		t.Fatalf("whole message: got %v, %v", got, err)
	}
	for n := range full {
		if got, err := parseAnswer(full[:n], 7, askOne); err == nil {
			t.Errorf("first %d of %d bytes: got %v, want an error", n, len(full), got)
		}
	}
}

func TestNegativeTTL(t *testing.T) {
	for _, row := range []struct {
		name        string
		authorities []dnsmessage.Resource
		want        time.Duration
	}{
		{"no SOA", nil, 0},
		{"the SOA's minimum", []dnsmessage.Resource{soa(300, 60)}, time.Minute},
		{"the record's own time, if shorter", []dnsmessage.Resource{soa(30, 60)}, 30 * time.Second},
		{"not longer than the bound", []dnsmessage.Resource{soa(1<<30, 1<<30)}, maxNegativeTTL},
		{"not shorter than the bound", []dnsmessage.Resource{soa(0, 0)}, minTTL},
		{"behind another record", []dnsmessage.Resource{a("x.example.", 1, "192.0.2.1"), soa(300, 60)}, time.Minute},
	} {
		for rcode, want := range map[dnsmessage.RCode]error{dnsmessage.RCodeNameError: errNoName, dnsmessage.RCodeSuccess: errNoRecord} {
			m := response(dnsmessage.Message{Authorities: row.authorities})
			m.RCode = rcode
			got, err := parseAnswer(packed(t, m), 7, askOne)
			if err != nil || !errors.Is(got.err, want) || got.ttl != row.want {
				t.Errorf("%s, %v: got %v for %v, %v; want %v for %v", row.name, rcode, got.err, got.ttl, err, want, row.want)
			}
		}
	}
}

func TestChainsHaveAnEnd(t *testing.T) {
	chain := func(n int) []dnsmessage.Resource {
		out := []dnsmessage.Resource{cname("one.example.", 60, "a0.example.")}
		for i := range n - 1 {
			out = append(out, cname(string(rune('a'+i))+"0.example.", 60, string(rune('b'+i))+"0.example."))
		}
		return append(out, a(string(rune('a'+n-1))+"0.example.", 60, "192.0.2.1"))
	}
	if got, err := parseAnswer(packed(t, response(dnsmessage.Message{Answers: chain(maxChain - 1)})), 7, askOne); err != nil || len(got.addrs) != 1 {
		t.Errorf("%d aliases: got %v, %v", maxChain-1, got, err)
	}
	if got, err := parseAnswer(packed(t, response(dnsmessage.Message{Answers: chain(maxChain)})), 7, askOne); !errors.Is(err, errMalformed) {
		t.Errorf("%d aliases: got %v, %v; want %v", maxChain, got, err, errMalformed)
	}
}

// FuzzAnswer feeds the parser of what servers send.
func FuzzAnswer(f *testing.F) {
	f.Add(packed(f, response(dnsmessage.Message{Answers: []dnsmessage.Resource{a("one.example.", 60, "192.0.2.1")}})))
	f.Add(packed(f, response(dnsmessage.Message{Answers: []dnsmessage.Resource{cname("one.example.", 60, "b.example."), a("b.example.", 60, "192.0.2.1")}})))
	f.Add(packed(f, response(dnsmessage.Message{Answers: []dnsmessage.Resource{cname("one.example.", 60, "b.example."), cname("b.example.", 60, "one.example.")}})))
	f.Add(packed(f, response(dnsmessage.Message{Authorities: []dnsmessage.Resource{soa(300, 60)}})))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, err := parseAnswer(msg, 7, askOne)
		if err != nil {
			if len(got.addrs) != 0 || got.err != nil {
				t.Errorf("an answer beside an error: %v, %v", got, err)
			}
			return
		}
		if (len(got.addrs) == 0) == (got.err == nil) {
			t.Errorf("neither or both of addresses and denial: %v", got)
		}
		if len(got.addrs) > maxAddrs {
			t.Errorf("%d addresses", len(got.addrs))
		}
		if got.ttl != 0 && (got.ttl < minTTL || got.ttl > maxTTL) {
			t.Errorf("time to live %v", got.ttl)
		}
		for _, x := range got.addrs {
			if !x.Is4() {
				t.Errorf("address %v for a question about A", x)
			}
		}
	})
}
