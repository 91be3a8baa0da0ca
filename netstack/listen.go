package netstack

import (
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog is how many connections may wait for Accept: Linux's default.
const backlog = 4096

// listener accepts TCP connections.
type listener struct{ socket }

var _ net.Listener = (*listener)(nil)

// ListenTCP accepts connections to at. An unspecified address means all, and
// survives every Apply; port 0 lets the stack choose.
func (s *Stack) ListenTCP(at netip.AddrPort) (net.Listener, error) {
	local := net.TCPAddrFromAddrPort(at)
	wq := new(waiter.Queue)
	ep, terr := s.ns.NewEndpoint(tcp.ProtocolNumber, protocolOf(at.Addr()), wq)
	if terr != nil {
		return nil, opError("listen", "tcp", nil, local, stdError(terr))
	}
	l := new(listener)
	l.open(s, ep, wq, "tcp")
	if err := s.track(l); err != nil {
		ep.Close()
		return nil, opError("listen", "tcp", nil, local, err)
	}
	ep.SocketOptions().SetReuseAddress(true)
	terr = ep.Bind(toFull(at))
	if terr == nil {
		terr = ep.Listen(backlog)
	}
	if terr != nil {
		_ = l.Close()
		return nil, opError("listen", "tcp", nil, local, stdError(terr))
	}
	l.remember()
	return l, nil
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	for {
		if err := l.ended(); err != nil {
			return nil, opError("accept", "tcp", nil, l.LocalAddr(), err)
		}
		ep, wq, terr := l.ep.Accept(nil)
		switch terr.(type) {
		case nil:
			c, err := newConn(l.s, ep, wq)
			if err != nil {
				return nil, opError("accept", "tcp", nil, l.LocalAddr(), err)
			}
			c.established()
			return c, nil
		case *tcpip.ErrWouldBlock:
			if err := l.wait(l.readable, nil); err != nil {
				return nil, opError("accept", "tcp", nil, l.LocalAddr(), err)
			}
		default:
			return nil, opError("accept", "tcp", nil, l.LocalAddr(), l.failure(terr))
		}
	}
}

// Addr returns what the listener is bound to.
func (l *listener) Addr() net.Addr { return l.LocalAddr() }

// Close ends the listener and resets what was not accepted.
func (l *listener) Close() error {
	l.s.untrack(l)
	return l.close()
}

// ListenPacket receives UDP datagrams to at, and broadcasts. An unspecified
// address means all, and survives every Apply; port 0 lets the stack choose.
func (s *Stack) ListenPacket(at netip.AddrPort) (net.PacketConn, error) {
	local := net.UDPAddrFromAddrPort(at)
	wq := new(waiter.Queue)
	ep, terr := s.ns.NewEndpoint(udp.ProtocolNumber, protocolOf(at.Addr()), wq)
	if terr != nil {
		return nil, opError("listen", "udp", nil, local, stdError(terr))
	}
	c, err := newPacketConn(s, ep, wq)
	if err != nil {
		return nil, opError("listen", "udp", nil, local, err)
	}
	ep.SocketOptions().SetReceivePacketInfo(true) // for ReadFromTo
	ep.SocketOptions().SetIPv6ReceivePacketInfo(true)
	if terr := ep.Bind(toFull(at)); terr != nil {
		_ = c.Close()
		return nil, opError("listen", "udp", nil, local, stdError(terr))
	}
	c.remember()
	return c, nil
}
