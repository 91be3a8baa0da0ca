package underlay

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBoundToAnInterface(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := &Dialer{Bind: Bind{Interface: "lo"}}
	if err := d.Bind.Check(); errors.Is(err, os.ErrPermission) {
		t.Skip("this kernel lets only the privileged bind to an interface: run as root")
	} else if err != nil {
		t.Fatal(err)
	}
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, _ := c.(syscall.Conn).SyscallConn()
	var name string
	raw.Control(func(fd uintptr) { name, err = unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE) })
	if err != nil || name != "lo" {
		t.Errorf("bound to %q, %v", name, err)
	}
	d.Bind.Interface = "none-such"
	if err := d.Bind.Check(); err != nil {
		t.Errorf("an interface may come: %v", err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", l.Addr().String()); err == nil || !strings.Contains(err.Error(), "there is none of this name") {
		t.Errorf("no such interface: %v", err)
	}
}

// With the privilege packets are marked, without it the error says what it takes.
func TestMarked(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := &Dialer{Bind: Bind{Mark: 0xfe000001}}
	if err := d.Bind.Check(); err != nil {
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("got %v", err)
		}
		return
	}
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, _ := c.(syscall.Conn).SyscallConn()
	var mark int
	raw.Control(func(fd uintptr) { mark, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK) })
	if err != nil || uint32(mark) != d.Bind.Mark {
		t.Errorf("mark %#x, %v", mark, err)
	}
}
