package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"

	"softether-go/netstack"
	"softether-go/pkg/addresses"
	"softether-go/pkg/config"
	"softether-go/pkg/frame"
	"softether-go/pkg/hosts"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/share"
	"softether-go/pkg/vpn"
	"softether-go/pkg/wire"
	"softether-go/proxy"
)

// newIsolatedProgram serves proxies whose users are hosts of their own in the hub.
func newIsolatedProgram(ctx context.Context, vc vpn.Config, cfg config.Config, log *slog.Logger) (*program, error) {
	sw, err := share.New(log)
	if err != nil {
		return nil, err
	}
	each := vc
	each.Address.ClientID = nil // which would be the same for all, and so would be the address
	var p *program
	members := hosts.New(hosts.Config{
		Switch: sw, Way: vc.Way, Log: log,
		MAC:  func(name string) net.HardwareAddr { return p.macOf(name, cfg) },
		Plan: func(mac net.HardwareAddr, log *slog.Logger) addresses.Config { return each.Plan(mac, true, log) },
	})
	vc.Session.Bridge = true // else the hub takes us for a single station
	vc.OnWelcome = func(w wire.Welcome) { members.SetPolicy(w.Policy) }
	p = emptyProgram(&vc, cfg)
	end := &manyEnd{Endpoint: sw.Uplink(), sw: sw, members: members, mac: vpn.RandomMAC()}
	p.Line, p.end = vpn.New(vc, end), end
	dial := perUser{members}
	pc := proxy.Config{
		Listener: dial, PacketListener: dial,
		Inside: func() proxy.Inside { return inside(members.Applied(), cfg.Split) },
		Own:    p.own.has, Log: log,
	}
	splitBetween(&pc, cfg.Split, dial, vc.Way.Bind)
	if p.proxies, err = openProxies(ctx, cfg.Proxy, pc); err != nil {
		end.Close()
		return nil, err
	}
	p.proxies.up, p.leave = p.Up(), members.Close
	return p, nil
}

// manyEnd is the near end of the tunnel with several hosts at it.
type manyEnd struct {
	frame.Endpoint
	sw      *share.Switch
	members *hosts.Hosts
	mac     net.HardwareAddr
}

// MAC returns an address that no host has: it is the bridge's.
func (e *manyEnd) MAC() net.HardwareAddr { return e.mac }

// Apply has nothing to do: the bridge has no address.
func (e *manyEnd) Apply(context.Context, netcfg.Config) error { return nil }

// Watch carries frames between the hosts and the tunnel.
func (e *manyEnd) Watch(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- e.sw.Run(ctx) }()
	err := e.members.Run(ctx)
	<-ended
	return err
}

// Close ends all hosts.
func (e *manyEnd) Close() error {
	_ = e.members.Close() // nil
	return e.sw.Close()
}

// macOf returns the station of a user: as the file of users has it, or one that is the same
// on this machine each time, so that leases stay, and another on each machine.
func (p *program) macOf(name string, cfg config.Config) net.HardwareAddr {
	if u := p.proxies.users; u != nil && !strings.Contains(name, "+") {
		if l, ok := u.Find(name); ok && l.MAC() != nil {
			return l.MAC()
		}
	}
	seed := cfg.Address.MAC.String()
	if seed == "" {
		seed = machineID()
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "softether-go host\x00%s\x00%s\x00%s\x00%s\x00%s",
		seed, cfg.Server.Host, cfg.Server.Hub, cfg.Auth.User, name))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = 0x5e // as vpn.RandomMAC has it
	return mac
}

// machineID tells this machine from others, where it can be told.
func machineID() string {
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			return string(b)
		}
	}
	name, _ := os.Hostname() // better than nothing
	return name
}

// perUser dials from the host of the user that a context is for.
type perUser struct{ *hosts.Hosts }

func (u perUser) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return u.DialPermitted(ctx, network, address, nil)
}

func (u perUser) DialPermitted(ctx context.Context, network, address string, permit func(netip.AddrPort) error) (conn net.Conn, err error) {
	err = u.With(ctx, proxy.UserOf(ctx), func(s *netstack.Stack) error {
		conn, err = s.DialPermitted(ctx, network, address, permit)
		return err
	})
	return conn, err
}

func (u perUser) LookupNetIP(ctx context.Context, network, host string) (addrs []netip.Addr, err error) {
	err = u.With(ctx, proxy.UserOf(ctx), func(s *netstack.Stack) error {
		addrs, err = s.LookupNetIP(ctx, network, host)
		return err
	})
	return addrs, err
}

// Listen listens on the host's own address of a family, so that it can be told to peers.
func (u perUser) Listen(ctx context.Context, network, _ string) (ln net.Listener, err error) {
	err = u.With(ctx, proxy.UserOf(ctx), func(s *netstack.Stack) error {
		own, err := ownOf(s.Applied(), network)
		if err != nil {
			return &net.OpError{Op: "listen", Net: network, Err: err}
		}
		ln, err = s.ListenTCP(netip.AddrPortFrom(own, 0))
		return err
	})
	return ln, err
}

func (u perUser) ListenPacket(ctx context.Context, _, _ string) (conn net.PacketConn, err error) {
	err = u.With(ctx, proxy.UserOf(ctx), func(s *netstack.Stack) error {
		conn, err = s.ListenPacket(netip.AddrPortFrom(netip.IPv6Unspecified(), 0))
		return err
	})
	return conn, err
}
