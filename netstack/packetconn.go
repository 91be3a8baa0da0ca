package netstack

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// packetConn is a UDP socket of the stack, connected or not.
type packetConn struct {
	socket

	readMu sync.Mutex        // serialises readers; guards dst
	dst    tcpip.SliceWriter // where a read under way puts its datagram

	writeMu sync.Mutex        // serialises writers; guards what follows
	src     bytes.Reader      // where a write under way takes its datagram
	to      tcpip.FullAddress // where it goes
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
	res, err := c.read(b, true)
	return res.Count, c.opError("read", err)
}

// ReadFrom reads one datagram; what does not fit into b is lost.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	res, err := c.read(b, true)
	if err != nil {
		return 0, nil, c.opError("read", err)
	}
	return res.Count, udpAddr(res.RemoteAddr), nil
}

// ReadFromUDPAddrPort is ReadFrom without an allocation.
func (c *packetConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	res, err := c.read(b, true)
	if err != nil {
		return 0, netip.AddrPort{}, c.opError("read", err)
	}
	return res.Count, fromFull(res.RemoteAddr), nil
}

// ReadFromTo is ReadFromUDPAddrPort, and tells which address of ours a datagram was sent to.
func (c *packetConn) ReadFromTo(b []byte) (n int, from, to netip.AddrPort, err error) {
	res, err := c.read(b, true)
	if err != nil {
		return 0, netip.AddrPort{}, netip.AddrPort{}, c.opError("read", err)
	}
	at := *c.local.Load()
	switch m := &res.ControlMessages; {
	case m.HasIPPacketInfo:
		at.Addr = m.PacketInfo.DestinationAddr
	case m.HasIPv6PacketInfo:
		at.Addr = m.IPv6PacketInfo.Addr
	}
	return res.Count, fromFull(res.RemoteAddr), fromFull(at), nil
}

// ReadNowFromUDPAddrPort is ReadFromUDPAddrPort for who has something to do with what came
// before: the error is syscall.EAGAIN where that would wait.
func (c *packetConn) ReadNowFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	res, err := c.read(b, false)
	switch {
	case err == syscall.EAGAIN:
		return 0, netip.AddrPort{}, err
	case err != nil:
		return 0, netip.AddrPort{}, c.opError("read", err)
	}
	return res.Count, fromFull(res.RemoteAddr), nil
}

// WaitReadable returns when a read would not wait, so that no buffer need be held
// until then.
func (c *packetConn) WaitReadable() error {
	deadline := c.readBy.passed()
	for {
		if err := c.check(deadline); err != nil {
			return c.opError("read", err)
		}
		if c.ep.Readiness(waiter.ReadableEvents) != 0 {
			return nil
		}
		if err := c.wait(c.readable, deadline); err != nil {
			return c.opError("read", err)
		}
	}
}

// read reads one datagram. With wait it waits for one, without the error is EAGAIN then.
func (c *packetConn) read(b []byte, wait bool) (tcpip.ReadResult, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	deadline := c.readBy.passed()
	if err := c.check(deadline); err != nil {
		return tcpip.ReadResult{}, err
	}
	for {
		c.dst = b
		res, terr := c.ep.Read(&c.dst, tcpip.ReadOptions{NeedRemoteAddr: true})
		c.dst = nil
		switch terr.(type) {
		case nil:
			return res, nil
		case *tcpip.ErrWouldBlock:
			if !wait {
				return tcpip.ReadResult{}, syscall.EAGAIN
			}
			if err := c.wait(c.readable, deadline); err != nil {
				return tcpip.ReadResult{}, err
			}
		default:
			return tcpip.ReadResult{}, c.failure(terr)
		}
	}
}

// Write sends b as one datagram to the peer.
func (c *packetConn) Write(b []byte) (int, error) {
	n, err := c.send(b, netip.Addr{}, netip.AddrPort{}, true)
	return n, c.opError("write", err)
}

// WriteTo sends b as one datagram to addr, which is a *net.UDPAddr.
func (c *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	ua, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, opError("write", c.network, c.LocalAddr(), addr, net.InvalidAddrError("not a UDP address"))
	}
	return c.WriteToUDPAddrPort(b, ua.AddrPort())
}

// WriteToUDPAddrPort is WriteTo without an allocation.
func (c *packetConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return c.writeTo(b, netip.Addr{}, to, true)
}

// WriteFromTo is WriteToUDPAddrPort from an address of ours, as ReadFromTo has told it. If
// that is no longer ours, or there is but one of the family, the stack chooses.
func (c *packetConn) WriteFromTo(b []byte, from netip.Addr, to netip.AddrPort) (int, error) {
	n, err := c.writeTo(b, from, to, true)
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		n, err = c.writeTo(b, netip.Addr{}, to, true)
	}
	return n, err
}

// WriteNowToUDPAddrPort is WriteToUDPAddrPort for who has something better to do than to
// wait: the error is syscall.EAGAIN where that would.
func (c *packetConn) WriteNowToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return c.writeTo(b, netip.Addr{}, to, false)
}

func (c *packetConn) writeTo(b []byte, from netip.Addr, to netip.AddrPort, wait bool) (int, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	err := usable(to.Addr())
	n := 0
	if err == nil {
		n, err = c.send(b, from, to, wait)
	}
	if err == nil || err == syscall.EAGAIN {
		return n, err
	}
	return n, opError("write", c.network, c.LocalAddr(), net.UDPAddrFromAddrPort(to), err)
}

// send sends one datagram, to the peer if to is invalid, from an address that the stack
// chooses if from is. With wait it waits for room in the send buffer, without the error is
// EAGAIN then.
func (c *packetConn) send(b []byte, from netip.Addr, to netip.AddrPort, wait bool) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	var options tcpip.WriteOptions
	if to.IsValid() {
		c.to = toFull(to)
		options.To = &c.to
	}
	if from.Is6() && !from.IsMulticast() && !from.IsUnspecified() { // of IPv4 we have one
		options.ControlMessages.HasIPv6PacketInfo = true
		options.ControlMessages.IPv6PacketInfo = tcpip.IPv6PacketInfo{Addr: toAddress(from), NIC: nicID}
	}
	deadline := c.writeBy.passed()
	err := c.check(deadline)
	for err == nil {
		c.src.Reset(b)
		n, terr := c.ep.Write(&c.src, options)
		c.src.Reset(nil)
		_, full := terr.(*tcpip.ErrWouldBlock)
		switch {
		case terr == nil:
			return int(n), nil
		case full && wait:
			err = c.wait(c.writable, deadline)
		case full:
			err = syscall.EAGAIN
		default:
			err = c.failure(terr)
		}
	}
	return 0, err
}

// Close ends the socket.
func (c *packetConn) Close() error {
	c.s.untrack(c)
	return c.close()
}
