//go:build !linux

package resolv

import "context"

// inspect finds no way: this is for Linux.
func (m *Manager) inspect(context.Context) Facts { return Facts{} }
