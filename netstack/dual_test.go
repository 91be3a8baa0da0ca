package netstack

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"softether-go/pkg/netcfg"
)

// A listener of no address, which is IPv6's, takes clients of both families, and says who
// they are as they say it themselves.
func TestListenersOfNoAddressTakeBothFamilies(t *testing.T) {
	a, b := pair(t)
	both := func(n byte) netcfg.Config {
		c := prefix6(fmt.Sprintf("fd00::%d/64", n))
		c.Address = netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", n))
		return c
	}
	apply(t, a, both(1))
	apply(t, b, both(2))
	l := listen(t, b, "[::]:80")
	pc, err := b.ListenPacket(netip.MustParseAddrPort("[::]:53"))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	for _, row := range []struct{ to, from string }{{"10.0.0.2", "10.0.0.1"}, {"fd00::2", "fd00::1"}} {
		c := dial(t, a, "tcp", net.JoinHostPort(row.to, "80"))
		s := accept(t, l)
		if got := s.RemoteAddr().(*net.TCPAddr).AddrPort(); got.Addr() != netip.MustParseAddr(row.from) || got.String() != c.LocalAddr().String() {
			t.Errorf("TCP to %s: the client is %v, want %v", row.to, got, c.LocalAddr())
		}
		if got := s.LocalAddr().String(); got != c.RemoteAddr().String() {
			t.Errorf("TCP to %s: we are %v, want %v", row.to, got, c.RemoteAddr())
		}
		_, _ = io.WriteString(s, "x")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}

		u := dial(t, a, "udp", net.JoinHostPort(row.to, "53"))
		_, _ = u.Write([]byte("x"))
		_ = pc.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, from, err := pc.ReadFrom(make([]byte, 10))
		if err != nil || from.String() != u.LocalAddr().String() {
			t.Fatalf("UDP to %s: the client is %v, %v, want %v", row.to, from, err, u.LocalAddr())
		}
		if _, err := pc.WriteTo([]byte("y"), from); err != nil {
			t.Fatal(err)
		}
		_ = u.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := u.Read(make([]byte, 10)); err != nil {
			t.Error(err)
		}
	}
}

// A socket of all addresses tells which of ours a datagram was sent to, and answers from
// there, also after that address has gone.
func TestDatagramsAreAnsweredFromWhereTheyWent(t *testing.T) {
	a, b := pair(t)
	both := func(n byte) netcfg.Config {
		c := prefix6(fmt.Sprintf("fd00::%d/64", n))
		c.Address = netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", n))
		return c
	}
	apply(t, a, both(1))
	two, other := both(2), prefix6("fd00::22/64")
	two.IPv6.Addresses = append(two.IPv6.Addresses, other.IPv6.Addresses...)
	apply(t, b, two)
	l, err := b.ListenPacket(netip.MustParseAddrPort("[::]:53"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pc := l.(*packetConn)
	_ = pc.SetReadDeadline(time.Now().Add(20 * time.Second))
	for _, at := range []string{"10.0.0.2", "fd00::2", "fd00::22"} {
		u := dial(t, a, "udp", net.JoinHostPort(at, "53"))
		_ = u.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, _ = u.Write([]byte("x"))
		_, from, to, err := pc.ReadFromTo(make([]byte, 10))
		if err != nil || to != netip.AddrPortFrom(netip.MustParseAddr(at), 53) || from.String() != u.LocalAddr().String() {
			t.Fatalf("at %s: from %v to %v, %v", at, from, to, err)
		}
		if _, err := pc.WriteFromTo([]byte("y"), to.Addr(), from); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Read(make([]byte, 10)); err != nil { // of nobody else does it hear
			t.Errorf("at %s: %v", at, err)
		}
		if _, err := pc.WriteFromTo([]byte("y"), netip.MustParseAddr("fd00::99"), from); err != nil {
			t.Errorf("from an address that is not ours: %v", err)
		}
	}
}
