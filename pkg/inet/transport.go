package inet

import "encoding/binary"

// Pseudo returns the sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1)
// of n bytes. The addresses are those of an IPv4 or IPv6 header, the source's first.
func Pseudo(addresses []byte, proto byte, n int) uint64 {
	return Sum(addresses) + uint64(proto) + uint64(n)
}

// Summed reports whether the checksum in b, which covers a pseudo header too, is right.
func Summed(b, addresses []byte, proto byte) bool {
	return Fold(Pseudo(addresses, proto, len(b))+Sum(b)) == 0xffff
}

// UDPSummed reports whether the checksum of a datagram is right, or is that of the pseudo
// header alone: so a Linux kernel leaves it for the network card to finish, and so it
// stays when both ends share a host. A zero, with which IPv4 says that there is none, is
// the caller's to see.
func UDPSummed(b, addresses []byte) bool {
	return binary.BigEndian.Uint16(b[6:]) == Fold(Pseudo(addresses, ProtoUDP, len(b))) || Summed(b, addresses, ProtoUDP)
}

// TransportChecksum completes a sum. It is never zero, which to UDP says that there is
// none (RFC 768); to others its equal is as good.
func TransportChecksum(sum uint64) uint16 {
	if c := ^Fold(sum); c != 0 {
		return c
	}
	return 0xffff
}

// PutUDP writes the header of the datagram that is all of b.
func PutUDP(b []byte, from, to uint16, addresses []byte) {
	binary.BigEndian.PutUint16(b[0:], from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	b[6], b[7] = 0, 0
	binary.BigEndian.PutUint16(b[6:], TransportChecksum(Pseudo(addresses, ProtoUDP, len(b))+Sum(b)))
}
