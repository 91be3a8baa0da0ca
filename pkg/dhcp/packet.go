package dhcp

import (
	"encoding/binary"
	"net/netip"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
)

const (
	serverPort = 67
	clientPort = 68
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
	if len(f) < frame.HeaderLen+inet.IPv4Len+inet.UDPLen {
		return false
	}
	if frame.EtherType(f) != frame.TypeIPv4 || f[frame.HeaderLen+9] != inet.ProtoUDP {
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
	ip, ok := inet.ParseIPv4(frame.Payload(f))
	if !ok || ip.Fragment() || !ip.Summed() || len(ip.Payload()) < inet.UDPLen {
		return d, false
	}
	udp := ip.Payload()
	n := int(binary.BigEndian.Uint16(udp[4:]))
	if n < inet.UDPLen || n > len(udp) || !checksumFits(ip, udp[:n]) {
		return d, false
	}
	d.dstMAC, d.srcMAC = mac(frame.Dst(f)), mac(frame.Src(f))
	d.src, d.dst = ip.Src(), ip.Dst()
	d.payload = udp[inet.UDPLen:n]
	return d, true
}

// checksumFits reports whether the checksum of udp is right, absent, or left for a network
// card to finish.
func checksumFits(ip inet.IPv4, udp []byte) bool {
	return udp[6] == 0 && udp[7] == 0 || inet.UDPSummed(udp, ip.Addresses())
}

// appendDatagram appends a frame with a UDP datagram from the client port to the
// server port. The payload is one DHCP message, far below the 16-bit limits.
func appendDatagram(b []byte, p path, payload []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, frame.HeaderLen+inet.IPv4Len+inet.UDPLen)...)
	b = append(b, payload...)
	f := b[start:]
	frame.PutHeader(f, p.dstMAC[:], p.srcMAC[:], frame.TypeIPv4)
	ip := inet.IPv4(frame.Payload(f))
	ip[6] = 0x40 // do not fragment, so the identification may stay zero (RFC 6864)
	inet.PutIPv4(ip, inet.ProtoUDP, p.src.As4(), p.dst.As4())
	inet.PutUDP(ip.Payload(), clientPort, serverPort, ip.Addresses())
	return b
}

// arpProbe returns the frame that asks whether anybody has addr, without
// claiming an address of its own (RFC 5227 §2.1.1).
func arpProbe(from mac, addr netip.Addr) []byte {
	f := make([]byte, frame.HeaderLen+inet.ARPLen)
	frame.PutHeader(f, broadcastMAC[:], from[:], frame.TypeARP)
	inet.ARP{Op: inet.ARPRequest, FromMAC: from, From: netip.IPv4Unspecified(), To: addr}.Put(frame.Payload(f))
	return f
}

// arpSender returns who says in f that an address is theirs. Both requests and
// answers say so.
func arpSender(f []byte) (who mac, addr netip.Addr, ok bool) {
	if len(f) < frame.HeaderLen || frame.EtherType(f) != frame.TypeARP {
		return who, addr, false
	}
	a, ok := inet.ParseARP(frame.Payload(f))
	return a.FromMAC, a.From, ok
}
