package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"softether-go/pkg/netcfg"
)

func TestDialErrors(t *testing.T) {
	a, _ := pair(t)
	for _, row := range []struct {
		name, network, address string
		want                   error
	}{
		{"nobody listens", "tcp", "10.0.0.2:81", syscall.ECONNREFUSED},
		{"nobody has the address", "tcp", "10.0.0.200:80", syscall.EHOSTUNREACH},
		{"no route", "tcp", "192.0.2.1:80", syscall.ENETUNREACH},
		{"no route, UDP", "udp", "192.0.2.1:80", syscall.ENETUNREACH},
		{"no address of that family", "tcp", "[2001:db8::1]:80", syscall.ENETUNREACH},
		{"loopback", "tcp", "127.0.0.1:80", errLoopback},
		{"loopback, UDP", "udp", "127.0.0.1:80", errLoopback},
		{"loopback, mapped", "tcp", "[::ffff:127.0.0.1]:80", errLoopback},
		{"loopback, IPv6", "tcp6", "[::1]:80", errLoopback},
		{"unspecified", "tcp", "0.0.0.0:80", errLoopback},
		{"unknown network", "ip", "10.0.0.2:80", net.UnknownNetworkError("ip")},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := a.DialContext(t.Context(), row.network, row.address)
			var op *net.OpError
			if !errors.Is(err, row.want) || !errors.As(err, &op) || op.Op != "dial" {
				t.Errorf("got %v, want %v in an OpError", err, row.want)
			}
		})
	}
	for _, address := range []string{"10.0.0.2", "10.0.0.2:http", "10.0.0.2:65536", "10.0.0.2:-1", ":80"} {
		if _, err := a.DialContext(t.Context(), "tcp", address); err == nil {
			t.Errorf("%q was dialled", address)
		}
	}
}

// An address that is not permitted is not dialed, and the reason is the error's.
func TestDialPermitted(t *testing.T) {
	a, b := pair(t)
	l, err := b.ListenTCP(netip.MustParseAddrPort("10.0.0.2:80"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	no := errors.New("not this one")
	for _, row := range []struct {
		name   string
		permit func(netip.AddrPort) error
		want   error
	}{
		{"no", func(netip.AddrPort) error { return no }, no},
		{"yes", func(netip.AddrPort) error { return nil }, nil},
		{"nobody asked", nil, nil},
	} {
		var asked []netip.AddrPort
		permit := row.permit
		if permit != nil {
			permit = func(ap netip.AddrPort) error {
				asked = append(asked, ap)
				return row.permit(ap)
			}
		}
		before := a.Stats().TCPConnects
		conn, err := a.DialPermitted(t.Context(), "tcp", "[::ffff:10.0.0.2]:80", permit)
		if !errors.Is(err, row.want) {
			t.Errorf("%s: got %v, want %v", row.name, err, row.want)
		}
		if err == nil {
			conn.Close()
		} else if a.Stats().TCPConnects != before {
			t.Errorf("%s: dialed all the same", row.name)
		}
		if permit != nil && (len(asked) != 1 || asked[0].String() != "10.0.0.2:80") {
			t.Errorf("%s: asked for %v", row.name, asked)
		}
	}
}

func TestDialWithoutAnAddress(t *testing.T) {
	s := newStack(t, macA)
	for _, network := range []string{"tcp", "udp"} {
		_, err := s.DialContext(t.Context(), network, "10.0.0.2:80")
		if !errors.Is(err, ErrNoAddress) || !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("%s: got %v, want ErrNoAddress", network, err)
		}
	}
	var dns *net.DNSError
	if _, err := s.LookupNetIP(t.Context(), "ip", "host.example"); !errors.As(err, &dns) || !errors.Is(err, ErrNoAddress) {
		t.Errorf("lookup: got %v, want a DNSError around ErrNoAddress", err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	s := newStack(t, macA)
	apply(t, s, prefix("10.0.0.1/24"))
	swallow(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := s.DialContext(ctx, "tcp", "10.0.0.2:80")
	var ne net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("deadline: got %v, want a timeout", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	if _, err := s.DialContext(ctx, "tcp", "10.0.0.2:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want context.Canceled", err)
	}
	if _, err := s.DialContext(ctx, "tcp", "10.0.0.2:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: got %v, want context.Canceled", err)
	}
	if n := len(s.ns.RegisteredEndpoints()); n != 0 {
		t.Errorf("endpoints left: got %d, want 0", n)
	}
}

func TestDialTriesTheNextAddressBesideASilentOne(t *testing.T) {
	a, b := pair(t)
	l := listen(t, b, "0.0.0.0:80")
	addrs := func(s ...string) (out []netip.Addr) {
		for _, x := range s {
			out = append(out, netip.MustParseAddr(x))
		}
		return out
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	})
	for _, row := range []struct {
		name  string
		addrs []netip.Addr
		want  error
	}{
		{"the first is silent", addrs("10.0.0.66", "10.0.0.2"), nil},
		{"the first has no route", addrs("192.0.2.1", "10.0.0.2"), nil},
		{"the last answers", addrs("192.0.2.1", "192.0.2.2", "10.0.0.67", "10.0.0.2"), nil},
		{"none answers: the first error counts", addrs("192.0.2.1", "10.0.0.68"), syscall.ENETUNREACH},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, err := a.race(t.Context(), row.addrs, 80)
			if !errors.Is(err, row.want) {
				t.Fatalf("got %v, want %v", err, row.want)
			}
			if row.want == nil {
				if got := c.RemoteAddr().String(); got != "10.0.0.2:80" {
					t.Errorf("connected to %s", got)
				}
				_ = c.Close()
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := a.race(ctx, addrs("10.0.0.66", "10.0.0.67"), 80); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("race past its deadline: got %v, want a timeout", err)
	}
	_ = l.Close()
	wg.Wait()
}

// serveDNS answers questions on b from names, which have addresses of either family
// with spaces between; unknown names with NXDOMAIN, over UDP only. It counts the
// questions.
func serveDNS(t *testing.T, b *Stack, names map[string]string) (asked func() []string) {
	t.Helper()
	pc, err := b.ListenPacket(netip.MustParseAddrPort("[::]:53"))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var seen []string
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buf[:n]); err != nil || len(m.Questions) != 1 {
				t.Errorf("malformed question: %v", err)
				continue
			}
			q := m.Questions[0]
			mu.Lock()
			seen = append(seen, q.Type.String()[4:]+" "+q.Name.String())
			mu.Unlock()
			m.Response = true
			list, known := names[q.Name.String()]
			if !known {
				m.RCode = dnsmessage.RCodeNameError
			}
			for _, text := range strings.Fields(list) {
				header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
				switch a := netip.MustParseAddr(text); {
				case a.Is4() && q.Type == dnsmessage.TypeA:
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
				case a.Is6() && q.Type == dnsmessage.TypeAAAA:
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
				}
			}
			out, _ := m.Pack()
			_, _ = pc.WriteTo(out, from)
		}
	})
	t.Cleanup(func() {
		_ = pc.Close()
		wg.Wait()
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), seen...)
	}
}

