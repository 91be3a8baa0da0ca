package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

// dual has an IPv4 address and the IPv6 addresses given, of which ~ marks those that
// are deprecated. What they are in is on the link.
func dual(addr4 string, addrs6 ...string) netcfg.Config {
	c := prefix(addr4)
	for _, a := range addrs6 {
		bare := strings.TrimPrefix(a, "~")
		addr := netip.MustParseAddr(bare)
		c.IPv6.Addresses = append(c.IPv6.Addresses, netcfg.Address6{Addr: addr, Deprecated: bare != a})
		if p, _ := addr.Prefix(64); !addr.IsLinkLocalUnicast() {
			c.IPv6.Routes = append(c.IPv6.Routes, netcfg.Route{Dest: p})
		}
	}
	return c
}

// localOf connects to address and returns where from.
func localOf(t *testing.T, s *Stack, address string) string {
	t.Helper()
	host, _, err := net.SplitHostPort(dial(t, s, "tcp", address).LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func TestBothFamiliesSideBySide(t *testing.T) {
	a, b := newStack(t, macA), newStack(t, macB)
	join(t, a, b)
	apply(t, a, dual("10.0.0.1/24", "fe80::1", "2001:db8::1"))
	apply(t, b, dual("10.0.0.2/24", "fe80::2", "2001:db8::2"))
	listen(t, b, "[::]:80")
	for target, want := range map[string]string{
		"10.0.0.2:80": "10.0.0.1", "[2001:db8::2]:80": "2001:db8::1", "[fe80::2]:80": "fe80::1",
	} {
		if got := localOf(t, a, target); got != want {
			t.Errorf("connected to %s from %s, want %s", target, got, want)
		}
	}
}

// An address of the link alone leads nowhere else, whatever the router.
func TestLinkLocalAddressesReachTheLinkOnly(t *testing.T) {
	a := newStack(t, macA)
	c := dual("10.0.0.1/24", "fe80::1")
	c.IPv6.Gateways = []netip.Addr{netip.MustParseAddr("fe80::2")}
	apply(t, a, c)
	if _, err := a.DialContext(t.Context(), "tcp", "[2001:db8::2]:80"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("got %v, want ENETUNREACH", err)
	}
}

// Renumbering: what is bound to the address that stays goes on, what is bound to the
// other ends; a deprecated address carries its connections and begins none.
func TestAddressesComeAndGo(t *testing.T) {
	a, b := newStack(t, macA), newStack(t, macB)
	join(t, a, b)
	const old, next = "2001:db8:1::1", "2001:db8:2::1"
	b6 := dual("10.0.0.2/24", "fe80::2", "2001:db8:1::2", "2001:db8:2::2", "2001:db8:9::2")
	apply(t, b, b6)
	l := listen(t, b, "[::]:80")
	to := func(c netcfg.Config) netcfg.Config {
		c.IPv6.Routes = b6.IPv6.Routes
		return c
	}
	connect := func() (client, server net.Conn) {
		client = dial(t, a, "tcp", "[2001:db8:9::2]:80")
		return client, accept(t, l)
	}
	from := func(c net.Conn) string { h, _, _ := net.SplitHostPort(c.LocalAddr().String()); return h }

	apply(t, a, to(dual("10.0.0.1/24", "fe80::1", old)))
	first, firstPeer := connect()
	v4 := dial(t, a, "tcp", "10.0.0.2:80")
	v4Peer := accept(t, l)
	apply(t, a, to(dual("10.0.0.1/24", "fe80::1", "~"+old, next)))
	second, secondPeer := connect()
	if got, want := []string{from(first), from(second)}, []string{old, next}; !slices.Equal(got, want) {
		t.Errorf("connected from %v, want %v", got, want)
	}
	alive(t, first, firstPeer)
	apply(t, a, to(dual("10.0.0.1/24", "fe80::1", next)))
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, ErrAddressChanged) {
		t.Errorf("connection from the address that went: got %v, want %v", err, ErrAddressChanged)
	}
	alive(t, second, secondPeer)
	alive(t, v4, v4Peer)
	apply(t, a, to(dual("10.0.0.9/24", "fe80::1", next)))
	alive(t, second, secondPeer)
	if _, err := v4.Read(make([]byte, 1)); !errors.Is(err, ErrAddressChanged) {
		t.Errorf("IPv4 connection from the address that went: got %v, want %v", err, ErrAddressChanged)
	}
	apply(t, a, netcfg.Config{})
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, ErrAddressChanged) {
		t.Errorf("with nothing left: got %v, want %v", err, ErrAddressChanged)
	}
	if _, err := a.DialContext(t.Context(), "tcp", "[2001:db8:9::2]:80"); !errors.Is(err, ErrNoAddress) {
		t.Errorf("dial with nothing left: got %v, want %v", err, ErrNoAddress)
	}
}

