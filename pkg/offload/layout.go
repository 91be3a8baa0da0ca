package offload

import (
	"encoding/binary"

	"softether-go/pkg/inet"
)

const (
	ethernetLen = 14
	tagLen      = 4
	maxTags     = 2

	typeIPv4    = 0x0800
	typeVLAN    = 0x8100 // IEEE 802.1Q, the inner or only tag
	typeService = 0x88a8 // IEEE 802.1ad, the outer of two tags
	typeIPv6    = 0x86dd

	ipv4Len = 20 // without options
	ipv6Len = 40
	tcpLen  = 20 // without options
	udpLen  = 8

	maxPacket = 65535 // the length field of IPv4; used for IPv6 too

	protoHopByHop    = 0 // IPv6 extension headers, RFC 8200 section 4
	protoRouting     = 43
	protoFragment    = 44
	protoDestination = 60
	protoTCP         = 6
	protoUDP         = 17

	moreFragments  = 0x2000 // IPv4 flags and fragment offset
	dontFragment   = 0x4000
	fragmentOffset = 0x1fff
)

// Offsets in a TCP header, and its flags.
const (
	tcpSeq, tcpAck, tcpOff, tcpFlags, tcpWindow, tcpCsum, tcpUrgent = 4, 8, 12, 13, 14, 16, 18

	flagFIN, flagSYN, flagRST, flagPSH = 0x01, 0x02, 0x04, 0x08
	flagACK, flagURG, flagECE, flagCWR = 0x10, 0x20, 0x40, 0x80
)

// Offsets in a UDP header.
const udpLength, udpCsum = 4, 6

// A kind says how much of a frame could be understood, which is what its place in
// the order depends on.
type kind uint8

const (
	// foreign is not IP, or carries neither TCP nor UDP. It belongs to no flow
	// that anything is ever joined to.
	foreign kind = iota

	// opaque is IP whose ports are out of sight: a fragment, or malformed. It
	// might belong to any flow.
	opaque

	// flow is TCP or UDP with all headers in sight and lengths that agree.
	flow
)

// A layout says where the parts of a frame are.
type layout struct {
	l3, l4 int   // offsets of the IP and the transport header
	data   int   // offset of the transport payload
	end    int   // offset behind the transport payload
	proto  uint8 // of the transport
	v6     bool
	plain  bool // no IPv4 options, no IPv6 extension headers
	slack  bool // the IP packet is longer than the UDP datagram in it
}

// locate finds the transport header. It looks at headers only, not at lengths of
// packets, so it serves super-frames as well as frames.
func (l *layout) locate(f []byte) kind {
	if len(f) < ethernetLen {
		return foreign
	}
	l.l3 = ethernetLen
	t := binary.BigEndian.Uint16(f[12:])
	for tags := 0; (t == typeVLAN || t == typeService) && tags < maxTags; tags++ {
		if len(f) < l.l3+tagLen {
			return foreign
		}
		t = binary.BigEndian.Uint16(f[l.l3+2:])
		l.l3 += tagLen
	}
	switch t {
	case typeIPv4:
		return l.locateIPv4(f)
	case typeIPv6:
		return l.locateIPv6(f)
	}
	return foreign
}

func (l *layout) locateIPv4(f []byte) kind {
	if len(f) < l.l3+ipv4Len {
		return opaque
	}
	ip := f[l.l3:]
	length := int(ip[0]&0x0f) * 4
	if ip[0]>>4 != 4 || length < ipv4Len || len(ip) < length {
		return opaque
	}
	l.l4 = l.l3 + length
	l.plain = length == ipv4Len
	l.proto = ip[9]
	if l.proto != protoTCP && l.proto != protoUDP {
		return foreign
	}
	if binary.BigEndian.Uint16(ip[6:])&(moreFragments|fragmentOffset) != 0 {
		return opaque
	}
	return flow
}

func (l *layout) locateIPv6(f []byte) kind {
	if len(f) < l.l3+ipv6Len || f[l.l3]>>4 != 6 {
		return opaque
	}
	l.v6, l.plain = true, true
	l.l4 = l.l3 + ipv6Len
	l.proto = f[l.l3+6]
	for {
		switch l.proto {
		case protoTCP, protoUDP:
			return flow
		case protoHopByHop, protoDestination:
		case protoRouting:
			// With segments left the destination in the header is not the one
			// in the pseudo header.
			if len(f) < l.l4+4 || f[l.l4+3] != 0 {
				return opaque
			}
		case protoFragment:
			return opaque
		default:
			return foreign
		}
		if len(f) < l.l4+8 {
			return opaque
		}
		l.plain = false
		l.proto = f[l.l4]
		l.l4 += 8 + 8*int(f[l.l4+1])
	}
}

// parse finds all parts of a received frame.
func (l *layout) parse(f []byte) kind {
	if k := l.locate(f); k != flow {
		return k
	}
	if l.v6 {
		l.end = l.l3 + ipv6Len + int(binary.BigEndian.Uint16(f[l.l3+4:]))
	} else {
		l.end = l.l3 + int(binary.BigEndian.Uint16(f[l.l3+2:]))
	}
	if l.end > len(f) || !l.locateData(f[:l.end]) {
		return opaque
	}
	if l.proto == protoUDP {
		end := l.l4 + int(binary.BigEndian.Uint16(f[l.l4+udpLength:]))
		if end < l.data || end > l.end {
			return opaque
		}
		l.slack = end < l.end
		l.end = end
	}
	return flow
}

// locateData finds the end of the transport header and reports whether the header
// is complete.
func (l *layout) locateData(f []byte) bool {
	if l.proto == protoUDP {
		l.data = l.l4 + udpLen
		return len(f) >= l.data
	}
	if len(f) < l.l4+tcpLen {
		return false
	}
	length := int(f[l.l4+tcpOff]>>4) * 4
	l.data = l.l4 + length
	return length >= tcpLen && len(f) >= l.data
}

// addresses returns the two IP addresses of f.
func (l *layout) addresses(f []byte) []byte {
	if l.v6 {
		return f[l.l3+8 : l.l3+ipv6Len]
	}
	return f[l.l3+12 : l.l3+ipv4Len]
}

// csum returns the offset of the checksum in the transport header.
func (l *layout) csum() int {
	if l.proto == protoUDP {
		return udpCsum
	}
	return tcpCsum
}

// pseudo returns the sum of the pseudo header (RFC 9293 section 3.1, RFC 8200
// section 8.1) for length bytes of transport header and payload.
func (l *layout) pseudo(f []byte, length int) uint64 {
	return inet.Pseudo(l.addresses(f), l.proto, length)
}
