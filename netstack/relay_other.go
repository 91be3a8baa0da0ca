//go:build !unix

package netstack

import (
	"net"
	"syscall"
)

// readRaw has no better way here than an ordinary read.
func readRaw(k net.Conn, _ syscall.RawConn) func() (*[]byte, int, error) { return readInto(k) }
