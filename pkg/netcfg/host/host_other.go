//go:build !linux

package host

import (
	"context"
	"errors"
	"net/netip"

	"softether-go/pkg/netcfg"
)

var errUnsupported = errors.New("host: the TAP mode needs Linux; the proxies (-socks5, -http) work everywhere")

// A Host configures nothing here: this is for Linux.
type Host struct{}

// Open fails.
func Open(Config) (*Host, error) { return nil, errUnsupported }

// Apply fails.
func (*Host) Apply(context.Context, netcfg.Config) error { return errUnsupported }

// Protect fails.
func (*Host) Protect(context.Context, []netip.Addr) error { return errUnsupported }

// Watch fails.
func (*Host) Watch(context.Context) error { return errUnsupported }

// Close does nothing.
func (*Host) Close() error { return nil }

// CleanUp has nothing to do.
func CleanUp(context.Context, Config) error { return nil }
