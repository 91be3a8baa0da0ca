package proxy

import (
	"encoding/binary"
	"net/netip"

	"github.com/things-go/go-socks5/statute"
)

// The header of a datagram between a client and the relay, RFC 1928 section 7: two bytes
// reserved, the number of a fragment, and an address. It is taken apart and put together
// here, as the codec allocates.
const (
	headerFixed = 4                    // before the address
	headerIPv4  = headerFixed + 4 + 2  // of a datagram from or to an IPv4 address
	headerIPv6  = headerFixed + 16 + 2 // from or to an IPv6 address
)

// A datagram is one that a client sent. Its slices are views.
type datagram struct {
	fragment byte
	to       netip.AddrPort // without an address if there is a name
	name     []byte
	data     []byte
}

// parseDatagram takes apart what a client sent. It reports false for what is cut short or
// has an address of another kind.
func parseDatagram(b []byte) (d datagram, ok bool) {
	if len(b) < headerFixed {
		return d, false
	}
	d.fragment = b[2]
	var addr netip.Addr
	rest := b[headerFixed:]
	switch b[3] {
	case statute.ATYPIPv4:
		if len(rest) < 4+2 {
			return d, false
		}
		addr, rest = netip.AddrFrom4([4]byte(rest)), rest[4:]
	case statute.ATYPIPv6:
		if len(rest) < 16+2 {
			return d, false
		}
		addr, rest = netip.AddrFrom16([16]byte(rest)).Unmap(), rest[16:]
	case statute.ATYPDomain:
		if len(rest) < 1 || len(rest) < 1+int(rest[0])+2 {
			return d, false
		}
		end := 1 + int(rest[0])
		d.name, rest = rest[1:end], rest[end:]
	default:
		return d, false
	}
	d.to = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(rest))
	d.data = rest[2:]
	return d, true
}

// putHeader writes the header of a datagram from an address just before b[at:] and
// returns where it begins. There are headerIPv6 bytes before at.
func putHeader(b []byte, at int, from netip.AddrPort) int {
	addr := from.Addr().Unmap()
	begin := at - headerIPv6
	kind := statute.ATYPIPv6
	if addr.Is4() {
		begin, kind = at-headerIPv4, statute.ATYPIPv4
	}
	head := b[begin:at]
	head[0], head[1], head[2], head[3] = 0, 0, 0, kind
	if addr.Is4() {
		a := addr.As4()
		copy(head[headerFixed:], a[:])
	} else {
		a := addr.As16()
		copy(head[headerFixed:], a[:])
	}
	binary.BigEndian.PutUint16(b[at-2:], from.Port())
	return begin
}
