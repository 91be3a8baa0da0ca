package main

import (
	"context"
	"log/slog"
	"net"
	"net/netip"

	"softether-go/netstack"
	"softether-go/pkg/client"
	"softether-go/pkg/config"
	"softether-go/pkg/fairqueue"
	"softether-go/pkg/frame"
)

// A localEnd is the near end of the tunnel: a network stack of our own, or this
// machine's by a TAP. It outlives sessions.
type localEnd interface {
	frame.Endpoint
	client.Configurer

	// MAC returns the address that the hub knows this end by.
	MAC() net.HardwareAddr
	// protect keeps the way to the server beside the tunnel; it is told before each
	// connection.
	protect(ctx context.Context, servers []netip.Addr) error
	// watch follows what happens around this end until ctx ends.
	watch(ctx context.Context) error
	// Close takes back all that was put on the machine. A second call does nothing.
	Close() error
}

// stackEnd is the netstack with the address it was made with.
type stackEnd struct {
	*netstack.Stack
	mac net.HardwareAddr
}

func newStack(cfg config.Config, way fairqueue.Path, log *slog.Logger) (*stackEnd, error) {
	mac := ownMAC(cfg.Address)
	stack, err := netstack.New(netstack.Config{MAC: mac, Log: log, Way: way})
	if err != nil {
		return nil, err
	}
	return &stackEnd{stack, mac}, nil
}

func (e *stackEnd) MAC() net.HardwareAddr { return e.mac }

// protect has nothing to do: the machine's routes are not ours.
func (e *stackEnd) protect(context.Context, []netip.Addr) error { return nil }

// watch has nothing to follow: the machine's network is the dialer's business.
func (e *stackEnd) watch(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
