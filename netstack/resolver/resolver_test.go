package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

func lookup(t *testing.T, r *Resolver, network, host string) (string, *net.DNSError) {
	t.Helper()
	addrs, err := r.LookupNetIP(t.Context(), network, host)
	var text []string
	for _, x := range addrs {
		text = append(text, x.String())
	}
	slices.Sort(text) // the families arrive in any order
	var dns *net.DNSError
	if err != nil && !errors.As(err, &dns) {
		t.Fatalf("%s: got %T %v, want a *net.DNSError", host, err, err)
	}
	return strings.Join(text, " "), dns
}

func TestLookup(t *testing.T) {
	z := zone(
		a("one.example.", 60, "192.0.2.1"), aaaa("one.example.", 60, "2001:db8::1"),
		a("two.example.", 60, "192.0.2.1"), a("two.example.", 60, "192.0.2.2"), a("two.example.", 60, "192.0.2.1"),
		cname("alias.example.", 60, "middle.example."), cname("middle.example.", 60, "one.example."), a("one.example.", 60, "192.0.2.1"),
		cname("nowhere.example.", 60, "missing.example."),
		aaaa("six.example.", 60, "2001:db8::6"),
		a("bare.", 60, "192.0.2.9"),
	)
	for _, row := range []struct {
		name, network, host string
		want                string
		wantErr             error
	}{
		{"both families", "ip", "one.example", "192.0.2.1 2001:db8::1", nil},
		{"one family", "ip4", "one.example", "192.0.2.1", nil},
		{"the other", "ip6", "one.example", "2001:db8::1", nil},
		{"case does not matter", "ip4", "ONE.Example", "192.0.2.1", nil},
		{"a final dot", "ip4", "one.example.", "192.0.2.1", nil},
		{"several addresses, none twice", "ip4", "two.example", "192.0.2.1 192.0.2.2", nil},
		{"aliases are followed", "ip4", "alias.example", "192.0.2.1", nil},
		{"an alias to nothing", "ip4", "nowhere.example", "", errNoRecord},
		{"only one family exists", "ip", "six.example", "2001:db8::6", nil},
		{"no address of the family", "ip4", "six.example", "", errNoRecord},
		{"no such name", "ip", "missing.example", "", errNoName},
		{"no dot and no search domain", "ip4", "bare", "192.0.2.9", nil},
		{"an IPv4 address", "ip", "192.0.2.77", "192.0.2.77", nil},
		{"a mapped address", "ip4", "::ffff:192.0.2.77", "192.0.2.77", nil},
		{"an IPv6 address", "ip6", "2001:db8::77", "2001:db8::77", nil},
		{"an address of the other family", "ip6", "192.0.2.77", "", errNoRecord},
		{"localhost", "ip", "localhost", "", errLocalhost},
		{"below localhost", "ip", "a.LocalHost.", "", errLocalhost},
		{"empty", "ip", "", "", errBadName},
		{"a dot", "ip", ".", "", errBadName},
		{"an empty label", "ip", "a..example", "", errBadName},
		{"a long label", "ip", strings.Repeat("a", 64) + ".example", "", errBadName},
		{"a long name", "ip", strings.Repeat("abcdefg.", 32) + "example", "", errBadName},
		{"a space", "ip", "a b.example", "", errBadName},
		{"another script", "ip", "bücher.example", "", errBadName},
		{"unknown network", "tcp", "one.example", "", net.UnknownNetworkError("tcp")},
	} {
		t.Run(row.name, func(t *testing.T) {
			run(t, z, func(t *testing.T, w *world, r *Resolver) {
				got, err := lookup(t, r, row.network, row.host)
				if got != row.want {
					t.Errorf("got %q, want %q", got, row.want)
				}
				if (err == nil) != (row.wantErr == nil) || err != nil && !errors.Is(err, row.wantErr) {
					t.Fatalf("got %v, want %v", err, row.wantErr)
				}
				if unknown := row.network == "tcp"; err != nil && err.IsNotFound == unknown {
					t.Errorf("IsNotFound: got %t, want %t", err.IsNotFound, !unknown)
				}
			})
		})
	}
}

