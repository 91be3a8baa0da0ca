package tap

// What this package assumes of the kernel and of Go's poller. If one of these
// fails, it explains why others do.

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
	"softether-go/pkg/offload"
)

func TestAssumePastReadDeadlineWakesAReaderOfTheTAP(t *testing.T) {
	d := openUp(t)
	result := make(chan error)
	waiting := make(chan struct{})
	go func() {
		calls := 0
		result <- d.conn.Read(func(uintptr) bool {
			if calls++; calls == 1 {
				close(waiting)
			}
			return false
		})
	}()
	<-waiting
	for range 3 { // now, and for a reader that comes later
		if err := d.file.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatalf("the file takes no deadline: %v", err)
		}
		if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want the deadline exceeded", err)
		}
		go func() { result <- d.conn.Read(func(uintptr) bool { return false }) }()
	}
	<-result
	if err := d.file.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	newWire(t, d.Index()).send(numbered(1, 60))
	b := make([]byte, readLen)
	const want = offload.VirtioLen + 60
	if n, err := d.file.Read(b); err != nil || n != want {
		t.Errorf("after lifting the deadline: got %d bytes, %v, want %d", n, err, want)
	}
}

func TestAssumeInterfaceEndsWithItsFile(t *testing.T) {
	d := openUp(t)
	setAddress(t, "vpn0", "10.77.0.1")
	if err := d.file.Close(); err != nil {
		t.Fatal(err)
	}
	if exists(t, "vpn0") {
		t.Error("the interface exists after its file was closed")
	}
}

func TestAssumePollerTellsThatTheInterfaceWasRemoved(t *testing.T) {
	enterNamespace(t)
	for range 50 { // the waking and the removal must not race
		d := openTap(t, Config{Name: "vpn0"})
		setLink(t, "vpn0", true)
		result := make(chan error)
		waiting := make(chan struct{}, 1)
		go func() {
			result <- d.conn.Read(func(fd uintptr) bool {
				var b [1]byte
				if _, err := unix.Read(int(fd), b[:]); !errors.Is(err, unix.EAGAIN) {
					return true
				}
				select {
				case waiting <- struct{}{}:
				default:
				}
				return false
			})
		}()
		<-waiting
		ip(t, "link", "delete", "vpn0")
		select {
		case <-result:
		case <-time.After(patience):
			t.Fatal("a reader was not woken when its interface was removed")
		}
		d.Close()
	}
}

// raw does something with the device's file itself.
func raw(t *testing.T, d *Device, do func(fd int) error) (err error) {
	t.Helper()
	if e := d.conn.Control(func(fd uintptr) { err = do(int(fd)) }); e != nil {
		t.Fatal(e)
	}
	return err
}

func TestAssumeErrnosOfReadAndWrite(t *testing.T) {
	enterNamespace(t)
	d := openTap(t, Config{Name: "vpn0"})
	f := numbered(1, 60)
	write := func(fd int) error { return d.send(fd, &offload.Super{Header: f}) }
	read := func(fd int) error {
		_, err := unix.Read(fd, make([]byte, readLen))
		return err
	}
	check := func(what string, got, want error) {
		t.Helper()
		if !errors.Is(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	check("write while the link is down", raw(t, d, write), unix.EIO)
	check("read while the link is down", raw(t, d, read), unix.EAGAIN)
	setLink(t, "vpn0", true)
	check("write while the link is up", raw(t, d, write), nil)
	check("read with nothing queued", raw(t, d, read), unix.EAGAIN)
	check("write of less than a header", raw(t, d, func(fd int) error { return d.send(fd, &offload.Super{Header: f[:frame.HeaderLen-1]}) }), unix.EINVAL)
	ip(t, "link", "delete", "vpn0")
	check("write after removal", raw(t, d, write), unix.EBADFD)
	check("read after removal", raw(t, d, read), unix.EBADFD)
}

func TestAssumeReadCutsOffWhatDoesNotFit(t *testing.T) {
	d := openUp(t)
	newWire(t, d.Index()).send(numbered(1, 1000))
	b := make([]byte, 100)
	if n, err := d.file.Read(b); n != 100 || err != nil {
		t.Errorf("got %d bytes, %v, want the first 100", n, err)
	}
	err := raw(t, d, func(fd int) error {
		_, err := unix.Read(fd, b)
		return err
	})
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("got %v, want the rest to be lost", err)
	}
}

// An address that was set explicitly is left alone by systemd-udevd (systemd.link,
// MACAddressPolicy).
func TestAssumeAddressCountsAsSetByUserspace(t *testing.T) {
	enterNamespace(t)
	openTap(t, Config{Name: "vpn0"})
	_, err := exec.LookPath("mount")
	need(t, err == nil, "needs mount: apt-get install mount")
	cmd := exec.Command("sh", "-c", "mount -t sysfs none /sys && cat /sys/class/net/vpn0/addr_assign_type")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const setByUser = "3" // NET_ADDR_SET
	if got := strings.TrimSpace(string(out)); got != setByUser {
		t.Errorf("addr_assign_type: got %s, want %s", got, setByUser)
	}
}
