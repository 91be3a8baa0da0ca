//go:build !linux

package host

import (
	"context"
	"log/slog"
)

// A Port is a TAP in a bridge: this is for Linux.
type Port struct{}

// JoinBridge fails.
func JoinBridge(string, string, *slog.Logger) (*Port, error) { return nil, errUnsupported }

// SetUpSilent fails.
func SetUpSilent(string) error { return errUnsupported }

// Watch fails.
func (*Port) Watch(context.Context) error { return errUnsupported }
