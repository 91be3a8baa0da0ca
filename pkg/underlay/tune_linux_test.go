package underlay

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loopback returns a connection of d and its other end.
func loopback(t *testing.T, d *Dialer) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err = d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return near, far
}

// fill writes to c, which nobody reads, until more is unsent than may be: the least
// that is ever set, which any socket has a buffer for. From then on it stays that.
func fill(t *testing.T, d *Dialer, c net.Conn) {
	t.Helper()
	d.Unsent()
	d.tuner.looked = time.Now().Add(time.Hour)
	for _, known := range d.tuner.conns {
		var err error
		if e := known.raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, minUnsent)
		}); e != nil || err != nil {
			t.Fatal(e, err)
		}
		known.room = minUnsent
	}
	for piece := make([]byte, 64<<10); ; {
		if bytes, room := d.Unsent(); bytes > room/2 && room == minUnsent {
			break
		}
		c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.Write(piece); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	c.SetWriteDeadline(time.Time{})
}

func TestNothingIsKnownWithoutAConnection(t *testing.T) {
	d := new(Dialer)
	if bytes, room := d.Unsent(); bytes != 0 || room != 0 {
		t.Errorf("got %d bytes of %d", bytes, room)
	}
	d.AwaitRoom() // returns
	c, _ := loopback(t, d)
	if _, room := d.Unsent(); room < minUnsent {
		t.Errorf("with a connection: room for %d bytes, want at least %d", room, minUnsent)
	}
	c.Close()
	if bytes, room := d.Unsent(); bytes != 0 || room != 0 {
		t.Errorf("after its end: got %d bytes of %d", bytes, room)
	}
}

func TestTheSocketKnowsHowMuchMayWait(t *testing.T) {
	d := new(Dialer)
	c, _ := loopback(t, d)
	_, room := d.Unsent()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	if e := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	if got != room || room > notSent {
		t.Errorf("the socket takes %d bytes, we say %d, and %d is the most", got, room, notSent)
	}
}

func TestAwaitRoomEndsWhenThereIsRoom(t *testing.T) {
	d := new(Dialer)
	near, far := loopback(t, d)
	fill(t, d, near)
	go io.Copy(io.Discard, far)
	d.AwaitRoom()
	if bytes, room := d.Unsent(); bytes > room/2 {
		t.Errorf("%d of %d bytes are unsent still", bytes, room)
	}
}

func TestAwaitRoomEndsWithTheConnection(t *testing.T) {
	d := new(Dialer)
	near, _ := loopback(t, d)
	fill(t, d, near)
	time.AfterFunc(10*time.Millisecond, func() { near.Close() })
	d.AwaitRoom()
}

func TestTheFullestConnectionCounts(t *testing.T) {
	d := new(Dialer)
	near, _ := loopback(t, d)
	loopback(t, d)
	fill(t, d, near)
	if len(d.tuner.conns) != 2 {
		t.Fatalf("%d connections are known, want 2", len(d.tuner.conns))
	}
	d.tuner.conns[1].room = notSent
	if bytes, room := d.Unsent(); bytes <= room/2 || room != minUnsent {
		t.Errorf("got %d bytes of %d, want more than half of %d", bytes, room, minUnsent)
	}
	near.Close()
	if bytes, room := d.Unsent(); bytes != 0 || room != notSent {
		t.Errorf("once it is closed: got %d bytes of %d, want 0 of %d", bytes, room, notSent)
	}
}

func TestAskingDoesNotAllocate(t *testing.T) {
	d := new(Dialer)
	loopback(t, d)
	d.Unsent()
	d.tuner.looked = time.Now().Add(time.Hour) // the next look is far
	if got := testing.AllocsPerRun(100, func() { d.Unsent() }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}
