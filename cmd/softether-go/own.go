package main

import (
	"net"
	"net/netip"

	"softether-go/pkg/binding"
)

// ownPorts are those of this machine at which the program listens, so that clients of the
// proxies are not led to them: neither in circles, nor to what is for others. All are there
// before anybody is served.
type ownPorts struct{ all []ownPort }

type ownPort struct {
	network string
	at      netip.AddrPort
}

// addAll notes all listeners of a program.
func (o *ownPorts) addAll(p *program) {
	for _, s := range p.proxies.servers {
		o.add(s.ln.Addr())
	}
	for _, f := range p.forwards {
		o.add(f.here...)
	}
	for _, ln := range p.health.listeners {
		o.add(ln.Addr())
	}
}

// add notes where something listens. Unix sockets are no matter of addresses.
func (o *ownPorts) add(addrs ...net.Addr) {
	for _, a := range addrs {
		switch a := a.(type) {
		case *net.TCPAddr:
			o.all = append(o.all, ownPort{"tcp", plainAddrPort(a.AddrPort())})
		case *net.UDPAddr:
			o.all = append(o.all, ownPort{"udp", plainAddrPort(a.AddrPort())})
		}
	}
}

func plainAddrPort(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// has reports whether a port is one of them, at an address that it has been opened at: one
// of all is at each address of the machine.
func (o *ownPorts) has(network string, to netip.AddrPort) bool {
	to = plainAddrPort(to)
	for _, p := range o.all {
		if p.network != network || p.at.Port() != to.Port() {
			continue
		}
		if p.at.Addr() == to.Addr() {
			return true
		}
		if _, ours := binding.OwnNetwork(to.Addr()); ours && p.at.Addr().IsUnspecified() && (p.at.Addr().Is6() || to.Addr().Is4()) {
			return true
		}
	}
	return false
}
