package inet

import (
	"encoding/binary"
	"net/netip"
)

// An IPv6 is a packet that ParseIPv6 has found whole.
type IPv6 []byte

// ParseIPv6 returns the packet that b begins with; what follows it is padding. Extension
// headers are payload.
func ParseIPv6(b []byte) (p IPv6, ok bool) {
	if len(b) < IPv6Len || b[0]>>4 != 6 {
		return nil, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n > len(b)-IPv6Len {
		return nil, false
	}
	return IPv6(b[:IPv6Len+n]), true
}

func (p IPv6) Next() byte        { return p[6] } // what Payload is
func (p IPv6) Hops() byte        { return p[7] }
func (p IPv6) Src() netip.Addr   { return netip.AddrFrom16([16]byte(p[8:])) }
func (p IPv6) Dst() netip.Addr   { return netip.AddrFrom16([16]byte(p[24:])) }
func (p IPv6) Addresses() []byte { return p[8:IPv6Len] }
func (p IPv6) Payload() []byte   { return p[IPv6Len:] }

// PutIPv6 writes the header of the packet that is all of p.
func PutIPv6(p []byte, next, hops byte, src, dst [16]byte) {
	binary.BigEndian.PutUint32(p, 6<<28)
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-IPv6Len))
	p[6], p[7] = next, hops
	copy(p[8:], src[:])
	copy(p[24:], dst[:])
}

// GroupMAC is where a multicast address is on Ethernet (RFC 2464 section 7).
func GroupMAC(group netip.Addr) [6]byte {
	b := group.As16()
	return [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// SolicitedNode is the group that hears questions about addr (RFC 4291 section 2.7.1).
func SolicitedNode(addr netip.Addr) netip.Addr {
	a, b := addr.As16(), [16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff}
	copy(b[13:], a[13:])
	return netip.AddrFrom16(b)
}
