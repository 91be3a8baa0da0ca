package inet

import (
	"encoding/binary"
	"net/netip"
)

const (
	ARPLen     = 28
	ARPRequest = 1
	ARPReply   = 2
)

// An ARP is a message about IPv4 on Ethernet (RFC 826).
type ARP struct {
	Op             uint16
	FromMAC, ToMAC [6]byte // of a question the latter is zero: it is what is asked for
	From, To       netip.Addr
}

// arpStart is how all of these begin: the kinds and lengths of both addresses.
var arpStart = [6]byte{0, 1, 0x08, 0x00, 6, 4}

// ParseARP reads the message that b begins with; what follows it is padding.
func ParseARP(b []byte) (a ARP, ok bool) {
	if len(b) < ARPLen || [6]byte(b) != arpStart {
		return a, false
	}
	return ARP{
		Op:      binary.BigEndian.Uint16(b[6:]),
		FromMAC: [6]byte(b[8:]), From: netip.AddrFrom4([4]byte(b[14:])),
		ToMAC: [6]byte(b[18:]), To: netip.AddrFrom4([4]byte(b[24:])),
	}, true
}

// Put writes the message into b, which has ARPLen bytes.
func (a ARP) Put(b []byte) {
	from, to := a.From.As4(), a.To.As4()
	copy(b, arpStart[:])
	binary.BigEndian.PutUint16(b[6:], a.Op)
	copy(b[8:], a.FromMAC[:])
	copy(b[14:], from[:])
	copy(b[18:], a.ToMAC[:])
	copy(b[24:], to[:])
}
