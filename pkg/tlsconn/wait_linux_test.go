package tlsconn

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// waitForBytes waits until at least n bytes can be read from c at once.
func waitForBytes(t *testing.T, c net.Conn, n int) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		waiting := 0
		raw.Control(func(fd uintptr) { waiting, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
		if err != nil {
			t.Fatal(err)
		}
		if waiting >= n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the bytes did not come")
}
