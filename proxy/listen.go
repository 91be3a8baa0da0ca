package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"softether-go/pkg/binding"
)

// Exposure says from where a proxy may be reached when it asks no password.
type Exposure uint8

const (
	// LoopbackOnly is for this machine's own programs.
	LoopbackOnly Exposure = iota
	// AllowOpen is for everyone who reaches the address.
	AllowOpen
)

// ErrOpen means that a listener would have let strangers use the tunnel.
var ErrOpen = errors.New("anyone who reaches this address could use the VPN: " +
	"set a proxy user and password, listen on 127.0.0.1, or allow it with -proxy-open")

// Listen listens on a TCP address, host:port, for a proxy that asks for auth. 0.0.0.0 is all
// addresses of IPv4, and [::] or no host those of both families. An
// address beyond loopback needs auth or AllowOpen, otherwise the error is
// ErrOpen. An error is one line that says what to do.
func Listen(ctx context.Context, addr string, auth Auth, exposure Exposure) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: give an address and a port, such as 127.0.0.1:1080", addr)
	}
	if host == "localhost" {
		// Not looked up: a resolver may say otherwise.
		host = "127.0.0.1"
	}
	if auth == nil && exposure != AllowOpen {
		if err := checkLoopback(ctx, host); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
	}
	var lc net.ListenConfig
	at := net.JoinHostPort(host, port)
	ln, err := lc.Listen(ctx, binding.Network("tcp", at), at)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, binding.Explain(err))
	}
	return ln, nil
}

// Admit returns an error for a listener that would let strangers use the tunnel, as Listen
// does: for those that somebody else has opened.
func Admit(ln net.Listener, auth Auth, exposure Exposure) error {
	a, ok := ln.Addr().(*net.TCPAddr)
	if auth != nil || exposure == AllowOpen || !ok || a.IP.IsLoopback() {
		return nil
	}
	return fmt.Errorf("listen on %s: %w", a, ErrOpen)
}

// checkLoopback returns nil if host is nothing but loopback addresses. An empty
// host is all addresses.
func checkLoopback(ctx context.Context, host string) error {
	if host == "" {
		return ErrOpen
	}
	addrs := make([]netip.Addr, 1)
	var err error
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		// The name of a listening address is this machine's own business, so
		// it is the one name the host's resolver may see.
		if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
			return err
		}
	}
	for _, a := range addrs {
		if !a.Unmap().IsLoopback() {
			return ErrOpen
		}
	}
	return nil
}
