package main

import (
	"context"
	"log/slog"

	"softether-go/pkg/config"
	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/netcfg/host"
	"softether-go/pkg/tap"
)

// monitorEnd is a TAP that shows all frames of the hub, for whoever captures on it. It
// has no address, and what the machine sends by it goes nowhere.
type monitorEnd struct{ *tap.Device }

// openMonitor makes the interface. Frames come to it one by one, as they are.
func openMonitor(cfg config.Config, log *slog.Logger) (*monitorEnd, error) {
	device, err := tap.Open(tap.Config{Name: cfg.TAP.Name, MAC: ownMAC(cfg.Address), Plain: true, Log: log})
	if err != nil {
		return nil, err
	}
	if err := host.SetUpSilent(device.Name()); err != nil {
		device.Close()
		return nil, err
	}
	log.Info("monitoring: every frame of the hub shows on the interface, and nothing is sent", "interface", device.Name())
	return &monitorEnd{device}, nil
}

// Run drops what the machine sends. The hub would.
func (e *monitorEnd) Run(ctx context.Context, _ frame.Writer) error {
	return e.Device.Run(ctx, frame.WriterFunc(func([][]byte) error { return nil }))
}

// Apply is not called: there is no address.
func (*monitorEnd) Apply(context.Context, netcfg.Config) error { return nil }
