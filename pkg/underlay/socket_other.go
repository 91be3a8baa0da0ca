//go:build !linux

package underlay

import "syscall"

// tune has nothing to do here.
func tune(string, string, syscall.RawConn) error { return nil }
