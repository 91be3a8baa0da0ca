package health

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"softether-go/pkg/frame"
)

const (
	protoUDP = 17

	arpLen  = 28 // of ARP for Ethernet and IPv4
	ipv4Len = 20 // of a header without options
)

// arpRequest asks who has an address.
func (m *Monitor) arpRequest(own, addr netip.Addr) []byte {
	f := make([]byte, frame.HeaderLen+arpLen)
	frame.PutHeader(f, broadcast[:], m.cfg.MAC, frame.TypeARP)
	p := frame.Payload(f)
	copy(p, []byte{0, 1, 8, 0, 6, 4, 0, 1}) // Ethernet, IPv4, request
	copy(p[8:], m.cfg.MAC)
	from, to := own.As4(), addr.As4()
	copy(p[14:], from[:])
	copy(p[24:], to[:])
	return f
}

// arpReply takes the sender from a reply.
func arpReply(f []byte) (who mac, addr netip.Addr, ok bool) {
	p := frame.Payload(f)
	if frame.EtherType(f) != frame.TypeARP || len(p) < arpLen || [8]byte(p) != [8]byte{0, 1, 8, 0, 6, 4, 0, 2} {
		return who, addr, false
	}
	return mac(p[8:14]), netip.AddrFrom4([4]byte(p[14:18])), true
}

// packet is a frame with an IPv4 packet (RFC 791) or one of IPv6.
func (m *Monitor) packet(src, dst netip.Addr, hop mac, proto byte, payload []byte) []byte {
	if dst.Is6() {
		return m.packet6(src, dst, hop, proto, payload)
	}
	f := make([]byte, frame.HeaderLen+ipv4Len+len(payload))
	frame.PutHeader(f, hop[:], m.cfg.MAC, frame.TypeIPv4)
	p := frame.Payload(f)
	p[0], p[8], p[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	from, to := src.As4(), dst.As4()
	copy(p[12:], from[:])
	copy(p[16:], to[:])
	binary.BigEndian.PutUint16(p[10:], checksum(p[:ipv4Len]))
	copy(p[ipv4Len:], payload)
	return f
}

// ip takes a whole packet apart.
func ip(f []byte) (src netip.Addr, proto byte, payload []byte, ok bool) {
	if frame.EtherType(f) == frame.TypeIPv6 {
		src, proto, _, payload, ok = ipv6(f)
		return src, proto, payload, ok
	}
	return ipv4(f)
}

// ipv4 takes a whole packet apart; fragments are none.
func ipv4(f []byte) (src netip.Addr, proto byte, payload []byte, ok bool) {
	p := frame.Payload(f)
	if frame.EtherType(f) != frame.TypeIPv4 || len(p) < ipv4Len || p[0]>>4 != 4 {
		return src, 0, nil, false
	}
	header, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	const moreOrOffset = 0x3fff
	if header < ipv4Len || total < header || total > len(p) || binary.BigEndian.Uint16(p[6:])&moreOrOffset != 0 {
		return src, 0, nil, false
	}
	return netip.AddrFrom4([4]byte(p[12:16])), p[9], p[header:total], true
}

// checksum is that of the Internet (RFC 1071) over parts, of which all but the last are
// of even length.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// An icmpKind is what differs between ICMP of IPv4 and of IPv6.
type icmpKind struct{ proto, request, reply byte }

var icmp, icmp6 = icmpKind{1, 8, 0}, icmpKind{58, 128, 129}

func (k icmpKind) echoRequest(src, dst netip.Addr, id uint32) []byte {
	b := make([]byte, 16)
	b[0] = k.request
	binary.BigEndian.PutUint32(b[4:], id) // identifier and sequence number
	var pseudo []byte
	if k == icmp6 {
		pseudo = pseudoHeader(src, dst, k.proto, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], checksum(pseudo, b))
	return b
}

func (k icmpKind) isEchoReply(p []byte, id uint32) bool {
	return len(p) >= 8 && p[0] == k.reply && p[1] == 0 && binary.BigEndian.Uint32(p[4:]) == id
}

// pseudoHeader is what is summed up before a payload, in both families: the order does not
// matter (RFC 768; RFC 8200, 8.1).
func pseudoHeader(src, dst netip.Addr, proto byte, length int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	return binary.BigEndian.AppendUint16(append(b, 0, proto), uint16(length))
}

// datagram is one of UDP to port 53 (RFC 768).
func datagram(src, dst netip.Addr, port uint16, payload []byte) []byte {
	b := make([]byte, 8+len(payload))
	binary.BigEndian.PutUint16(b, port)
	binary.BigEndian.PutUint16(b[2:], 53)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	copy(b[8:], payload)
	sum := checksum(pseudoHeader(src, dst, protoUDP, len(b)), b)
	if sum == 0 {
		sum = 0xffff // zero says that there is none
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

// dnsQuery asks for the addresses of a name (RFC 1035, 4.1).
func dnsQuery(id uint16, name string) ([]byte, error) {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = append(b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	b, err := appendName(b, name)
	return append(b, 0, 1, 0, 1), err // type A, class IN
}

// appendName appends a name in labels.
func appendName(b []byte, name string) ([]byte, error) {
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return nil, errors.New("a name has 253 characters at most")
	}
	for l := range strings.SplitSeq(name, ".") {
		if l == "" || len(l) > 63 || strings.ContainsAny(l, " :/@") {
			return nil, errors.New("is neither an address nor a name")
		}
		b = append(append(b, byte(len(l))), l...)
	}
	return append(b, 0), nil
}

// dnsAnswer reports whether a message answers a query, and what is wrong with it.
func dnsAnswer(p []byte, id uint16) (ok bool, err error) {
	const headerLen = 12
	if len(p) < headerLen || binary.BigEndian.Uint16(p) != id || p[2]&0x80 == 0 {
		return false, nil
	}
	switch code := p[3] & 15; code {
	case 0, 3: // NOERROR, NXDOMAIN
		return true, nil
	case 2:
		return true, errors.New("answers SERVFAIL")
	case 5:
		return true, errors.New("answers REFUSED")
	default:
		return true, fmt.Errorf("answers with error %d", code)
	}
}