func TestSearchDomains(t *testing.T) {
	z := zone(a("files.corp.example.", 60, "192.0.2.1"), a("files.", 60, "192.0.2.2"), a("x.y.second.example.", 60, "192.0.2.3"), a("bare.", 60, "192.0.2.4"), aaaa("six.corp.example.", 60, "2001:db8::6"))
	for _, row := range []struct {
		host, want string
		asked      []string
	}{
		{"files", "192.0.2.1", []string{"files.corp.example."}},
		{"files.", "192.0.2.2", []string{"files."}},
		{"x.y", "192.0.2.3", []string{"x.y.", "x.y.corp.example.", "x.y.second.example."}},
		{"bare", "192.0.2.4", []string{"bare.corp.example.", "bare.second.example.", "bare."}},
		{"none", "", []string{"none.corp.example.", "none.second.example.", "none."}},
		{"six", "", []string{"six.corp.example.", "six.second.example.", "six."}},
	} {
		t.Run(row.host, func(t *testing.T) {
			run(t, z, func(t *testing.T, w *world, r *Resolver) {
				r.SetServers([]netip.Addr{netip.MustParseAddr("10.0.0.1")}, []string{"corp.example.", "", "not valid", "Second.Example"})
				got, err := lookup(t, r, "ip4", row.host)
				if got != row.want || (row.want == "" && (err == nil || !err.IsNotFound)) {
					t.Errorf("got %q, %v; want %q", got, err, row.want)
				}
				if row.host == "six" && !errors.Is(err, errNoRecord) {
					t.Errorf("got %v; that the name exists says more", err)
				}
				var asked []string
				for _, q := range w.questions() {
					asked = append(asked, q[strings.LastIndexByte(q, ' ')+1:])
				}
				if diff := cmp.Diff(row.asked, asked); diff != "" {
					t.Errorf("questions (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestNoServer(t *testing.T) {
	run(t, zone(), func(t *testing.T, _ *world, r *Resolver) {
		r.SetServers([]netip.Addr{{}, netip.IPv4Unspecified()}, nil)
		_, err := lookup(t, r, "ip", "one.example")
		if err == nil || !strings.Contains(err.Error(), "set -dns") || err.IsNotFound {
			t.Errorf("got %v, want advice", err)
		}
	})
}

func TestFailover(t *testing.T) {
	good := zone(a("one.example.", 60, "192.0.2.1"))
	first := func(f func(*peer, dnsmessage.Message)) func(*world, *peer, dnsmessage.Message) {
		return func(w *world, p *peer, m dnsmessage.Message) {
			if p.server == "10.0.0.1" {
				f(p, m)
				return
			}
			good(w, p, m)
		}
	}
	for _, row := range []struct {
		name  string
		first func(*peer, dnsmessage.Message)
		took  time.Duration
	}{
		{"the first is silent", func(*peer, dnsmessage.Message) {}, stagger},
		{"the first fails", func(p *peer, m dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure; p.reply(m) }, 0},
		{"the first refuses", func(p *peer, m dnsmessage.Message) { m.RCode = dnsmessage.RCodeRefused; p.reply(m) }, 0},
		{"the first hangs up", func(p *peer, _ dnsmessage.Message) { _ = p.Close() }, 0},
		{"the first answers late", func(p *peer, m dnsmessage.Message) {
			time.Sleep(stagger / 2)
			m.Answers = []dnsmessage.Resource{a("one.example.", 60, "192.0.2.1")}
			p.reply(m)
		}, stagger / 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			run(t, first(row.first), func(t *testing.T, w *world, r *Resolver) {
				start := time.Now()
				if got, err := lookup(t, r, "ip4", "one.example"); got != "192.0.2.1" {
					t.Errorf("got %q, %v", got, err)
				}
				if took := time.Since(start); took != row.took {
					t.Errorf("took %v, want %v", took, row.took)
				}
			})
		})
	}
}

func TestDeniedByOneServerIsDenied(t *testing.T) {
	run(t, zone(), func(t *testing.T, w *world, r *Resolver) {
		if _, err := lookup(t, r, "ip4", "one.example"); err == nil || !err.IsNotFound {
			t.Errorf("got %v, want not found", err)
		}
		if got := w.questions(); len(got) != 1 {
			t.Errorf("questions: got %q, want one", got)
		}
	})
}

// Whatever a server does, a lookup ends in bounded time with one error.
func TestHostileServers(t *testing.T) {
	reply := func(change func(*dnsmessage.Message)) func(*world, *peer, dnsmessage.Message) {
		return func(_ *world, p *peer, m dnsmessage.Message) {
			m.Answers = []dnsmessage.Resource{a("one.example.", 60, "192.0.2.66")}
			change(&m)
			p.reply(m)
		}
	}
	truncated := func(tcp func(*peer, dnsmessage.Message)) func(*world, *peer, dnsmessage.Message) {
		return func(_ *world, p *peer, m dnsmessage.Message) {
			if p.network == "tcp" {
				tcp(p, m)
				return
			}
			m.Truncated = true
			p.reply(m)
		}
	}
	loop := []dnsmessage.Resource{cname("one.example.", 60, "b.example."), cname("b.example.", 60, "one.example.")}
	for _, row := range []struct {
		name    string
		answer  func(*world, *peer, dnsmessage.Message)
		timeout bool
	}{
		{"silence", func(*world, *peer, dnsmessage.Message) {}, true},
		{"another id", reply(func(m *dnsmessage.Message) { m.ID++ }), true},
		{"another question", reply(func(m *dnsmessage.Message) { m.Questions[0].Name = name("two.example.") }), true},
		{"another type", reply(func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeMX }), true},
		{"no question", reply(func(m *dnsmessage.Message) { m.Questions = nil }), true},
		{"aliases in a circle", reply(func(m *dnsmessage.Message) { m.Answers = loop }), true},
		{"noise", func(_ *world, p *peer, _ dnsmessage.Message) { p.raw(make([]byte, 3)) }, true},
		{"noise without end", func(_ *world, p *peer, _ dnsmessage.Message) {
			for {
				if _, err := p.Write([]byte("noise")); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, true},
		{"the question itself", func(_ *world, p *peer, m dnsmessage.Message) { b, _ := m.Pack(); p.raw(b) }, true},
		{"cut over TCP too", truncated(func(p *peer, m dnsmessage.Message) { m.Truncated = true; p.reply(m) }), false},
		{"TCP that hangs up", truncated(func(p *peer, _ dnsmessage.Message) { _ = p.Close() }), false},
		{"TCP that sends nothing", truncated(func(*peer, dnsmessage.Message) {}), true},
		{"TCP that trickles", truncated(func(p *peer, _ dnsmessage.Message) {
			for _, b := range append([]byte{0xff, 0xff}, make([]byte, 65535)...) {
				if _, err := p.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}), true},
		{"TCP message of length 0", truncated(func(p *peer, _ dnsmessage.Message) { p.raw(nil) }), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			run(t, row.answer, func(t *testing.T, w *world, r *Resolver) {
				start := time.Now()
				got, err := lookup(t, r, "ip", "one.example")
				if err == nil {
					t.Fatalf("got %q, want an error", got)
				}
				if err.IsTimeout != row.timeout || err.IsNotFound || !err.IsTemporary {
					t.Errorf("got %v (timeout %t, not found %t), want timeout %t", err, err.IsTimeout, err.IsNotFound, row.timeout)
				}
				if took := time.Since(start); took > lookupTimeout {
					t.Errorf("took %v, want at most %v", took, lookupTimeout)
				}
			})
		})
	}
}

func TestAForgedAnswerDoesNotStopTheTrueOne(t *testing.T) {
	run(t, func(_ *world, p *peer, m dnsmessage.Message) {
		forged := m
		forged.ID ^= 1
		forged.Answers = []dnsmessage.Resource{a("one.example.", 60, "192.0.2.66")}
		p.reply(forged)
		p.raw([]byte("noise"))
		m.Answers = []dnsmessage.Resource{a("other.example.", 60, "192.0.2.66"), a("one.example.", 60, "192.0.2.1")}
		p.reply(m)
	}, func(t *testing.T, w *world, r *Resolver) {
		if got, err := lookup(t, r, "ip4", "one.example"); got != "192.0.2.1" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestTruncatedAnswersAreFetchedOverTCP(t *testing.T) {
	run(t, func(_ *world, p *peer, m dnsmessage.Message) {
		if m.Truncated = p.network == "udp"; !m.Truncated {
			for i := range 300 {
				m.Answers = append(m.Answers, a("one.example.", 60, fmt.Sprintf("192.0.2.%d", i%200)))
			}
		}
		p.reply(m)
	}, func(t *testing.T, w *world, r *Resolver) {
		addrs, err := r.LookupNetIP(t.Context(), "ip4", "one.example")
		if err != nil || len(addrs) != maxAddrs {
			t.Errorf("got %d addresses, %v; want %d", len(addrs), err, maxAddrs)
		}
		if diff := cmp.Diff([]string{"udp 10.0.0.1 A one.example.", "tcp 10.0.0.1 A one.example."}, w.questions()); diff != "" {
			t.Errorf("questions (-want +got):\n%s", diff)
		}
	})
}

func TestOneFamilyDoesNotWaitLongForTheOther(t *testing.T) {
	good := zone(a("one.example.", 60, "192.0.2.1"))
	run(t, func(w *world, p *peer, m dnsmessage.Message) {
		if m.Questions[0].Type == dnsmessage.TypeA {
			good(w, p, m)
		}
	}, func(t *testing.T, w *world, r *Resolver) {
		start := time.Now()
		got, err := lookup(t, r, "ip", "one.example")
		if got != "192.0.2.1" || err != nil || time.Since(start) != familyDelay {
			t.Errorf("got %q, %v after %v; want the address after %v", got, err, time.Since(start), familyDelay)
		}
	})
}

func TestLookupEndsWithItsContext(t *testing.T) {
	run(t, func(*world, *peer, dnsmessage.Message) {}, func(t *testing.T, w *world, r *Resolver) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := r.LookupNetIP(ctx, "ip", "one.example")
		var dns *net.DNSError
		if !errors.As(err, &dns) || !dns.IsTimeout || time.Since(start) != 100*time.Millisecond {
			t.Errorf("deadline: got %v after %v", err, time.Since(start))
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if _, err := r.LookupNetIP(ctx, "ip", "one.example"); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: got %v", err)
		}
	})
}

func TestCache(t *testing.T) {
	z := zone(a("short.example.", 0, "192.0.2.1"), a("long.example.", 1<<31, "192.0.2.2"), cname("alias.example.", 30, "target.example."), a("target.example.", 600, "192.0.2.3"))
	for _, row := range []struct {
		host string
		ttl  time.Duration
	}{
		{"short.example", minTTL},
		{"long.example", maxTTL},
		{"alias.example", 30 * time.Second},
		{"missing.example", time.Minute}, // the SOA's minimum
	} {
		t.Run(row.host, func(t *testing.T) {
			run(t, z, func(t *testing.T, w *world, r *Resolver) {
				asks := func(want int) {
					t.Helper()
					_, _ = lookup(t, r, "ip4", row.host)
					if got := w.questions(); len(got) != want {
						t.Errorf("questions: got %q, want %d", got, want)
					}
				}
				asks(1)
				time.Sleep(row.ttl - time.Millisecond)
				asks(0)
				time.Sleep(time.Millisecond)
				asks(1)
				r.SetServers([]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, nil)
				asks(0) // the same servers
				r.SetServers([]netip.Addr{netip.MustParseAddr("10.0.0.2")}, nil)
				asks(1)
			})
		})
	}
}

func TestFailuresAreNotCached(t *testing.T) {
	run(t, func(_ *world, p *peer, m dnsmessage.Message) {
		m.RCode = dnsmessage.RCodeServerFailure
		p.reply(m)
	}, func(t *testing.T, w *world, r *Resolver) {
		for range 2 {
			if _, err := lookup(t, r, "ip4", "one.example"); err == nil || err.IsNotFound || !err.IsTemporary {
				t.Errorf("got %v, want a temporary failure", err)
			}
			if got := w.questions(); len(got) != rounds*2 {
				t.Errorf("questions: got %q, want both servers twice", got)
			}
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	var c cache
	for i := range 3 * maxEntries {
		c.put(cacheKey{name: fmt.Sprint(i)}, answer{ttl: time.Hour})
	}
	if len(c.entries) > maxEntries {
		t.Errorf("entries: got %d, want at most %d", len(c.entries), maxEntries)
	}
	if _, ok := c.get(cacheKey{name: fmt.Sprint(3*maxEntries - 1)}); !ok {
		t.Error("the newest entry is not there")
	}
	c.put(cacheKey{name: "never"}, answer{})
	if _, ok := c.get(cacheKey{name: "never"}); ok {
		t.Error("an answer without a time to live was kept")
	}
}