func TestNamesAreResolvedBehindTheTunnel(t *testing.T) {
	a, b := pair(t)
	c := prefix("10.0.0.1/24")
	c.DNS = netcfg.DNS{Servers: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, Search: []string{"corp.example"}}
	apply(t, a, c)
	asked := serveDNS(t, b, map[string]string{"files.corp.example.": "10.0.0.2"})
	l := listen(t, b, "0.0.0.0:80")
	client := dial(t, a, "tcp", "files:80")
	alive(t, client, accept(t, l))
	if got := asked(); len(got) != 1 || got[0] != "A files.corp.example." {
		t.Errorf("questions: got %q, want one for A only: the stack has no IPv6 address", got)
	}
	addrs, err := a.LookupNetIP(t.Context(), "ip4", "files.corp.example")
	if err != nil || len(addrs) != 1 || addrs[0].String() != "10.0.0.2" {
		t.Errorf("lookup: got %v, %v", addrs, err)
	}
	_, err = a.DialContext(t.Context(), "tcp", "nowhere.example:80")
	var dns *net.DNSError
	var op *net.OpError
	if !errors.As(err, &op) || !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("unknown name: got %v, want a DNSError in an OpError", err)
	}
}

// If any lookup reached the host, its resolver would be asked: net.DefaultResolver
// is made to fail the test when it is.
func TestTheHostResolverIsNeverAsked(t *testing.T) {
	old := net.DefaultResolver
	defer func() { net.DefaultResolver = old }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("the host's resolver was asked")
		return nil, errors.New("refused")
	}}
	a, _ := pair(t)
	for _, name := range []string{"www.example.com", "localhost", "host", "example.com."} {
		var dns *net.DNSError
		if _, err := a.DialContext(t.Context(), "tcp", net.JoinHostPort(name, "80")); !errors.As(err, &dns) {
			t.Errorf("dial %s without a server: got %v, want a DNSError", name, err)
		}
		if _, err := a.LookupNetIP(t.Context(), "ip", name); !errors.As(err, &dns) {
			t.Errorf("lookup %s without a server: got %v, want a DNSError", name, err)
		}
	}
}
