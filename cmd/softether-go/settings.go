package main

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"

	"softether-go/pkg/client"
	"softether-go/pkg/config"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/session"
)

// sessionConfig translates the settings about the server.
func sessionConfig(cfg config.Config, log *slog.Logger) (session.Config, error) {
	sc := session.Config{
		Host: cfg.Server.Host, Port: int(cfg.Server.Port), Hub: cfg.Server.Hub,
		User: cfg.Auth.User, Password: cfg.Auth.Password.Reveal(),
		Bridge:      cfg.TAP.Bridge != "",
		Connections: cfg.Links.Count, HalfDuplex: cfg.Links.HalfDuplex, ConnectionTTL: cfg.Links.TTL, QoS: cfg.Links.QoS,
		Compress: cfg.Links.Compress, Cleartext: cfg.Links.Cleartext,
		Direct: proxyOf(cfg.Way) == nil,
		Trust:  session.Trust{Insecure: cfg.Trust.Insecure, Known: knownServers(cfg.Trust.KnownServers, log)},
	}
	if err := login(&sc, cfg.Auth, log); err != nil {
		return sc, err
	}
	for _, pin := range cfg.Trust.Pins {
		sc.Trust.Pins = append(sc.Trust.Pins, pin)
	}
	if cfg.Trust.CAFile != "" {
		pem, err := os.ReadFile(cfg.Trust.CAFile)
		if err != nil {
			return sc, usageError{fmt.Errorf("-ca: %w", err)}
		}
		sc.Trust.Roots = x509.NewCertPool()
		if !sc.Trust.Roots.AppendCertsFromPEM(pem) {
			return sc, usageError{fmt.Errorf("-ca: %s holds no certificate in PEM form", cfg.Trust.CAFile)}
		}
	}
	return sc, nil
}

// addressing translates the settings about our address. A port of a bridge has none.
func addressing(cc *client.Config, cfg config.Config, mac net.HardwareAddr, log *slog.Logger) {
	a := cfg.Address
	if cfg.TAP.Bridge != "" {
		return
	}
	own := netcfg.DNS{Servers: a.DNS, Search: a.Search}
	if a.NoDHCP {
		cc.Static = netcfg.Config{Address: a.Address, Gateway: a.Gateway, DNS: own}
		return
	}
	cc.DHCP = &dhcp.Config{MAC: mac, Hostname: a.Hostname, ClientID: a.ClientID, Log: log}
	cc.Adjust = func(c netcfg.Config) netcfg.Config {
		if len(own.Servers) > 0 {
			c.DNS.Servers = own.Servers
		}
		if len(own.Search) > 0 {
			c.DNS.Search = own.Search
		}
		return c
	}
}

// ownMAC returns the address to use inside the tunnel.
func ownMAC(a config.Addressing) net.HardwareAddr {
	if a.MAC != nil {
		return a.MAC
	}
	return randomMAC()
}

// randomMAC returns a locally administered unicast address. 5E is what the
// official client's adapters begin with.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = 0x5e
	return mac
}
