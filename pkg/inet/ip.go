package inet

import (
	"encoding/binary"
	"net/netip"
)

const (
	IPv4Len = 20 // of a header without options
	IPv6Len = 40 // of a header without extensions
	UDPLen  = 8

	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

// addressesAt is where the addresses are in an IPv4 header: the source's, the target's.
const addressesAt = 12

// An IPv4 is a packet that ParseIPv4 has found whole, options and all.
type IPv4 []byte

// ParseIPv4 returns the packet that b begins with; what follows it is padding. The
// checksum is not looked at.
func ParseIPv4(b []byte) (p IPv4, ok bool) {
	if len(b) < IPv4Len || b[0]>>4 != 4 {
		return nil, false
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < IPv4Len || total < header || total > len(b) {
		return nil, false
	}
	return IPv4(b[:total]), true
}

func (p IPv4) headerLen() int { return int(p[0]&15) * 4 }

func (p IPv4) Proto() byte     { return p[9] }
func (p IPv4) Src() netip.Addr { return netip.AddrFrom4([4]byte(p[addressesAt:])) }
func (p IPv4) Dst() netip.Addr { return netip.AddrFrom4([4]byte(p[addressesAt+4:])) }
func (p IPv4) Payload() []byte { return p[p.headerLen():] }

// Addresses are both, as the pseudo header has them.
func (p IPv4) Addresses() []byte { return p[addressesAt : addressesAt+8] }

// Summed reports whether the header's checksum is right.
func (p IPv4) Summed() bool { return Checksum(p[:p.headerLen()]) == 0 }

// Fragment reports whether this is not all of what was sent.
func (p IPv4) Fragment() bool {
	const moreOrOffset = 0x3fff
	return binary.BigEndian.Uint16(p[6:])&moreOrOffset != 0
}

// PutIPv4 writes the header, without options, of the packet that is all of p. The
// identification and the flags of fragments stay as they are in p.
func PutIPv4(p []byte, proto byte, src, dst [4]byte) {
	p[0], p[1] = 4<<4|IPv4Len/4, 0
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[8], p[9], p[10], p[11] = 64, proto, 0, 0
	copy(p[addressesAt:], src[:])
	copy(p[addressesAt+4:], dst[:])
	binary.BigEndian.PutUint16(p[10:], Checksum(p[:IPv4Len]))
}
