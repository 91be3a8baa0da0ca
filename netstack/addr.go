package netstack

import (
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// toAddress converts a; the zero Addr becomes the empty address, meaning any.
func toAddress(a netip.Addr) tcpip.Address {
	if !a.IsValid() || a.IsUnspecified() {
		return tcpip.Address{}
	}
	if a = a.Unmap(); a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

// toSubnet converts p, which is valid, with its host bits cleared.
func toSubnet(p netip.Prefix) tcpip.Subnet {
	p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()).Masked()
	return tcpip.AddressWithPrefix{
		Address:   tcpip.AddrFromSlice(p.Addr().AsSlice()),
		PrefixLen: p.Bits(),
	}.Subnet()
}

// toFull converts ap. A limited broadcast has no route, so it names the interface.
func toFull(ap netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{Addr: toAddress(ap.Addr()), Port: ap.Port()}
	if f.Addr == header.IPv4Broadcast || ap.Addr().IsMulticast() || ap.Addr().IsLinkLocalUnicast() {
		f.NIC = nicID
	}
	return f
}

func fromFull(f tcpip.FullAddress) netip.AddrPort {
	a, _ := netip.AddrFromSlice(f.Addr.AsSlice())
	return netip.AddrPortFrom(a, f.Port)
}

// protocolOf returns the network protocol that carries a.
func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Unmap().Is6() {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}

func tcpAddr(f tcpip.FullAddress) *net.TCPAddr { return net.TCPAddrFromAddrPort(fromFull(f)) }
func udpAddr(f tcpip.FullAddress) *net.UDPAddr { return net.UDPAddrFromAddrPort(fromFull(f)) }
