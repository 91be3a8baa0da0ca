package main

import (
	"context"
	"log/slog"
	"net"

	"softether-go/pkg/config"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/netcfg/host"
	"softether-go/pkg/tap"
)

// bridgeEnd is a TAP in a bridge of this machine. It has no address, so all it puts
// on the machine ends with the interface.
type bridgeEnd struct {
	*tap.Device
	port *host.Port
}

// openBridge makes the interface and joins it to the bridge.
func openBridge(cfg config.Config, log *slog.Logger) (*bridgeEnd, error) {
	device, err := tap.Open(tap.Config{Name: cfg.TAP.Name, MAC: portMAC(cfg.Address), Log: log})
	if err != nil {
		return nil, err
	}
	port, err := host.JoinBridge(device.Name(), cfg.TAP.Bridge, log)
	if err != nil {
		device.Close()
		return nil, err
	}
	return &bridgeEnd{device, port}, nil
}

// portMAC returns an address that a bridge does not take for its own: it takes the
// lowest of its ports'.
func portMAC(a config.Addressing) net.HardwareAddr {
	mac := ownMAC(a)
	if a.MAC == nil {
		mac[0] = 0xfe
	}
	return mac
}

// Apply is not called: there is no address.
func (*bridgeEnd) Apply(context.Context, netcfg.Config) error { return nil }

// Watch joins a bridge again that was made anew.
func (e *bridgeEnd) Watch(ctx context.Context) error { return e.port.Watch(ctx) }
