package vpn

import (
	"log/slog"
	"net"
	"time"

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
	OnState        func(client.State) // told of each new state, must not block; may be nil
	Probe          health.Target      // whom Health asks; the zero Target is the gateway
	Log            *slog.Logger       // nil discards
}

// Addressing says where addresses come from: from DHCP, unless Static is set. In bridge
// mode (Session.Bridge) there are none.
type Addressing struct {
	Static   netcfg.Config
	Hostname string     // told to the DHCP server; empty sends none
	ClientID []byte     // for the DHCP server; empty means the MAC address
	DNS      netcfg.DNS // in place of what Static or the lease says of either
}

// Plan says it in the terms of package client, for an End with this MAC address.
func (a Addressing) Plan(mac net.HardwareAddr, log *slog.Logger) (ask *dhcp.Config, static netcfg.Config, adjust func(netcfg.Config) netcfg.Config) {
	if !a.Static.IsZero() {
		return nil, a.adjust(a.Static), nil
	}
	return &dhcp.Config{MAC: mac, Hostname: a.Hostname, ClientID: a.ClientID, Log: log}, netcfg.Config{}, a.adjust
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

// client returns what the client of an End with this MAC address is made from.
func (c Config) client(mac net.HardwareAddr) client.Config {
	cc := client.Config{
		Session: c.Session, Servers: Servers(c.Servers, c.Fastest, c.Way), Hurry: c.Way.Changed(), Refresh: c.Refresh,
		ReconnectDelay: c.ReconnectDelay, ReconnectMax: c.ReconnectMax, Log: c.Log,
	}
	if !c.Session.Bridge && !c.Session.Monitor {
		cc.DHCP, cc.Static, cc.Adjust = c.Address.Plan(mac, c.Log)
	}
	return cc
}
