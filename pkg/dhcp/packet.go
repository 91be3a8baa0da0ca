package dhcp

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"softether-go/pkg/frame"
)

const (
	ipHeaderLen  = 20
	udpHeaderLen = 8
	arpLen       = 28
	protoUDP     = 17
	serverPort   = 67
	clientPort   = 68
)

// A mac is an Ethernet address that can be compared.
type mac [6]byte

var broadcastMAC = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

var broadcastIP = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// A path is between whom a datagram travels.
type path struct {
	srcMAC, dstMAC mac
	src, dst       netip.Addr // IPv4
}

// A datagram is a UDP datagram to the client port inside a frame.
type datagram struct {
	path
	payload []byte // a view of the frame
}

// maybeReply is the cheap look at a frame that decides whether to parse it.
// It costs every inbound frame a few compares. f may have any length.
func maybeReply(f []byte) bool {
	if len(f) < frame.HeaderLen+ipHeaderLen+udpHeaderLen {
		return false
	}
	if frame.EtherType(f) != frame.TypeIPv4 || f[frame.HeaderLen+9] != protoUDP {
		return false
	}
	port := frame.HeaderLen + headerLen(f[frame.HeaderLen]) + 2
	return len(f) >= port+2 && binary.BigEndian.Uint16(f[port:]) == clientPort
}

func headerLen(versionIHL byte) int { return int(versionIHL&0x0f) * 4 }

// parseDatagram returns the UDP datagram to the client port in f. It is false for
// everything else: other types (VLAN tags included), fragments, wrong lengths,
// wrong checksums. What follows the IP packet in the frame is padding.
func parseDatagram(f []byte) (d datagram, ok bool) {
	if !maybeReply(f) {
		return d, false
	}
	ip := frame.Payload(f)
	header, total := headerLen(ip[0]), int(binary.BigEndian.Uint16(ip[2:]))
	if ip[0]>>4 != 4 || header < ipHeaderLen || total < header+udpHeaderLen || total > len(ip) {
		return d, false
	}
	const moreFragmentsOrOffset = 0x3fff
	if binary.BigEndian.Uint16(ip[6:])&moreFragmentsOrOffset != 0 || fold(onesSum(0, ip[:header])) != 0xffff {
		return d, false
	}
	udp := ip[header:total]
	n := int(binary.BigEndian.Uint16(udp[4:]))
	if n < udpHeaderLen || n > len(udp) || !checksumFits(ip[12:20], udp[:n]) {
		return d, false
	}
	d.dstMAC, d.srcMAC = mac(frame.Dst(f)), mac(frame.Src(f))
	d.src = netip.AddrFrom4([4]byte(ip[12:16]))
	d.dst = netip.AddrFrom4([4]byte(ip[16:20]))
	d.payload = udp[udpHeaderLen:n]
	return d, true
}

// checksumFits reports whether the checksum of udp is right or absent. A sum over
// the pseudo header alone is let pass too: so a Linux kernel leaves it for the
// network card to finish, and so it stays when server and bridge share a host.
func checksumFits(addrs, udp []byte) bool {
	pseudo := onesSum(protoUDP+uint32(len(udp)), addrs)
	got := binary.BigEndian.Uint16(udp[6:])
	return got == 0 || got == fold(pseudo) || fold(onesSum(pseudo, udp)) == 0xffff
}

// appendDatagram appends a frame with a UDP datagram from the client port to the
// server port. The payload is one DHCP message, far below the 16-bit limits.
func appendDatagram(b []byte, p path, payload []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, frame.HeaderLen+ipHeaderLen+udpHeaderLen)...)
	b = append(b, payload...)
	f := b[start:]
	frame.PutHeader(f, p.dstMAC[:], p.srcMAC[:], frame.TypeIPv4)

	ip := frame.Payload(f)
	src, dst := p.src.As4(), p.dst.As4()
	ip[0] = 4<<4 | ipHeaderLen/4
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[6] = 0x40 // do not fragment, so the identification may stay zero (RFC 6864)
	ip[8] = 64
	ip[9] = protoUDP
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(onesSum(0, ip[:ipHeaderLen])))

	udp := ip[ipHeaderLen:]
	binary.BigEndian.PutUint16(udp[0:], clientPort)
	binary.BigEndian.PutUint16(udp[2:], serverPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	sum := ^fold(onesSum(onesSum(protoUDP+uint32(len(udp)), ip[12:20]), udp))
	if sum == 0 {
		sum = 0xffff // zero would mean that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return b
}

// onesSum adds the 16-bit words of b to sum. The largest frame adds less than
// 2^26, so it does not overflow.
func onesSum(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// arpEthernetIPv4 is how every ARP packet for IPv4 on Ethernet begins: hardware
// type, protocol type and the lengths of both addresses (RFC 826).
var arpEthernetIPv4 = []byte{0, 1, 0x08, 0x00, 6, 4}

// arpProbe returns the frame that asks whether anybody has addr, without
// claiming an address of its own (RFC 5227 §2.1.1).
func arpProbe(from mac, addr netip.Addr) []byte {
	f := make([]byte, frame.HeaderLen+arpLen)
	frame.PutHeader(f, broadcastMAC[:], from[:], frame.TypeARP)
	arp, target := frame.Payload(f), addr.As4()
	copy(arp, arpEthernetIPv4)
	arp[7] = 1 // request
	copy(arp[8:14], from[:])
	copy(arp[24:28], target[:])
	return f
}

// arpSender returns who says in f that an address is theirs. Both requests and
// answers say so.
func arpSender(f []byte) (who mac, addr netip.Addr, ok bool) {
	if len(f) < frame.HeaderLen+arpLen || frame.EtherType(f) != frame.TypeARP {
		return who, addr, false
	}
	arp := frame.Payload(f)
	if !bytes.HasPrefix(arp, arpEthernetIPv4) {
		return who, addr, false
	}
	return mac(arp[8:14]), netip.AddrFrom4([4]byte(arp[14:18])), true
}
