package split

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A Network is somewhere to dial and to look names up. netstack.Stack is one. Both
// methods may be called from several goroutines, and return soon after ctx has ended.
type Network interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// A Switch is both networks as one. It is itself a Network.
type Switch struct {
	Rules  *Rules
	VPN    Network
	Direct Network // a *Host
}

var (
	_ Network = (*Switch)(nil)
	_ Network = (*Host)(nil)
)

// Takes reports whether what goes to a host is direct: by its name, or if that is empty by
// its address.
func (s *Switch) Takes(host string, addr netip.Addr) bool {
	if host == "" {
		return s.Rules.Addr(addr) == Direct
	}
	return s.Decide(host) == Direct
}

// TakesName is Takes for a name.
func (s *Switch) TakesName(name string) bool { return s.Rules.Name(name) == Direct }

// Decide tells which way a host, a name or an IP address, is reached.
func (s *Switch) Decide(host string) Way { return s.Rules.Host(host) }

func (s *Switch) towards(host string) Network {
	if s.Decide(host) == Direct {
		return s.Direct
	}
	return s.VPN
}

// DialContext connects to address, host:port, the way that the rules say.
func (s *Switch) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return s.towards(host).DialContext(ctx, network, address)
}

// DialPermitted is DialContext, but for addresses of which permit returns an error; both
// networks have to know it, or it fails. If that is so of all addresses, the first of those
// errors is the cause of the failure.
func (s *Switch) DialPermitted(ctx context.Context, network, address string, permit func(netip.AddrPort) error) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	d, ok := s.towards(host).(permittedDialer)
	if !ok {
		return nil, refused(host, errors.New("its addresses cannot be checked"))
	}
	return d.DialPermitted(ctx, network, address, permit)
}

// A permittedDialer is a Network that asks before it dials an address.
type permittedDialer interface {
	DialPermitted(ctx context.Context, network, address string, permit func(netip.AddrPort) error) (net.Conn, error)
}

// LookupNetIP resolves host where the rules say. The network is "ip", "ip4" or "ip6".
func (s *Switch) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return s.towards(host).LookupNetIP(ctx, network, host)
}

// LookupPTR is Host's.
func (s *Switch) LookupPTR(ctx context.Context, name string) ([]string, error) {
	h, ok := s.Direct.(*Host)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return h.LookupPTR(ctx, name)
}

// A Host is this machine's own network, for what Rules let out to it.
type Host struct {
	Rules *Rules
	// Dial connects to the first of addrs that answers. The network is that of
	// DialContext. Required.
	Dial func(ctx context.Context, network string, addrs []netip.Addr, port uint16) (net.Conn, error)
	// Lookup asks this machine's resolver for an absolute name; nil means the system's.
	Lookup func(ctx context.Context, network, name string) ([]netip.Addr, error)
	// LookupAddr asks it for the names of an address; nil means the system's.
	LookupAddr func(ctx context.Context, addr string) ([]string, error)
}

// DialContext connects to address, host:port. It refuses, as syscall.EACCES, an address
// that the rules do not let out.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return h.DialPermitted(ctx, network, address, nil)
}

// DialPermitted is DialContext, but for addresses of which permit returns an error. If that
// is so of all, it returns the first of those errors. A nil permit permits all.
func (h *Host) DialPermitted(ctx context.Context, network, address string, permit func(netip.AddrPort) error) (net.Conn, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, &net.AddrError{Err: "port is not a number from 0 to 65535", Addr: address}
	}
	addrs, err := h.LookupNetIP(ctx, "ip"+strings.TrimLeft(network, "tcudp"), host)
	if err != nil {
		return nil, err
	}
	if permit != nil {
		var why error
		addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool {
			err := permit(netip.AddrPortFrom(a, uint16(port)))
			if why == nil {
				why = err
			}
			return err != nil
		})
		if len(addrs) == 0 {
			return nil, why
		}
	}
	return h.Dial(ctx, network, addrs, uint16(port))
}

// LookupNetIP resolves a direct name by this machine's resolver, and leaves out the
// addresses that the rules do not let out; if none is left the error is EACCES. An IP
// address is judged likewise.
func (h *Host) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if h.Rules.Host(host) != Direct {
		return nil, refused(host, errors.New("it is for the VPN"))
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	lookup := h.Lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupNetIP
	}
	all, err := lookup(ctx, network, canonical(host)+".")
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &net.DNSError{Err: "it has no address", Name: host, IsNotFound: true}
	}
	var good []netip.Addr
	var why error
	for _, a := range all {
		if err := h.Rules.Answer(a); err != nil {
			why = err
			continue
		}
		good = append(good, a.Unmap())
	}
	if len(good) == 0 {
		return nil, refused(host, why)
	}
	return good, nil
}

func refused(host string, why error) error {
	return fmt.Errorf("%s beside the tunnel: %w (%w)", host, why, syscall.EACCES)
}
