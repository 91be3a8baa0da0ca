//go:build !linux

package tap

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"

	"softether-go/pkg/frame"
)

var errUnsupported = errors.New("tap: the TAP mode needs Linux; the proxies (-socks5, -http) work everywhere")

// A Device is no interface here: this is for Linux.
type Device struct{}

// Open fails.
func Open(Config) (*Device, error) { return nil, errUnsupported }

// A Handover is of no use here.
type Handover struct{}

// Handover fails.
func (*Device) Handover() (*os.File, Handover, error) { return nil, Handover{}, errUnsupported }

// Adopt fails.
func Adopt(f *os.File, _ Handover, _ *slog.Logger) (*Device, error) {
	f.Close()
	return nil, errUnsupported
}

// Run fails.
func (*Device) Run(context.Context, frame.Writer) error { return errUnsupported }

// WriteFrames fails.
func (*Device) WriteFrames([][]byte) error { return errUnsupported }

// Name returns nothing.
func (*Device) Name() string { return "" }

// MAC returns nothing.
func (*Device) MAC() net.HardwareAddr { return nil }

// Index returns no interface's index.
func (*Device) Index() int { return 0 }

// Offload returns nothing.
func (*Device) Offload() Offload { return Offload{} }

// Stats returns zeroes.
func (*Device) Stats() Stats { return Stats{} }

// Close does nothing.
func (*Device) Close() error { return nil }

var _ frame.Endpoint = (*Device)(nil)
