package health

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
)

// arpRequest asks who has an address.
func (m *Monitor) arpRequest(own, addr netip.Addr) []byte {
	f := make([]byte, frame.HeaderLen+inet.ARPLen)
	frame.PutHeader(f, broadcast[:], m.cfg.MAC, frame.TypeARP)
	inet.ARP{Op: inet.ARPRequest, FromMAC: mac(m.cfg.MAC), From: own, To: addr}.Put(frame.Payload(f))
	return f
}

// arpReply takes the sender from a reply.
func arpReply(f []byte) (who mac, addr netip.Addr, ok bool) {
	if frame.EtherType(f) != frame.TypeARP {
		return who, addr, false
	}
	a, ok := inet.ParseARP(frame.Payload(f))
	return a.FromMAC, a.From, ok && a.Op == inet.ARPReply
}

// packet is a frame with an IPv4 packet (RFC 791) or one of IPv6.
func (m *Monitor) packet(src, dst netip.Addr, hop mac, proto byte, payload []byte) []byte {
	if dst.Is6() {
		return m.packet6(src, dst, hop, proto, payload)
	}
	f := make([]byte, frame.HeaderLen+inet.IPv4Len+len(payload))
	frame.PutHeader(f, hop[:], m.cfg.MAC, frame.TypeIPv4)
	p := inet.IPv4(frame.Payload(f))
	inet.PutIPv4(p, proto, src.As4(), dst.As4())
	copy(p.Payload(), payload)
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
	if frame.EtherType(f) != frame.TypeIPv4 {
		return src, 0, nil, false
	}
	p, ok := inet.ParseIPv4(frame.Payload(f))
	if !ok || p.Fragment() {
		return src, 0, nil, false
	}
	return p.Src(), p.Proto(), p.Payload(), true
}

// An icmpKind is what differs between ICMP of IPv4 and of IPv6.
type icmpKind struct{ proto, request, reply byte }

var icmp, icmp6 = icmpKind{inet.ProtoICMP, 8, 0}, icmpKind{inet.ProtoICMPv6, 128, 129}

func (k icmpKind) echoRequest(src, dst netip.Addr, id uint32) []byte {
	b := make([]byte, 16)
	b[0] = k.request
	binary.BigEndian.PutUint32(b[4:], id) // identifier and sequence number
	sum := inet.Sum(b)
	if k == icmp6 {
		sum += inet.Pseudo(addresses(src, dst), k.proto, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], inet.TransportChecksum(sum))
	return b
}

func (k icmpKind) isEchoReply(p []byte, id uint32) bool {
	return len(p) >= 8 && p[0] == k.reply && p[1] == 0 && binary.BigEndian.Uint32(p[4:]) == id
}

// addresses are as a pseudo header has them.
func addresses(src, dst netip.Addr) []byte { return append(src.AsSlice(), dst.AsSlice()...) }

// datagram is one of UDP to port 53 (RFC 768).
func datagram(src, dst netip.Addr, port uint16, payload []byte) []byte {
	b := make([]byte, inet.UDPLen+len(payload))
	copy(b[inet.UDPLen:], payload)
	inet.PutUDP(b, port, 53, addresses(src, dst))
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
