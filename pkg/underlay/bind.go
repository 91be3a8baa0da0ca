package underlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// Bind says which of this machine's ways connections take. The zero value leaves it
// to the routes. The names of servers and proxies are asked for as ever: the system's
// resolver takes its own ways.
type Bind struct {
	Address   netip.Addr // to connect from
	Interface string     // to connect by, whatever the routes of others say; Linux
	Mark      uint32     // fwmark on every packet, for rules of routing and firewalls; Linux
}

// Check reports what this process may not do, so that a program need not try for
// ever. An interface or address that is not there yet is no error: it may come.
func (b Bind) Check() error {
	if err := b.check(); errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// control sets a socket up before it connects.
func (d *Dialer) control(network, address string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = d.Bind.apply(int(fd)) }); e != nil {
		return e
	}
	return err
}

// controlTCP is control for a connection that is to carry the tunnel.
func (d *Dialer) controlTCP(network, address string, c syscall.RawConn) error {
	if err := d.control(network, address, c); err != nil {
		return err
	}
	return tune(network, address, c)
}

// reachable leaves the addresses that can be connected to from the one we are bound to.
func (b Bind) reachable(host string, addrs []netip.Addr) ([]netip.Addr, error) {
	if !b.Address.IsValid() {
		return addrs, nil
	}
	same := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.Is4() != b.Address.Is4() })
	if len(same) == 0 {
		family := "IPv6"
		if b.Address.Is4() {
			family = "IPv4"
		}
		return nil, fmt.Errorf("%s has no %s address, which it takes to connect from %v", host, family, b.Address)
	}
	return same, nil
}

// Dial connects to the first of addrs that answers, for purposes other than the tunnel:
// a connection of its own that leaves the machine as b says. The network is tcp or udp,
// or either with a 4 or 6.
func (b Bind) Dial(ctx context.Context, network string, addrs []netip.Addr, port uint16) (net.Conn, error) {
	addrs, err := b.reachable("the target", addrs)
	if err != nil {
		return nil, err
	}
	d := &Dialer{Bind: b}
	d.connect = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{Control: d.control, LocalAddr: b.local(strings.TrimRight(network, "46"))}).DialContext(ctx, network, address)
		return conn, b.explain(err)
	}
	list, err := candidates([]Carrier{{Network: network}}, "the target", addrs, port)
	if err != nil {
		return nil, err
	}
	return d.race(ctx, list)
}

// ListenPacket opens a UDP socket on a port of its own, whose datagrams leave the machine
// as b says. The network is udp4 or udp6.
func (b Bind) ListenPacket(ctx context.Context, network string) (net.PacketConn, error) {
	d := &Dialer{Bind: b}
	at := ":0"
	if b.Address.IsValid() {
		if b.Address.Is4() != (network == "udp4") {
			return nil, fmt.Errorf("%s cannot leave from %v, the address to connect from (%w)", network, b.Address, syscall.EAFNOSUPPORT)
		}
		at = netip.AddrPortFrom(b.Address, 0).String()
	}
	c, err := (&net.ListenConfig{Control: d.control}).ListenPacket(ctx, network, at)
	return c, b.explain(err)
}

// ListenUDP opens a UDP socket on a port, 0 meaning any, for datagrams to the server at
// that address, by the way that the tunnel takes too. Unless it is bound to an address,
// it goes on when that of this machine changes.
func (d *Dialer) ListenUDP(ctx context.Context, server netip.Addr, port uint16) (net.PacketConn, error) {
	if _, err := d.Bind.reachable("the server", []netip.Addr{server}); err != nil {
		return nil, err
	}
	network, at := "udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	if server.Is6() {
		network, at = "udp6", netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	}
	if d.Bind.Address.IsValid() {
		at = netip.AddrPortFrom(d.Bind.Address, port)
	}
	if d.Protect != nil {
		if err := d.Protect(ctx, []netip.Addr{server}); err != nil {
			return nil, err
		}
	}
	c, err := (&net.ListenConfig{Control: d.control}).ListenPacket(ctx, network, at.String())
	return c, d.Bind.explain(err)
}

// explain says what an error of connecting means for what we are bound to.
func (b Bind) explain(err error) error {
	if b.Address.IsValid() && errors.Is(err, syscall.EADDRNOTAVAIL) {
		return fmt.Errorf("no interface of this machine has the address %v to connect from (%w)", b.Address, err)
	}
	return err
}

// local is the address for a net.Dialer; nil means any.
func (b Bind) local(network string) net.Addr {
	if !b.Address.IsValid() {
		return nil
	}
	from := netip.AddrPortFrom(b.Address, 0)
	switch network {
	case "udp":
		return net.UDPAddrFromAddrPort(from)
	case "ip4:icmp":
		return &net.IPAddr{IP: b.Address.AsSlice()}
	}
	return net.TCPAddrFromAddrPort(from)
}
