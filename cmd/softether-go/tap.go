package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"

	"softether-go/pkg/config"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/netcfg/host"
	"softether-go/pkg/tap"
)

// tapEnd is a TAP and what of the VPN this machine's own stack gets by it.
type tapEnd struct {
	*tap.Device
	host *host.Host
}

// openTAP makes the interface. What dead instances left on the machine goes first.
func openTAP(cfg config.Config, log *slog.Logger) (*tapEnd, error) {
	device, err := tap.Open(tap.Config{Name: cfg.TAP.Name, MAC: ownMAC(cfg.Address), ThinAcks: true, Log: log})
	if err != nil {
		return nil, err
	}
	h, err := host.Open(host.Config{Interface: device.Name(), Options: hostOptions(cfg.TAP), Log: log})
	if err != nil {
		device.Close()
		return nil, err
	}
	return &tapEnd{device, h}, nil
}

func hostOptions(t config.TAP) host.Options {
	return host.Options{
		AcceptDefaultGateway: t.AcceptDefaultGateway,
		AcceptStaticRoutes:   t.AcceptStaticRoutes,
		AcceptDNS:            t.AcceptDNS,
		PolicyTable:          t.PolicyTable,
		ConnMark:             t.ConnMark,
		BlockIPv6:            t.BlockIPv6,
		SLAAC:                t.SLAAC,
	}
}

// Apply puts the configuration on the machine.
func (e *tapEnd) Apply(ctx context.Context, c netcfg.Config) error { return e.host.Apply(ctx, c) }

// Protect keeps the way to the server outside the tunnel.
func (e *tapEnd) Protect(ctx context.Context, servers []netip.Addr) error {
	return e.host.Protect(ctx, servers)
}

// Watch keeps the routes around the tunnel as the machine's other interfaces change.
func (e *tapEnd) Watch(ctx context.Context) error { return e.host.Watch(ctx) }

// Close takes back all that was put on the machine, and then the interface.
func (e *tapEnd) Close() error { return errors.Join(e.host.Close(), e.Device.Close()) }

// cleanUp removes what killed instances left on the machine.
func cleanUp(ctx context.Context, args []string, t terminal) error {
	if len(args) > 0 {
		return usageError{errors.New("cleanup takes no arguments: it finds by itself what was left")}
	}
	err := host.CleanUp(ctx, host.Config{Log: newLogger(config.Log{}, t)})
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; run as root", err)
	}
	return err
}
