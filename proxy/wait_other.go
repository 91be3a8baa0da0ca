//go:build !unix

package proxy

import "net"

// waitKernel does not wait: the reader does, holding its buffer.
func waitKernel(*net.UDPConn) error { return nil }
