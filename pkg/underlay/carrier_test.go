package underlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A way of R-UDP is written as its network and address.
func (n *network) connectBy(ctx context.Context, network, address string) (net.Conn, error) {
	return n.connect(ctx, network, network+" "+address)
}

func TestRUDPComesAfterTCP(t *testing.T) {
	refused := errors.New("refused")
	const tcp6, tcp4, direct, dns = "tcp [2001:db8::1]:443", "tcp 192.0.2.1:443", "rudp 192.0.2.1:4500", "rudp-dns 192.0.2.1:53"
	all := []Carrier{{Network: "tcp"}, {Network: "rudp", Port: 4500}, {Network: "rudp-dns", Port: 53}}
	for _, row := range []struct {
		name     string
		carriers []Carrier
		network  string
		answers  map[string]answer
		want     string
		took     time.Duration
		tried    []string
	}{
		{"TCP answers", all, "tcp", map[string]answer{tcp6: {after: 200 * time.Millisecond}, direct: {}}, tcp6, 200 * time.Millisecond, []string{tcp6}},
		{"TCP is silent", all, "tcp", map[string]answer{direct: {}}, direct, headStart + otherStart, []string{tcp6, tcp4, direct}},
		{"TCP is refused", all, "tcp", map[string]answer{tcp6: {err: refused}, tcp4: {err: refused}, direct: {}}, direct, 0, []string{tcp6, tcp4, direct}},
		{"TCP is late, and first", all, "tcp", map[string]answer{tcp6: {after: 3 * time.Second}, direct: {after: 2 * time.Second}}, tcp6, 3 * time.Second, []string{tcp6, tcp4, direct}},
		{"all but the last are silent", all, "tcp", map[string]answer{dns: {}}, dns, headStart + 2*otherStart, []string{tcp6, tcp4, direct, dns}},
		{"only R-UDP", all[1:2], "tcp", map[string]answer{tcp6: {}, tcp4: {}, direct: {}}, direct, 0, []string{direct}},
		{"one more of the same", all, "rudp-dns", map[string]answer{tcp6: {}, "rudp-dns 192.0.2.1:443": {}}, "rudp-dns 192.0.2.1:443", 0, []string{"rudp-dns 192.0.2.1:443"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{answers: row.answers}
				d := &Dialer{lookup: both, connect: n.connectBy, Carriers: row.carriers}
				begun := time.Now()
				c, err := d.DialContext(t.Context(), row.network, "vpn.example.com:443")
				if err != nil {
					t.Fatal(err)
				}
				if took, to := time.Since(begun), c.(*conn).to; took != row.took || to != row.want {
					t.Errorf("connected to %s after %v, want %s after %v", to, took, row.want, row.took)
				}
				c.Close()
				if n.open != 0 || !slices.Equal(n.tried, row.tried) {
					t.Errorf("%d connections left open; tried %v, want %v", n.open, n.tried, row.tried)
				}
			})
		})
	}
}

func TestWhereRUDPCannotGo(t *testing.T) {
	rudp := []Carrier{{Network: "rudp", Port: 4500}}
	six := func(context.Context, string, string) ([]netip.Addr, error) { return []netip.Addr{v6}, nil }
	d := &Dialer{lookup: six, Carriers: rudp}
	if _, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443"); err == nil || err.Error() != "vpn.example.com has no IPv4 address, and servers take R-UDP over IPv4 alone" {
		t.Errorf("to a server of IPv6: %v", err)
	}
	d = &Dialer{lookup: both, Carriers: rudp, Via: func(string, uint16) *Proxy { return &Proxy{Scheme: "http", Host: "192.0.2.9"} }}
	if _, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443"); !errors.Is(err, errProxied) {
		t.Errorf("through a proxy: %v", err)
	}
	n := &network{answers: map[string]answer{"tcp 192.0.2.9:3128": {err: errors.New("refused")}}}
	d.Carriers, d.connect, d.Via = append(rudp, Carrier{Network: "tcp"}), n.connectBy, func(string, uint16) *Proxy { return &Proxy{Scheme: "http", Host: "192.0.2.9", Port: 3128} }
	if _, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443"); err == nil || !slices.Equal(n.tried, []string{"tcp 192.0.2.9:3128"}) {
		t.Errorf("through a proxy by TCP: %v, tried %v", err, n.tried)
	}
}

func TestRUDPLeavesByTheSocketItWasGiven(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := &Dialer{Carriers: []Carrier{{Network: "rudp", Port: uint16(l.LocalAddr().(*net.UDPAddr).Port)}}, Bind: Bind{Address: netip.MustParseAddr("127.0.0.7")}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := d.DialContext(ctx, "tcp", "127.0.0.1:443")
		ended <- err
	}()
	n, from, err := l.ReadFrom(make([]byte, 100))
	if err != nil || n != 39 || from.(*net.UDPAddr).IP.String() != "127.0.0.7" {
		t.Errorf("an opening of %d bytes from %v, %v; want 39 bytes from the address that was bound", n, from, err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, it ends with %v", err)
	}
}
