package main

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"softether-go/pkg/netcfg"
	"softether-go/pkg/vpn"
)

// sockets are what SOCKS clients can have in the tunnel beside connections that they dial.
// They are of the tunnel alone: a listener is known to peers by its address, and a socket
// for datagrams by the one address and port that all peers there see. What goes beside the
// tunnel has sockets of its own.
type sockets struct{ *vpn.Tunnel }

// Listen listens on the tunnel's own address of a family, so that it can be told to peers.
func (s sockets) Listen(_ context.Context, network, address string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	own, err := ownOf(s.Address(), network)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	return s.Tunnel.Listen(network, net.JoinHostPort(own.String(), port))
}

// ownOf returns the address of the family that a network names among those there are now.
func ownOf(now netcfg.Config, network string) (netip.Addr, error) {
	switch {
	case !now.Address.IsValid() && !now.IPv6.Usable():
		return netip.Addr{}, syscall.ENETUNREACH // no lease yet
	case network != "tcp6" && now.Address.IsValid():
		return now.Address.Addr(), nil
	case network == "tcp6":
		for _, a := range now.IPv6.Addresses {
			if !a.Addr.IsLinkLocalUnicast() && !a.Deprecated {
				return a.Addr, nil
			}
		}
	}
	return netip.Addr{}, syscall.EAFNOSUPPORT
}

// ListenPacket opens a socket for datagrams from and to everybody, by IPv4 and IPv6.
func (s sockets) ListenPacket(_ context.Context, network, address string) (net.PacketConn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return s.Tunnel.ListenPacket(network, net.JoinHostPort("::", port))
}
