package underlay

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// notSent is how many bytes may wait in the socket for their first transmission. It
// keeps a batch or two ready for the kernel; more would only wait where nobody can
// choose what goes first. (Linux, include/net/tcp.h, __tcp_stream_memory_free)
const notSent = 128 << 10

// tune sets up a socket before it connects. What the kernel does not know does no harm.
func tune(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
	})
}
