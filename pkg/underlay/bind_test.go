package underlay

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestBoundToAnAddress(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	own := netip.MustParseAddr("127.0.0.1")
	d := &Dialer{Bind: Bind{Address: own}, lookup: func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.IPv6Loopback(), own}, nil
	}}
	c, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != own {
		t.Errorf("connected from %v, want %v", got, own)
	}
	if _, err := d.DialContext(t.Context(), "tcp", "[::1]:"+port); err == nil || !strings.Contains(err.Error(), "::1 has no IPv4 address") {
		t.Errorf("a server of the other family: %v", err)
	}
	d.Bind.Address = netip.MustParseAddr("192.0.2.77") // nobody's (RFC 5737)
	if _, err := d.DialContext(t.Context(), "tcp", l.Addr().String()); err == nil || !strings.Contains(err.Error(), "192.0.2.77") {
		t.Errorf("an address that is not ours: %v", err)
	}
}

func TestDialsOfTheirOwnLeaveByTheSameWay(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	own, near := netip.MustParseAddr("127.0.0.7"), netip.MustParseAddr("127.0.0.1")
	b := Bind{Address: own}
	for _, network := range []string{"tcp", "tcp4", "udp", "udp4"} {
		c, err := b.Dial(t.Context(), network, []netip.Addr{netip.IPv6Loopback(), near}, port)
		if err != nil {
			t.Errorf("%s: %v", network, err)
			continue
		}
		if got, _, _ := net.SplitHostPort(c.LocalAddr().String()); got != own.String() {
			t.Errorf("%s: from %s, want %v", network, got, own)
		}
		c.Close()
	}
	p, err := b.ListenPacket(t.Context(), "udp4")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got, _, _ := net.SplitHostPort(p.LocalAddr().String()); got != own.String() {
		t.Errorf("datagrams from %s, want %v", got, own)
	}
	if _, err := b.ListenPacket(t.Context(), "udp6"); err == nil {
		t.Error("datagrams of IPv6 from an IPv4 address")
	}
	if _, err := b.Dial(t.Context(), "tcp", []netip.Addr{netip.IPv6Loopback()}, port); err == nil {
		t.Error("connected to IPv6 from an IPv4 address")
	}
}
