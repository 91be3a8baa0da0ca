package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
)

// besides is a network beside the tunnel with a socket for each family, and notes how
// often it was asked for one.
type besides struct {
	mu      sync.Mutex // guards opened
	opened  []string
	sockets map[string]*memSocket
	fail    error
}

func (b *besides) ListenPacket(_ context.Context, network, address string) (net.PacketConn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened = append(b.opened, network+" "+address)
	if b.fail != nil {
		return nil, b.fail
	}
	return b.sockets[network], nil
}

// takes has names below beside.example, and the documentation's second network.
func (b *besides) takes(host string, addr netip.Addr) bool {
	if host != "" {
		return host == "www.beside.example"
	}
	return netip.MustParsePrefix("198.51.100.0/24").Contains(addr) || addr == netip.MustParseAddr("2001:db8::1")
}

func newBesides() *besides {
	return &besides{sockets: map[string]*memSocket{"udp4": newMemSocket("203.0.113.5:41000"), "udp6": newMemSocket("[2001:db8:5::5]:42000")}}
}

// What a rule sends beside the tunnel leaves by a socket there and no other, and answers
// of both networks come to the client.
func TestAssociateBesideTheTunnel(t *testing.T) {
	const besideHost = "\x00\x00\x00\x01\xc6\x33\x64\x07\x00\x35" // 198.51.100.7
	b := newBesides()
	a := newAssociated(t, Config{
		Beside: &Beside{Takes: b.takes, Listener: b},
		Resolver: resolveFunc(func(_ context.Context, _, host string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil // as of a host in the tunnel
		}),
	}, associate)
	four, six := b.sockets["udp4"], b.sockets["udp6"]
	a.send(a.sock, to4+"inside")
	if got, want := a.far.await(0), (packet{mustAddrPort("192.0.2.1:53"), "inside"}); got != want {
		t.Fatalf("in the tunnel: sent %v, want %v", got, want)
	}
	b.mu.Lock()
	if len(b.opened) > 0 {
		t.Errorf("opened %v before there was a use for it", b.opened)
	}
	b.mu.Unlock()
	a.send(a.sock, besideHost+"beside")
	a.send(a.sock, toHost("www.beside.example")+"by name")
	for i, want := range []packet{{mustAddrPort("198.51.100.7:53"), "beside"}, {mustAddrPort("192.0.2.1:53"), "by name"}} {
		if got := four.await(i); got != want {
			t.Errorf("beside: sent %v, want %v", got, want)
		}
	}
	a.send(a.sock, to6+"sixth")
	if got := six.await(0); got.data != "sixth" {
		t.Errorf("beside by IPv6: sent %v", got)
	}
	four.deliver("198.51.100.7:53", "answer")
	a.expect(besideHost + "answer")
	a.far.deliver("192.0.2.1:53", "answer")
	a.expect(to4 + "answer")
	if got := len(a.far.sentSoFar()); got != 1 {
		t.Errorf("sent %d datagrams in the tunnel, want 1", got)
	}
	b.mu.Lock()
	if len(b.opened) != 2 {
		t.Errorf("opened %v, want one of each family", b.opened)
	}
	b.mu.Unlock()
	a.control.Close()
	for _, s := range []*memSocket{four, six, a.far} {
		s.awaitClosed(t)
	}
}

// Without a socket there the datagram is dropped, and does not go by the tunnel instead.
func TestAssociateWithNothingBeside(t *testing.T) {
	b := newBesides()
	b.fail = errors.Join(errors.New("no such family"), syscall.EAFNOSUPPORT)
	a := newAssociated(t, Config{Beside: &Beside{Takes: b.takes, Listener: b}}, associate)
	a.send(a.sock, to6+"sixth")
	a.dropped(map[Drop]uint64{DropUnsent: 1})
	if got := a.far.sentSoFar(); len(got) > 0 {
		t.Errorf("sent %v in the tunnel", got)
	}
}

// awaitClosed waits until the socket is closed.
func (s *memSocket) awaitClosed(t *testing.T) {
	t.Helper()
	eventually(t, s.local.String()+" is closed", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.closed
	})
}
