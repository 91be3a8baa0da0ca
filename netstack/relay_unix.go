//go:build unix

package netstack

import (
	"io"
	"net"
	"syscall"
)

// readRaw is readInto for a kernel socket: the buffer is taken only once the
// socket is readable.
func readRaw(k net.Conn, raw syscall.RawConn) func() (*[]byte, int, error) {
	var (
		buf *[]byte
		n   int
		err error
	)
	attempt := func(fd uintptr) bool {
		buf = relayBuffers.Get().(*[]byte)
		for {
			n, err = syscall.Read(int(fd), *buf)
			if err != syscall.EINTR {
				break
			}
		}
		if err != syscall.EAGAIN {
			return true
		}
		relayBuffers.Put(buf)
		buf = nil
		return false
	}
	return func() (*[]byte, int, error) {
		buf, n, err = nil, 0, nil
		waitErr := raw.Read(attempt)
		switch {
		case waitErr != nil: // deadline or close; already a *net.OpError
			return buf, 0, waitErr
		case err != nil:
			return buf, 0, opError("read", k.LocalAddr().Network(), k.LocalAddr(), k.RemoteAddr(), err)
		case n == 0:
			return buf, 0, io.EOF
		}
		return buf, n, nil
	}
}
