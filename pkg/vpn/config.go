package vpn

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"softether-go/pkg/addresses"
	"softether-go/pkg/autoconf"
	"softether-go/pkg/client"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/health"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/session"
	"softether-go/pkg/underlay"
	"softether-go/pkg/wire"
)

// Config says which VPN to join, and as whom. Session is required, with Hub, User and a
// Host unless there are Servers. Its DialContext, Direct, UDP.Listen and Log are not used.
type Config struct {
	Session session.Config

	Servers []client.Server // in place of Session's Host and Port: each is tried when those before fail
	Fastest bool            // begin with the one that connects first, at each attempt
	// Way connects to the server; nil means directly. New has it keep beside the tunnel
	// what the End wants there.
	Way *underlay.Dialer

	// Refresh, if set, is asked before each attempt for what may have changed since, such as
	// a password that was replaced in its file.
	Refresh func(session.Config) session.Config

	Address Addressing
	MAC     net.HardwareAddr // of a Tunnel; nil means a random one, which gets another lease each time

	ReconnectDelay time.Duration      // base of the delays between attempts; 0 means 5 s
	ReconnectMax   time.Duration      // their limit; 0 means 1 min
	OnWelcome      func(wire.Welcome) // told what the server says of each session, must not block; may be nil
	OnState        func(client.State) // told of each new state, must not block; may be nil
	Probe          health.Target      // whom Health asks; the zero Target is the gateway
	Log            *slog.Logger       // nil discards
}

// Addressing says where addresses come from: from DHCP, unless Static is set. In bridge
// mode (Session.Bridge) there are none.
type Addressing struct {
	Static   netcfg.Config
	NoDHCP   bool       // not either, though Static is not set: IPv6 is enough
	Hostname string     // told to the DHCP server; empty sends none
	ClientID []byte     // for the DHCP server; empty means the MAC address
	DNS      netcfg.DNS // in place of what Static or the lease says of either

	// IPv6 says how an End gets IPv6 beside that, unless it sees to it itself.
	IPv6 IPv6
}

// IPv6 says how an End gets its IPv6 addresses: by routers' advertisements, and by
// DHCPv6 as those say, unless Static is set. The part that we choose is opaque (RFC 7217);
// it is the same each time if Config.MAC is given, or else for the life of the Tunnel.
type IPv6 struct {
	Off     bool
	Static  netip.Prefix
	Gateway netip.Addr // with Static: the router for everything else; may be invalid
}

// Plan says it in the terms of package addresses, for a host with this MAC address that
// sees to IPv6 itself.
func (a Addressing) Plan(mac net.HardwareAddr, log *slog.Logger) addresses.Config {
	if !a.Static.IsZero() || a.NoDHCP {
		return addresses.Config{Static: a.adjust(a.Static), Adjust: a.adjust}
	}
	return addresses.Config{DHCP: &dhcp.Config{MAC: mac, Hostname: a.Hostname, ClientID: a.ClientID, Log: log}, Adjust: a.adjust}
}

// adjust puts what the user says of name servers in place of what there is.
func (a Addressing) adjust(n netcfg.Config) netcfg.Config {
	if len(a.DNS.Servers) > 0 {
		n.DNS.Servers = a.DNS.Servers
	}
	if len(a.DNS.Search) > 0 {
		n.DNS.Search = a.DNS.Search
	}
	return n
}

func (c Config) withDefaults() Config {
	s := &c.Session
	if s.Auth == wire.Anonymous {
		switch {
		case s.Identity != nil:
			s.Auth = wire.Certificate
		case s.Password != "" || s.PasswordHash != nil:
			s.Auth = wire.HashedPass
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Way == nil {
		c.Way = &underlay.Dialer{Log: c.Log}
	}
	if c.MAC == nil {
		c.MAC = RandomMAC()
	}
	s.DialContext, s.Direct, s.UDP.Listen = c.Way.DialContext, c.Way.Via == nil, c.Way.ListenUDP
	return c
}

// Plan says how a host with this MAC address gets its addresses, of both families.
// One that is known says that it is the same each time, and so is the IPv6 address then.
func (c Config) Plan(mac net.HardwareAddr, known bool, log *slog.Logger) addresses.Config {
	plan := c.Address.Plan(mac, log)
	six := c.Address.IPv6
	if six.Off {
		return plan
	}
	plan.IPv6 = &autoconf.Config{MAC: mac, Hostname: c.Address.Hostname, Static: six.Static, Gateway: six.Gateway, Log: log}
	if known {
		// Whoever gives an address wants to be known again, by those on the hub at least. To
		// others an IPv6 address tells no more than that.
		key := sha256.Sum256(fmt.Appendf(nil, "softether-go address\x00%s\x00%s\x00%s", c.Session.Hub, c.Session.User, mac))
		plan.IPv6.Key = key[:]
	}
	return plan
}

// client returns what the client of an End is made from that gets its addresses by plan.
func (c Config) client(plan addresses.Config) client.Config {
	cc := client.Config{
		Session: c.Session, Servers: Servers(c.Servers, c.Fastest, c.Way), Hurry: c.Way.Changed(), Refresh: c.Refresh,
		ReconnectDelay: c.ReconnectDelay, ReconnectMax: c.ReconnectMax, OnWelcome: c.OnWelcome, Log: c.Log,
	}
	if !c.Session.Bridge && !c.Session.Monitor {
		cc.Config = plan
	}
	return cc
}
