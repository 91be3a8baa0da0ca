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
