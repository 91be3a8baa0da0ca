package proxy

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// A packet is a datagram in memory.
type packet struct {
	peer netip.AddrPort
	data string
}

// memSocket is a socket in the tunnel, in memory. What it sends is kept.
type memSocket struct {
	local netip.AddrPort

	mu       sync.Mutex
	changed  chan struct{} // closed when something below has
	inbox    []packet
	sent     []packet
	deadline time.Time
	closed   bool
	refuse   map[netip.Addr]error // what writing to an address returns
	silent   bool                 // keeps nothing, for measuring
}

func newMemSocket(local string) *memSocket {
	return &memSocket{local: mustAddrPort(local), changed: make(chan struct{}), refuse: make(map[netip.Addr]error)}
}

// change does something and wakes who waits for it.
func (s *memSocket) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// deliver has the socket receive a datagram.
func (s *memSocket) deliver(from, data string) {
	s.change(func() { s.inbox = append(s.inbox, packet{mustAddrPort(from), data}) })
}

// await returns the n-th datagram that was sent, once it is.
func (s *memSocket) await(n int) packet {
	for {
		s.mu.Lock()
		if len(s.sent) > n {
			defer s.mu.Unlock()
			return s.sent[n]
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			return packet{data: "nothing was sent"}
		}
	}
}

func (s *memSocket) sentSoFar() []packet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]packet(nil), s.sent...)
}

func (s *memSocket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		s.mu.Lock()
		late := !s.deadline.IsZero() && !time.Now().Before(s.deadline)
		switch {
		case s.closed:
			s.mu.Unlock()
			return 0, netip.AddrPort{}, net.ErrClosed
		case late:
			s.mu.Unlock()
			return 0, netip.AddrPort{}, os.ErrDeadlineExceeded
		case len(s.inbox) > 0:
			p := s.inbox[0]
			s.inbox = s.inbox[1:]
			s.mu.Unlock()
			return copy(b, p.data), p.peer, nil
		}
		changed := s.changed
		var alarm <-chan time.Time
		if !s.deadline.IsZero() {
			alarm = time.After(time.Until(s.deadline))
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-alarm:
		}
	}
}

func (s *memSocket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	s.mu.Lock()
	err, silent := s.refuse[to.Addr()], s.silent
	s.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case silent:
		return len(b), nil
	case len(b) > 65507:
		return 0, syscall.EMSGSIZE
	}
	s.change(func() { s.sent = append(s.sent, packet{to, string(b)}) })
	return len(b), nil
}

func (s *memSocket) SetReadDeadline(t time.Time) error {
	s.change(func() { s.deadline = t })
	return nil
}

func (s *memSocket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.local) }

func (s *memSocket) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if !closed {
		s.change(func() { s.closed = true })
	}
	return nil
}

// What makes it a net.PacketConn.

func (s *memSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := s.ReadFromUDPAddrPort(b)
	return n, net.UDPAddrFromAddrPort(from), err
}

func (s *memSocket) WriteTo(b []byte, to net.Addr) (int, error) {
	return s.WriteToUDPAddrPort(b, addrPort(to))
}
func (s *memSocket) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }
func (s *memSocket) SetWriteDeadline(time.Time) error { return nil }

// packetFunc is a PacketListener.
type packetFunc func(ctx context.Context, network, address string) (net.PacketConn, error)

func (f packetFunc) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return f(ctx, network, address)
}

// resolveFunc is a Resolver.
type resolveFunc func(ctx context.Context, network, host string) ([]netip.Addr, error)

func (f resolveFunc) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return f(ctx, network, host)
}
