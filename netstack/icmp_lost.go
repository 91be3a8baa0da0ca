package netstack

import (
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxLost bounds how many lost messages wait for Receive.
	maxLost = 64
	// ownHops is what is left of the hops of a message that has gone none.
	ownHops = 64
)

// A lostMessage is one that waited for the address of a neighbour, who is not there. To
// gVisor a raw socket is nobody to tell.
type lostMessage struct {
	head     [8]byte // its beginning
	from, to netip.Addr
}

// watch notes what becomes of a message that was handed to the stack just now.
func (c *ICMPConn) watch(msg []byte, to netip.Addr) {
	route, terr := c.s.ns.FindRoute(nicID, tcpip.Address{}, toAddress(to), protocolOf(to), false)
	if terr != nil {
		return // so there was no way to send it either
	}
	defer route.Release()
	m := lostMessage{from: fromFull(tcpip.FullAddress{Addr: route.LocalAddress()}).Addr(), to: to}
	copy(m.head[:], msg)
	_ = route.ResolvedFields(func(r stack.ResolvedFieldsResult) { // called once it is known, whatever this returns
		if r.Err != nil {
			c.lose(m)
		}
	})
}

// lose has Receive tell of a message that is lost.
func (c *ICMPConn) lose(m lostMessage) {
	c.lostMu.Lock()
	if len(c.lost) < maxLost {
		c.lost = append(c.lost, m)
	}
	c.lostMu.Unlock()
	select {
	case c.readable <- struct{}{}:
	default: // somebody looks already
	}
}

// takeLost writes what a host says of the message that was lost first, if there is one: that
// the host (RFC 792) or the address (RFC 4443, 3.1) is unreachable.
func (c *ICMPConn) takeLost(b []byte) (n int, from netip.Addr) {
	c.lostMu.Lock()
	defer c.lostMu.Unlock()
	if len(c.lost) == 0 {
		return 0, from
	}
	m := c.lost[0]
	c.lost = slices.Delete(c.lost, 0, 1)
	said := make([]byte, header.ICMPv4MinimumSize, header.ICMPv4MinimumSize+header.IPv6MinimumSize+len(m.head))
	said[0], said[1] = byte(header.ICMPv4DstUnreachable), byte(header.ICMPv4HostUnreachable)
	about := make([]byte, header.IPv4MinimumSize)
	if c.v6 {
		said[0], said[1] = byte(header.ICMPv6DstUnreachable), byte(header.ICMPv6AddressUnreachable)
		about = make([]byte, header.IPv6MinimumSize)
		header.IPv6(about).Encode(&header.IPv6Fields{PayloadLength: uint16(len(m.head)), TransportProtocol: header.ICMPv6ProtocolNumber,
			HopLimit: ownHops, SrcAddr: toAddress(m.from), DstAddr: toAddress(m.to)})
	} else {
		header.IPv4(about).Encode(&header.IPv4Fields{TotalLength: uint16(len(about) + len(m.head)), TTL: ownHops,
			Protocol: uint8(header.ICMPv4ProtocolNumber), SrcAddr: toAddress(m.from), DstAddr: toAddress(m.to)})
	}
	return copy(b, slices.Concat(said, about, m.head[:])), m.from
}
