//go:build !linux

package udpaccel

import (
	"net"
)

func newUDPSocket(c *net.UDPConn) (socket, error) { return udpSocket{c}, nil }
