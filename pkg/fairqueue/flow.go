package fairqueue

import (
	"encoding/binary"
	"math/bits"

	"softether-go/pkg/frame"
)

const (
	typeService = 0x88a8 // IEEE 802.1ad, the outer of two tags
	tagLen      = 4
	maxTags     = 2

	ipv4Len, ipv6Len = 20, 40
	fragment         = 0x3fff // of IPv4: more fragments, or an offset

	protoICMP, protoTCP, protoUDP, protoICMPv6 = 1, 6, 17, 58
	protoSCTP, protoUDPLite, protoDCCP         = 132, 136, 33
)

// A Hasher tells flows apart by a number, with a seed of its own so that nobody
// outside can make flows collide.
type Hasher struct{ Seed uint64 }

// Flow returns a number for the flow of f, which may be of any length and content:
// addresses, protocol and ports for IP, else addresses and type of the Ethernet
// header. Fragments, of which only the first has ports, go by their addresses.
func (h Hasher) Flow(f []byte) uint64 {
	l3, etherType := network(f)
	switch etherType {
	case frame.TypeIPv4:
		if ip := f[l3:]; len(ip) >= ipv4Len && ip[0]>>4 == 4 {
			return h.ipv4(ip)
		}
	case frame.TypeIPv6:
		if ip := f[l3:]; len(ip) >= ipv6Len && ip[0]>>4 == 6 {
			return h.ipv6(ip)
		}
	}
	if len(f) < frame.HeaderLen {
		return h.mix(0, 0)
	}
	return h.mix(binary.BigEndian.Uint64(f), uint64(binary.BigEndian.Uint32(f[8:]))<<16|uint64(etherType))
}

// network finds the type of f and where its payload is, behind any tags.
func network(f []byte) (l3 int, etherType uint16) {
	if len(f) < frame.HeaderLen {
		return len(f), 0
	}
	l3, etherType = frame.HeaderLen, frame.EtherType(f)
	for tags := 0; (etherType == frame.TypeVLAN || etherType == typeService) && tags < maxTags; tags++ {
		if len(f) < l3+tagLen {
			break
		}
		etherType = binary.BigEndian.Uint16(f[l3+2:])
		l3 += tagLen
	}
	return l3, etherType
}

func (h Hasher) ipv4(ip []byte) uint64 {
	proto := ip[9]
	rest := uint64(proto)
	if length := int(ip[0]&0x0f) * 4; length >= ipv4Len && binary.BigEndian.Uint16(ip[6:])&fragment == 0 {
		rest |= ports(proto, ip[min(length, len(ip)):])
	}
	return h.mix(binary.BigEndian.Uint64(ip[12:]), rest)
}

// ipv6 does not look behind extension headers: they are rare, and a flow by its
// addresses is a flow still.
func (h Hasher) ipv6(ip []byte) uint64 {
	proto := ip[6]
	a := h.mix(binary.BigEndian.Uint64(ip[8:]), binary.BigEndian.Uint64(ip[16:]))
	b := h.mix(binary.BigEndian.Uint64(ip[24:]), binary.BigEndian.Uint64(ip[32:]))
	return h.mix(a^bits.RotateLeft64(b, 32), uint64(proto)|ports(proto, ip[ipv6Len:]))
}

// ports returns what tells the flows between two hosts apart, above the lowest byte.
func ports(proto byte, l4 []byte) uint64 {
	switch proto {
	case protoTCP, protoUDP, protoSCTP, protoUDPLite, protoDCCP:
		if len(l4) >= 4 {
			return uint64(binary.BigEndian.Uint32(l4)) << 8
		}
	case protoICMP, protoICMPv6:
		if len(l4) >= 6 { // an echo's identifier; for the rest it does no harm
			return uint64(binary.BigEndian.Uint16(l4[4:])) << 8
		}
	}
	return 0
}

// mix is the folded multiplication of wyhash.
func (h Hasher) mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^h.Seed^0xa0761d6478bd642f, b^bits.RotateLeft64(h.Seed, 31)^0xe7037ed1a0b428db)
	return hi ^ lo
}

// markCE sets Congestion Experienced in a packet whose sender understands it (RFC
// 3168, 5), and reports whether it was one.
func markCE(f []byte) bool {
	const ce = 3
	l3, etherType := network(f)
	ip := f[l3:]
	switch {
	case etherType == frame.TypeIPv4 && len(ip) >= ipv4Len && ip[0]>>4 == 4:
		ecn := ip[1] & ce
		if ecn == 0 {
			return false
		}
		// The sum of the header grows by what the byte grows by (RFC 1624, 3).
		sum := uint32(^binary.BigEndian.Uint16(ip[10:])) + uint32(ce-ecn)
		ip[1] |= ce
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
		return true
	case etherType == frame.TypeIPv6 && len(ip) >= ipv6Len && ip[0]>>4 == 6:
		if ip[1]>>4&ce == 0 {
			return false
		}
		ip[1] |= ce << 4
		return true
	}
	return false
}
