//go:build unix

package proxy

import (
	"net"
	"syscall"
)

// waitKernel waits until a socket of the kernel's has something to read.
func waitKernel(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		var b [1]byte
		for {
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
			if err != syscall.EINTR {
				return err != syscall.EAGAIN // other errors are the reader's
			}
		}
	})
}
