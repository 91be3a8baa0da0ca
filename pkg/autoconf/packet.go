package autoconf

import (
	"encoding/binary"
	"net/netip"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
)

const (
	ipLen   = inet.IPv6Len
	udpLen  = inet.UDPLen
	icmpLen = 4

	protoUDP  = inet.ProtoUDP
	protoICMP = inet.ProtoICMPv6

	serverPort = 547
	clientPort = 546

	routerSolicitation    = 133
	routerAdvertisement   = 134
	neighborSolicitation  = 135
	neighborAdvertisement = 136
)

// A mac is an Ethernet address that can be compared.
type mac [6]byte

var (
	unspecified = netip.IPv6Unspecified()
	allNodes    = netip.MustParseAddr("ff02::1")
	allRouters  = netip.MustParseAddr("ff02::2")
	allServers  = netip.MustParseAddr("ff02::1:2") // DHCPv6's servers and relays on the link
)

// A packet is an IPv6 packet in a frame.
type packet struct {
	srcMAC   mac
	src, dst netip.Addr
	next     byte // what payload is
	hops     byte
	payload  []byte // a view of the frame
}

// parse returns the IPv6 packet in f, which may be anything. What follows it is padding.
func parse(f []byte) (p packet, ok bool) {
	if len(f) < frame.HeaderLen || frame.EtherType(f) != frame.TypeIPv6 {
		return p, false
	}
	ip, ok := inet.ParseIPv6(frame.Payload(f))
	if !ok {
		return p, false
	}
	return packet{srcMAC: mac(frame.Src(f)), src: ip.Src(), dst: ip.Dst(), next: ip.Next(), hops: ip.Hops(), payload: ip.Payload()}, true
}

// ndp returns the body of a neighbour discovery message, after its checksum. It is false
// for what came from beyond the link or was changed on the way (RFC 4861 section 6.1).
func (p packet) ndp() (kind byte, body []byte, ok bool) {
	if p.next != protoICMP || p.hops != 255 || len(p.payload) < icmpLen || p.payload[1] != 0 {
		return 0, nil, false
	}
	if addresses := p.addresses(); !inet.Summed(p.payload, addresses[:], protoICMP) {
		return 0, nil, false
	}
	return p.payload[0], p.payload[icmpLen:], true
}

// dhcp returns a message to the port of DHCPv6 clients.
func (p packet) dhcp() (message []byte, ok bool) {
	if p.next != protoUDP || len(p.payload) < udpLen || binary.BigEndian.Uint16(p.payload[2:]) != clientPort {
		return nil, false
	}
	addresses := p.addresses()
	if int(binary.BigEndian.Uint16(p.payload[4:])) != len(p.payload) || !inet.UDPSummed(p.payload, addresses[:]) {
		return nil, false
	}
	return p.payload[udpLen:], true
}

// addresses are as in the header, where the pseudo header takes them from.
func (p packet) addresses() (b [32]byte) {
	src, dst := p.src.As16(), p.dst.As16()
	copy(b[:16], src[:])
	copy(b[16:], dst[:])
	return b
}

// encode returns p as a frame to a station. at is where in the payload the checksum goes.
func (p packet) encode(to mac, at int) []byte {
	f := make([]byte, frame.HeaderLen+ipLen+len(p.payload))
	frame.PutHeader(f, to[:], p.srcMAC[:], frame.TypeIPv6)
	ip := inet.IPv6(frame.Payload(f))
	inet.PutIPv6(ip, p.next, p.hops, p.src.As16(), p.dst.As16())
	body := ip.Payload()
	copy(body, p.payload)
	sum := inet.Pseudo(ip.Addresses(), p.next, len(body)) + inet.Sum(body)
	binary.BigEndian.PutUint16(body[at:], inet.TransportChecksum(sum))
	return f
}

// icmpFrame returns a neighbour discovery message as a frame.
func icmpFrame(from, to mac, src, dst netip.Addr, message []byte) []byte {
	p := packet{srcMAC: from, src: src, dst: dst, next: protoICMP, hops: 255, payload: message}
	return p.encode(to, 2)
}

// solicitRouters asks routers to speak up. Who has no address yet tells none.
func solicitRouters(from mac, src netip.Addr) []byte {
	m := []byte{routerSolicitation, 0, 0, 0, 0, 0, 0, 0}
	if src != unspecified {
		m = append(m, 1, 1)
		m = append(m, from[:]...)
	}
	return icmpFrame(from, inet.GroupMAC(allRouters), src, allRouters, m)
}

// probe asks whether anybody has addr, without claiming an address of its own (RFC 4862
// section 5.4.2).
func probe(from mac, addr netip.Addr) []byte {
	target, group := addr.As16(), inet.SolicitedNode(addr)
	m := append([]byte{neighborSolicitation, 0, 0, 0, 0, 0, 0, 0}, target[:]...)
	return icmpFrame(from, inet.GroupMAC(group), unspecified, group, m)
}

// advertise tells to whom it asked that addr is ours.
func advertise(from mac, addr netip.Addr, to mac, dst netip.Addr) []byte {
	const solicited, override = 0x40, 0x20
	target := addr.As16()
	m := append([]byte{neighborAdvertisement, 0, 0, 0, solicited | override, 0, 0, 0}, target[:]...)
	m = append(m, 2, 1)
	m = append(m, from[:]...)
	return icmpFrame(from, to, addr, dst, m)
}

// toServers returns a DHCPv6 message as a frame.
func toServers(from mac, src netip.Addr, message []byte) []byte {
	udp := make([]byte, udpLen, udpLen+len(message))
	binary.BigEndian.PutUint16(udp[0:], clientPort)
	binary.BigEndian.PutUint16(udp[2:], serverPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(udpLen+len(message)))
	p := packet{srcMAC: from, src: src, dst: allServers, next: protoUDP, hops: 64, payload: append(udp, message...)}
	return p.encode(inet.GroupMAC(allServers), 6)
}
