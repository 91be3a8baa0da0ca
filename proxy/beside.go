package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// A Beside is a network beside the tunnel, for those datagrams of UDP ASSOCIATE that do
// not go by it.
type Beside struct {
	// Takes reports whether a datagram is for that network: one to a host by its name, or
	// if host is empty by its address. It is called for each datagram.
	Takes func(host string, addr netip.Addr) bool
	// Listener is called with the network "udp4" or "udp6" and the address ":0".
	Listener PacketListener
}

// sides are the sockets of an association beside the tunnel, one for each family, opened
// when something is first sent there.
type sides struct {
	mu     sync.Mutex // guards what follows; held while one is opened
	open   [2]socket
	closed bool
}

// towards returns the socket by which a host is reached.
func (a *association) towards(host string, addr netip.Addr) (socket, error) {
	b := a.srv.Beside
	if b == nil || !b.Takes(host, addr) {
		return a.far, nil
	}
	i, network := 0, "udp4"
	if addr.Is6() {
		i, network = 1, "udp6"
	}
	s := &a.sides
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.open[i] != nil {
		if s.closed {
			return nil, net.ErrClosed
		}
		return s.open[i], nil
	}
	c, err := b.Listener.ListenPacket(context.Background(), network, ":0") // which takes no time
	if err != nil {
		return nil, err
	}
	side := socketOf(c)
	s.open[i] = side
	// run still waits for the directions there are: they end after closed is set.
	a.directions.Go(func() { a.stop(a.receive(side, headerIPv6, &a.srv.buffers, a.fromPeer)) })
	return side, nil
}

func (s *sides) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, c := range s.open {
		if c != nil {
			_ = c.Close()
		}
	}
}
