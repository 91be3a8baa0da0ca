package health

import (
	"encoding/binary"
	"net/netip"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
)

const (
	neighborSolicitation  = 135
	neighborAdvertisement = 136
	sourceStation         = 1 // options of these
	targetStation         = 2
	messageLen            = 24 // of these without options

	// linkHops is the hop limit of what has come from the link: no router lets it through.
	linkHops = 255
)

// packet6 is a frame with an IPv6 packet (RFC 8200).
func (m *Monitor) packet6(src, dst netip.Addr, hop mac, proto byte, payload []byte) []byte {
	f := make([]byte, frame.HeaderLen+inet.IPv6Len+len(payload))
	frame.PutHeader(f, hop[:], m.cfg.MAC, frame.TypeIPv6)
	p := inet.IPv6(frame.Payload(f))
	inet.PutIPv6(p, proto, linkHops, src.As16(), dst.As16())
	copy(p.Payload(), payload)
	return f
}

// ipv6 takes a whole packet without extension headers apart.
func ipv6(f []byte) (src netip.Addr, proto, hops byte, payload []byte, ok bool) {
	if frame.EtherType(f) != frame.TypeIPv6 {
		return src, 0, 0, nil, false
	}
	p, ok := inet.ParseIPv6(frame.Payload(f))
	if !ok {
		return src, 0, 0, nil, false
	}
	return p.Src(), p.Next(), p.Hops(), p.Payload(), true
}

// solicitation asks who has an address (RFC 4861, 4.3).
func (m *Monitor) solicitation(own, addr netip.Addr) []byte {
	b := addr.As16()
	dst := inet.SolicitedNode(addr)
	p := append([]byte{neighborSolicitation, 0, 0, 0, 0, 0, 0, 0}, b[:]...)
	p = append(append(p, sourceStation, 1), m.cfg.MAC...)
	sum := inet.Pseudo(addresses(own, dst), icmp6.proto, len(p)) + inet.Sum(p)
	binary.BigEndian.PutUint16(p[2:], inet.TransportChecksum(sum))
	return m.packet6(own, dst, inet.GroupMAC(dst), icmp6.proto, p)
}

// advertisement takes the station and its address from an answer (RFC 4861, 4.4).
func advertisement(f []byte) (who mac, addr netip.Addr, ok bool) {
	_, proto, hops, p, ok := ipv6(f)
	if !ok || proto != icmp6.proto || hops != linkHops || len(p) < messageLen || p[0] != neighborAdvertisement || p[1] != 0 {
		return who, addr, false
	}
	who, addr = mac(frame.Src(f)), netip.AddrFrom16([16]byte(p[8:messageLen]))
	for o := p[messageLen:]; len(o) >= 8 && o[1] > 0 && int(o[1])*8 <= len(o); o = o[int(o[1])*8:] {
		if o[0] == targetStation {
			who = mac(o[2:8])
		}
	}
	return who, addr, true
}
