package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/config"
	"softether-go/pkg/dnsproxy"
	"softether-go/pkg/forward"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/stats"
	"softether-go/pkg/vpn"
)

// forwards are the ports that lead into the VPN and out of it, and the DNS listeners.
type forwards []forwarded

type forwarded struct {
	name, text string // in counters: the kind, and what the flag was given
	service
	stats func() any
	here  []net.Addr // where it listens on this machine
}

// service is what forwards and DNS listeners have in common.
type service interface {
	Serve(context.Context) error
	Shutdown(context.Context) error
	Close()
}

// openForwards binds all ports or none. DNS questions that are beside's are answered by it,
// if it is not nil.
func openForwards(ctx context.Context, c config.Forwards, tunnel *vpn.Tunnel, beside dnsproxy.Beside, log *slog.Logger) (all forwards, err error) {
	defer func() {
		if err != nil {
			all.close()
			all = nil
		}
	}()
	add := func(flag string, text fmt.Stringer, f config.Forward, from forward.Listener, to forward.Dialer) error {
		fw, err := forward.Open(forward.Config{Network: f.Network, From: from, Listen: f.Listen, To: to, Target: f.Target,
			ProxyHeader: f.ProxyHeader, Name: "-" + flag + " " + text.String(), Log: log})
		if err != nil {
			return fmt.Errorf("-%s: %w", flag, err)
		}
		log.Info("forward", "from", f.Network+" "+fw.Addr().String(), "to", f.Target, "into_vpn", flag == "L")
		name := map[string]string{"L": "forward", "R": "reverse"}[flag]
		opened := forwarded{name, text.String(), fw, func() any { return fw.Stats() }, nil}
		if flag == "L" {
			opened.here = []net.Addr{fw.Addr()}
		}
		all = append(all, opened)
		return nil
	}
	for _, f := range c.Local {
		if err := add("L", f, f.Forward, forward.Host{}, intoVPN{tunnel}); err != nil {
			return all, err
		}
	}
	for _, f := range c.Remote {
		if err := add("R", f, f.Forward, tunnel, forward.Host{}); err != nil {
			return all, err
		}
	}
	for _, at := range c.DNS {
		s, err := dnsproxy.Open(ctx, dnsproxy.Config{Upstream: nameServers{tunnel}, Beside: beside, Listen: at.AddrPort, Log: log})
		if err != nil {
			return all, fmt.Errorf("-dns-listen: %w", err)
		}
		log.Info("answering DNS", "listen", s.Addr())
		here := []net.Addr{net.TCPAddrFromAddrPort(s.Addr()), net.UDPAddrFromAddrPort(s.Addr())}
		all = append(all, forwarded{"dns", at.String(), s, func() any { return s.Stats() }, here})
	}
	return all, nil
}

// nameServers are those of the lease, or of -dns.
type nameServers struct{ *vpn.Tunnel }

func (n nameServers) NameServers() (servers, own []netip.Addr) {
	a := n.Address()
	return a.DNS.Servers, addressesOf(a)
}

// addressesOf lists our addresses in the VPN.
func addressesOf(a netcfg.Config) (own []netip.Addr) {
	if a.Address.IsValid() {
		own = append(own, a.Address.Addr())
	}
	for _, x := range a.IPv6.Addresses {
		own = append(own, x.Addr)
	}
	return own
}

// intoVPN dials in the VPN, but not ourselves there: what -R would bring back to a port of
// -L goes round until there are no more connections.
type intoVPN struct{ *vpn.Tunnel }

func (v intoVPN) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return v.DialPermitted(ctx, network, address, func(to netip.AddrPort) error {
		if slices.Contains(addressesOf(v.Address()), to.Addr()) {
			return fmt.Errorf("%v is our own address in the VPN, which leads back to this machine", to.Addr())
		}
		return nil
	})
}

// serve serves all until ctx ends, or one fails.
func (all forwards) serve(ctx context.Context) error {
	serve := make([]func(context.Context) error, 0, len(all))
	for _, f := range all {
		serve = append(serve, f.Serve)
	}
	return serveAll(ctx, serve)
}

// shutdown takes no more clients and ends those there are, after a while.
func (all forwards) shutdown(wait time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	var g errgroup.Group
	for _, f := range all {
		g.Go(func() error { return f.Shutdown(ctx) })
	}
	_ = g.Wait() // ctx has ended or all have; both are what we want
	all.close()
}

func (all forwards) close() {
	for _, f := range all {
		f.Close()
	}
}

func (all forwards) counters() (sections []stats.Section) {
	for _, f := range all {
		sections = append(sections, stats.Section{Name: f.name, Of: f.text, Counts: f.stats()})
	}
	return sections
}