// A hub asks for the addresses that it knows, from one of its own that is none of the
// link's: whoever does not answer is forgotten.
func TestNeighborSolicitationsAreAnswered(t *testing.T) {
	s := newStack(t, macA)
	wire := capture(t, s)
	apply(t, s, dual("10.0.0.1/24", "fe80::1", "2001:db8::1"))
	for _, target := range []string{"2001:db8::1", "fe80::1"} {
		before := len(wire.Received(t.Context(), 0))
		if err := s.WriteFrames([][]byte{solicitation(macB, "fe80::b", target)}); err != nil {
			t.Fatal(err)
		}
		deadline, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		answered := func(frames [][]byte) bool {
			return slices.ContainsFunc(frames, func(f []byte) bool {
				return frame.EtherType(f) == frame.TypeIPv6 && f[14+40] == 136 && string(frame.Dst(f)) == string(macB) &&
					netip.AddrFrom16([16]byte(f[14+48:])) == netip.MustParseAddr(target)
			})
		}
		for n := before + 1; !answered(wire.Received(deadline, n)); n++ {
			if deadline.Err() != nil {
				t.Fatalf("%s is not answered for", target)
			}
		}
	}
}

// solicitation asks for target from an address of somebody else.
func solicitation(mac net.HardwareAddr, src, target string) []byte {
	from, to := netip.MustParseAddr(src).As16(), netip.MustParseAddr(target).As16()
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(group[13:], to[13:])
	icmp := make([]byte, 32)
	icmp[0] = 135
	copy(icmp[8:], to[:])
	copy(icmp[24:], append([]byte{1, 1}, mac...))
	sum := uint32(58 + len(icmp))
	for _, b := range [][]byte{from[:], group[:], icmp} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	icmp[2], icmp[3] = byte(^sum>>8), byte(^sum)
	f := make([]byte, 14+40, 14+40+32)
	frame.PutHeader(f, []byte{0x33, 0x33, group[12], group[13], group[14], group[15]}, mac, frame.TypeIPv6)
	ip := f[14:]
	ip[0], ip[5], ip[6], ip[7] = 0x60, 32, 58, 255
	copy(ip[8:], from[:])
	copy(ip[24:], group[:])
	return append(f, icmp...)
}

func TestAPacketTooBigLinkHasNoIPv6(t *testing.T) {
	s := newStack(t, macA)
	wire := capture(t, s)
	c := dual("10.0.0.1/24", "fe80::1", "2001:db8::1")
	c.MTU = 1200
	apply(t, s, c)
	for _, f := range received(t, wire, 1) {
		if frame.EtherType(f) == frame.TypeIPv6 {
			t.Errorf("sent %x", f)
		}
	}
}

