package main

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"

	"softether-go/pkg/config"
	"softether-go/pkg/health"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/session"
	"softether-go/pkg/vpn"
)

var udpPolicy = map[config.UDPPolicy]session.UDPPolicy{
	config.UDPAuto: session.UDPAuto, config.UDPOff: session.UDPOff, config.UDPRequire: session.UDPRequire,
}

// sessionConfig translates the settings about the server.
func sessionConfig(cfg config.Config, log *slog.Logger) (session.Config, error) {
	sc := session.Config{
		Host: cfg.Server.Host, Port: int(cfg.Server.Port), Hub: cfg.Server.Hub,
		User: cfg.Auth.User, Password: cfg.Auth.Password.Reveal(),
		Bridge:      cfg.TAP.Bridge != "",
		Monitor:     cfg.TAP.Monitor,
		Connections: cfg.Links.Count, HalfDuplex: cfg.Links.HalfDuplex, ConnectionTTL: cfg.Links.TTL, QoS: cfg.Links.QoS,
		Compress: cfg.Links.Compress, Cleartext: cfg.Links.Cleartext,
		Direct: proxyOf(cfg.Way) == nil,
		UDP:    session.UDP{Policy: udpPolicy[cfg.UDP.Policy], Port: cfg.UDP.Port},
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

// vpnConfig translates all settings but those of the local end.
func vpnConfig(cfg config.Config, log *slog.Logger) (vpn.Config, error) {
	sc, err := sessionConfig(cfg, log)
	if err != nil {
		return vpn.Config{}, err
	}
	way, err := newDialer(cfg, log)
	if err != nil {
		return vpn.Config{}, err
	}
	var target health.Target
	if cfg.Service.HealthTarget != "" {
		if target, err = health.ParseTarget(cfg.Service.HealthTarget); err != nil {
			return vpn.Config{}, usageError{fmt.Errorf("-health-target: %w", err)}
		}
	}
	address := addressing(cfg.Address)
	if cfg.Mode == config.ModeTAP {
		address.IPv6 = vpn.IPv6{Off: true} // the kernel sees to it
	}
	return vpn.Config{
		Session: sc, Servers: serversOf(cfg.Server), Fastest: cfg.Server.Fastest, Way: way,
		MAC: cfg.Address.MAC, Address: address,
		ReconnectDelay: cfg.Retry.Delay, ReconnectMax: cfg.Retry.MaxDelay, Log: log,
		Refresh: refresh(cfg.Auth, log), Probe: target,
	}, nil
}

// refresh reads a login's files again before each attempt, as whoever manages them may
// have replaced them.
func refresh(a config.Auth, log *slog.Logger) func(session.Config) session.Config {
	if a.Token.Module != "" {
		return nil // it stays open, and another wrong PIN might lock it
	}
	return func(sc session.Config) session.Config {
		fresh, next := a, sc
		var err error
		if fresh, err = a.ReadAgain(); err == nil {
			next.Password = fresh.Password.Reveal()
			err = login(&next, fresh, log)
		}
		if err != nil { // such as in the middle of being replaced
			log.Warn("the login's file cannot be read again, so what was in it before is used", "cause", err)
			return sc
		}
		return next
	}
}

// addressing translates the settings about our address.
func addressing(a config.Addressing) vpn.Addressing {
	va := vpn.Addressing{Hostname: a.Hostname, ClientID: a.ClientID, DNS: netcfg.DNS{Servers: a.DNS, Search: a.Search}}
	if a.NoDHCP {
		va.Static = netcfg.Config{Address: a.Address, Gateway: a.Gateway}
		va.NoDHCP = true
	}
	va.IPv6 = vpn.IPv6{Off: a.NoIPv6, Static: a.Address6, Gateway: a.Gateway6}
	return va
}

// ownMAC returns the address to use inside the tunnel.
func ownMAC(a config.Addressing) net.HardwareAddr {
	if a.MAC != nil {
		return a.MAC
	}
	return vpn.RandomMAC()
}
