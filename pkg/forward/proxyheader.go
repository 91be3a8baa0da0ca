package forward

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// The header of the PROXY protocol, version 2 (haproxy, doc/proxy-protocol.txt, 2.2).
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyCommand   = 0x21 // version 2, a connection that was proxied
	familyIPv4     = 0x10
	familyIPv6     = 0x20
	// maxProxyHeader is the longest that we write: of two IPv6 addresses and ports.
	maxProxyHeader = len(proxySignature) + 4 + 2*(16+2)
)

// What is proxied, as the header says it.
const (
	stream    = 1
	datagrams = 2
)

// appendProxyHeader appends the header of what came from src to dst. Clients without an
// address, as those of Unix sockets, are not specified.
func appendProxyHeader(b []byte, transport byte, src, dst net.Addr) []byte {
	return appendProxyPorts(b, transport, addrPort(src), addrPort(dst))
}

func appendProxyPorts(b []byte, transport byte, src, dst netip.AddrPort) []byte {
	b = append(append(b, proxySignature...), proxyCommand)
	s, d := src.Addr().Unmap(), dst.Addr().Unmap()
	if d.IsUnspecified() && s.Is4() { // the system has not told which
		d = netip.IPv4Unspecified()
	}
	switch {
	case !s.IsValid() || !d.IsValid():
		return append(b, 0, 0, 0)
	case s.Is4() && d.Is4():
		b = append(b, familyIPv4|transport, 0, 2*(4+2))
		b = append(append(b, s.AsSlice()...), d.AsSlice()...)
	default: // one of the two may be IPv4
		s16, d16 := s.As16(), d.As16()
		b = append(b, familyIPv6|transport, 0, 2*(16+2))
		b = append(append(b, s16[:]...), d16[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	return binary.BigEndian.AppendUint16(b, dst.Port())
}

// addrPort returns the address and port of a, or nothing valid.
func addrPort(a net.Addr) netip.AddrPort {
	if p, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return p.AddrPort()
	}
	return netip.AddrPort{}
}
