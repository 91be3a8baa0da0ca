package binding

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// A UDPConn knows which of this machine's addresses each datagram was sent to, and answers
// from there. A socket of all addresses would else answer from the one that the way back
// begins at, and whoever asked another takes that for a stranger's.
//
// The system says the address beside each datagram, and is told it (IP_PKTINFO,
// IPV6_PKTINFO). Where it does not, the address is unspecified, and it chooses as ever.
type UDPConn struct {
	*net.UDPConn
	local netip.AddrPort // unspecified if it is bound to all addresses

	beside [128]byte // what the system says, in a read under way

	mu    sync.Mutex            // guards what follows
	heard map[string]netip.Addr // by what the system says
	said  map[netip.Addr][]byte // what it is told
}

// maxTable bounds the tables of a UDPConn: an entry is for an address of this machine, so
// they seldom have more than a few.
const maxTable = 256

// ListenUDP opens a socket at HOST:PORT, where the host is an address, or none for all.
func ListenUDP(ctx context.Context, address string) (*UDPConn, error) {
	pc, err := new(net.ListenConfig).ListenPacket(ctx, Network("udp", address), address)
	if err != nil {
		return nil, err
	}
	c := &UDPConn{UDPConn: pc.(*net.UDPConn), heard: make(map[string]netip.Addr), said: make(map[netip.Addr][]byte)}
	c.local = c.LocalAddr().(*net.UDPAddr).AddrPort()
	switch a := c.local.Addr(); {
	case !a.IsUnspecified():
	case a.Is4():
		_ = ipv4.NewPacketConn(c.UDPConn).SetControlMessage(ipv4.FlagDst, true) // or it cannot be told
	default:
		_ = ipv6.NewPacketConn(c.UDPConn).SetControlMessage(ipv6.FlagDst, true)
	}
	return c, nil
}

// ReadFromTo reads a datagram, and tells who has sent it and to which address and port of
// ours. It allocates nothing once that address is known. There is one reader at a time.
func (c *UDPConn) ReadFromTo(b []byte) (n int, from, to netip.AddrPort, err error) {
	if !c.local.Addr().IsUnspecified() {
		n, from, err = c.ReadFromUDPAddrPort(b)
		return n, from, c.local, err
	}
	n, size, _, from, err := c.ReadMsgUDPAddrPort(b, c.beside[:])
	if err != nil {
		return 0, from, c.local, err
	}
	return n, from, netip.AddrPortFrom(c.parse(c.beside[:size]), c.local.Port()), nil
}

// parse returns the address that the system says, an unspecified one if it says none.
func (c *UDPConn) parse(beside []byte) netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	if to, ok := c.heard[string(beside)]; ok {
		return to
	}
	var v4 ipv4.ControlMessage
	var v6 ipv6.ControlMessage
	to := c.local.Addr()
	if v4.Parse(beside) == nil && v6.Parse(beside) == nil {
		for _, ip := range []net.IP{v4.Dst, v6.Dst} {
			if a, ok := netip.AddrFromSlice(ip); ok {
				to = a.Unmap()
			}
		}
	}
	if len(c.heard) >= maxTable {
		clear(c.heard)
	}
	c.heard[string(beside)] = to
	return to
}

// WriteFromTo sends a datagram from an address of ours, as ReadFromTo has told it. If that
// cannot be, since it is a group's or no longer ours, the system chooses another.
func (c *UDPConn) WriteFromTo(b []byte, from netip.Addr, to netip.AddrPort) (int, error) {
	if c.local.Addr().IsUnspecified() && !from.IsUnspecified() {
		n, _, err := c.WriteMsgUDPAddrPort(b, c.tell(from), to)
		if err == nil || errors.Is(err, net.ErrClosed) {
			return n, err
		}
	}
	return c.WriteToUDPAddrPort(b, to)
}

// tell returns how the system is told of an address to send from.
func (c *UDPConn) tell(from netip.Addr) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.said[from]; ok {
		return b
	}
	var b []byte
	if from.Is4() {
		b = (&ipv4.ControlMessage{Src: from.AsSlice()}).Marshal()
	} else {
		b = (&ipv6.ControlMessage{Src: from.AsSlice()}).Marshal()
	}
	if len(c.said) >= maxTable {
		clear(c.said)
	}
	c.said[from] = b
	return b
}
