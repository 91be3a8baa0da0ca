//go:build !unix

package netstack

import (
	"net"
	"syscall"
)

// readRaw has no better way here than an ordinary read.
func readRaw(t *net.TCPConn, _ syscall.RawConn) func() (*[]byte, int, error) { return readInto(t) }
