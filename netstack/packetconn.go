package netstack

import (
	"bytes"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// packetConn is a UDP socket of the stack, connected or not.
type packetConn struct {
	socket

	readMu sync.Mutex        // serialises readers; guards dst
	dst    tcpip.SliceWriter // where a read under way puts its datagram

	writeMu sync.Mutex   // serialises writers; guards src
	src     bytes.Reader // where a write under way takes its datagram
}

var (
	_ net.Conn       = (*packetConn)(nil)
	_ net.PacketConn = (*packetConn)(nil)
)

func newPacketConn(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue) (*packetConn, error) {
	c := new(packetConn)
	c.open(s, ep, wq, "udp")
	if err := s.track(c); err != nil {
		ep.Close()
		return nil, err
	}
	ep.SocketOptions().SetBroadcast(true)
	return c, nil
}

// Read reads one datagram from the peer; what does not fit into b is lost.
func (c *packetConn) Read(b []byte) (int, error) {
	n, _, err := c.read(b)
	return n, c.opError("read", err)
}

// ReadFrom reads one datagram; what does not fit into b is lost.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.read(b)
	if err != nil {
		return 0, nil, c.opError("read", err)
	}
	return n, udpAddr(from), nil
}

func (c *packetConn) read(b []byte) (int, tcpip.FullAddress, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	deadline := c.readBy.passed()
	if err := c.check(deadline); err != nil {
		return 0, tcpip.FullAddress{}, err
	}
	for {
		c.dst = b
		res, terr := c.ep.Read(&c.dst, tcpip.ReadOptions{NeedRemoteAddr: true})
		c.dst = nil
		switch terr.(type) {
		case nil:
			return res.Count, res.RemoteAddr, nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.readable, deadline); err != nil {
				return 0, tcpip.FullAddress{}, err
			}
		default:
			return 0, tcpip.FullAddress{}, c.failure(terr)
		}
	}
}

// Write sends b as one datagram to the peer.
func (c *packetConn) Write(b []byte) (int, error) {
	return c.write(b, nil, c.RemoteAddr())
}

// WriteTo sends b as one datagram to addr, which is a *net.UDPAddr.
func (c *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	ua, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, opError("write", c.network, c.LocalAddr(), addr, net.InvalidAddrError("not a UDP address"))
	}
	ap := ua.AddrPort()
	to := toFull(netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
	return c.write(b, &to, addr)
}

func (c *packetConn) write(b []byte, to *tcpip.FullAddress, addr net.Addr) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	deadline := c.writeBy.passed()
	err := c.check(deadline)
	for err == nil {
		c.src.Reset(b)
		n, terr := c.ep.Write(&c.src, tcpip.WriteOptions{To: to})
		c.src.Reset(nil)
		switch terr.(type) {
		case nil:
			return int(n), nil
		case *tcpip.ErrWouldBlock:
			err = c.wait(c.writable, deadline)
		default:
			err = c.failure(terr)
		}
	}
	return 0, opError("write", c.network, c.LocalAddr(), addr, err)
}

// Close ends the socket.
func (c *packetConn) Close() error {
	c.s.untrack(c)
	return c.close()
}
