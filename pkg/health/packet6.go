package health

import (
	"encoding/binary"
	"net/netip"

	"softether-go/pkg/frame"
)

const (
	ipv6Len = 40 // of a header without extensions

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
	f := make([]byte, frame.HeaderLen+ipv6Len, frame.HeaderLen+ipv6Len+len(payload))
	frame.PutHeader(f, hop[:], m.cfg.MAC, frame.TypeIPv6)
	p := frame.Payload(f)
	p[0], p[6], p[7] = 0x60, proto, linkHops
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	from, to := src.As16(), dst.As16()
	copy(p[8:], from[:])
	copy(p[24:], to[:])
	return append(f, payload...)
}

// ipv6 takes a whole packet without extension headers apart.
func ipv6(f []byte) (src netip.Addr, proto, hops byte, payload []byte, ok bool) {
	p := frame.Payload(f)
	if frame.EtherType(f) != frame.TypeIPv6 || len(p) < ipv6Len || p[0]>>4 != 6 {
		return src, 0, 0, nil, false
	}
	total := ipv6Len + int(binary.BigEndian.Uint16(p[4:]))
	if total > len(p) {
		return src, 0, 0, nil, false
	}
	return netip.AddrFrom16([16]byte(p[8:24])), p[6], p[7], p[ipv6Len:total], true
}

// solicitation asks who has an address (RFC 4861, 4.3).
func (m *Monitor) solicitation(own, addr netip.Addr) []byte {
	b := addr.As16()
	group := [16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]} // RFC 4291, 2.7.1
	station := mac{0x33, 0x33, 0xff, b[13], b[14], b[15]}                                 // RFC 2464, 7
	dst := netip.AddrFrom16(group)
	p := append([]byte{neighborSolicitation, 0, 0, 0, 0, 0, 0, 0}, b[:]...)
	p = append(append(p, sourceStation, 1), m.cfg.MAC...)
	binary.BigEndian.PutUint16(p[2:], checksum(pseudoHeader(own, dst, icmp6.proto, len(p)), p))
	return m.packet6(own, dst, station, icmp6.proto, p)
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