// The order is what RFC 6724 and 8305 say; a row is what a name has, in the order of the
// answer, and what is tried.
func TestAddressesAreTriedInOrder(t *testing.T) {
	gateway := func(c netcfg.Config) netcfg.Config {
		c.Gateway = netip.MustParseAddr("10.0.0.254")
		c.IPv6.Gateways = []netip.Addr{netip.MustParseAddr("fe80::fe")}
		return c
	}
	both := gateway(dual("10.0.0.1/24", "fe80::1", "2001:db8::1"))
	ula := gateway(dual("10.0.0.1/24", "fe80::1", "fd00::1"))
	all := gateway(dual("10.0.0.1/24", "fe80::1", "fd00::1", "2001:db8::1"))
	near := dual("10.0.0.1/24", "fe80::1", "2001:db8::1") // no router of IPv6
	near.Gateway = both.Gateway
	old := gateway(dual("10.0.0.1/24", "fe80::1", "~2001:db8::1"))
	for _, row := range []struct {
		name       string
		cfg        netcfg.Config
		have, want string
	}{
		{"IPv6 first", both, "192.0.2.1 2001:db8:7::1", "2001:db8:7::1 192.0.2.1"},
		{"families in turn", both, "192.0.2.1 192.0.2.2 2001:db8:7::1 2001:db8:7::2 2001:db8:7::3",
			"2001:db8:7::1 192.0.2.1 2001:db8:7::2 192.0.2.2 2001:db8:7::3"},
		{"IPv4 keeps the order of the answer", both, "192.0.2.9 10.0.0.7 192.0.2.1", "192.0.2.9 10.0.0.7 192.0.2.1"},
		{"no route", near, "2001:db8:7::1 192.0.2.1", "192.0.2.1 2001:db8:7::1"},
		{"from a private network to the world by IPv4", ula, "2001:db8:7::1 192.0.2.1", "192.0.2.1 2001:db8:7::1"},
		{"within a private network too, as the table has it", ula, "fd00:7::1 192.0.2.1", "192.0.2.1 fd00:7::1"},
		{"a private network that we are not in comes last", both, "fd00:7::1 192.0.2.1 2001:db8:7::1",
			"2001:db8:7::1 192.0.2.1 fd00:7::1"},
		{"the longer prefix in common", all, "2001:db8:7::1 2001:db8::7", "2001:db8::7 2001:db8:7::1"},
		{"a deprecated source is worse", old, "2001:db8:7::1 192.0.2.1", "192.0.2.1 2001:db8:7::1"},
		{"6to4 after IPv4", both, "2002:c000:201::1 192.0.2.1 2001:db8:7::1", "2001:db8:7::1 192.0.2.1 2002:c000:201::1"},
	} {
		s := newStack(t, macA)
		apply(t, s, row.cfg)
		var have []netip.Addr
		for _, a := range strings.Fields(row.have) {
			have = append(have, netip.MustParseAddr(a))
		}
		if got := strings.Trim(fmt.Sprint(s.order(row.cfg, have)), "[]"); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
}

// A dead family costs the first connection a moment, and the next ones nothing.
func TestADeadFamilyIsNotWaitedForTwice(t *testing.T) {
	// On a busy machine the answer about IPv6 may come too late to count, or the second
	// connection late for another cause: then a world of its own tells again.
	var took [2]time.Duration
	for range 3 {
		if took = dialDeadFamily(t); took[0] >= attemptDelay && took[1] <= attemptDelay-50*time.Millisecond {
			return
		}
	}
	t.Errorf("took %v and %v, want at least %v and then clearly less", took[0], took[1], attemptDelay)
}

// dialDeadFamily connects twice to a name whose IPv6 address nobody has.
func dialDeadFamily(t *testing.T) (took [2]time.Duration) {
	t.Helper()
	a, b := newStack(t, macA), newStack(t, macB)
	join(t, a, b)
	c := dual("10.0.0.1/24", "fe80::1", "2001:db8::1")
	c.DNS = netcfg.DNS{Servers: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	apply(t, a, c)
	apply(t, b, prefix("10.0.0.2/24"))
	serveDNS(t, b, map[string]string{"both.example.": "10.0.0.2 2001:db8::dead"})
	listen(t, b, "0.0.0.0:80")
	for i := range took {
		begun := time.Now()
		if got, want := localOf(t, a, "both.example:80"), "10.0.0.1"; got != want {
			t.Errorf("connected from %s, want %s", got, want)
		}
		took[i] = time.Since(begun)
	}
	return took
}

// A router's name server is often at an address of the link alone.
func TestNameServersMayBeOnTheLink(t *testing.T) {
	a, b := newStack(t, macA), newStack(t, macB)
	join(t, a, b)
	c := netcfg.Config{IPv6: dual("10.0.0.1/24", "fe80::1", "2001:db8::1").IPv6}
	c.DNS = netcfg.DNS{Servers: []netip.Addr{netip.MustParseAddr("fe80::2")}}
	apply(t, a, c)
	apply(t, b, dual("10.0.0.2/24", "fe80::2", "2001:db8::2"))
	asked := serveDNS(t, b, map[string]string{"files.example.": "10.0.0.2 2001:db8::2"})
	listen(t, b, "[::]:80")
	if got, want := localOf(t, a, "files.example:80"), "2001:db8::1"; got != want {
		t.Errorf("connected from %s, want %s", got, want)
	}
	if got := asked(); len(got) != 1 || got[0] != "AAAA files.example." {
		t.Errorf("questions: got %q, want one for AAAA only: the stack has no IPv4 address", got)
	}
}

// Behind another server is another switch, which may pass on what it has been told of only.
func TestEachApplySaysWhereWeAre(t *testing.T) {
	s := newStack(t, macA)
	wire := capture(t, s)
	c := dual("10.0.0.1/24", "fe80::1", "2001:db8::1")
	apply(t, s, c)
	apply(t, s, c)
	await := func(what string, is func(f []byte) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for n := 1; ctx.Err() == nil; n++ {
			frames := wire.Received(ctx, n)
			n = len(frames)
			if said := len(slices.DeleteFunc(frames, func(f []byte) bool { return !is(f) })); said >= 2 {
				return
			}
		}
		t.Fatalf("%s was not sent each time", what)
	}
	await("an advertisement of the address", func(f []byte) bool {
		return len(f) > 80 && frame.EtherType(f) == frame.TypeIPv6 && f[14+40] == 136 && netip.AddrFrom16([16]byte(f[14+48:])) == netip.MustParseAddr("2001:db8::1")
	})
	await("a report of its group", func(f []byte) bool {
		const groups = 14 + 40 + 8 + 8
		return len(f) == groups+2*20 && f[14+6] == 0 && f[14+40+8] == 143 &&
			netip.AddrFrom16([16]byte(f[groups+20+4:])) == netip.MustParseAddr("ff02::1:ff00:1")
	})
}
