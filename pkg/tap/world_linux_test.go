package tap

// Tests with interfaces run in network namespaces of their own, which end with
// them. They need root; without it they are skipped, unless CI=true says that they
// must run.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/leaktest"
)

// init keeps the main goroutine on the main thread for good: a test that ran there
// could not end its thread, and would leave the process in the test's namespace.
func init() { runtime.LockOSThread() }

// TestMain fails the run if a goroutine is left.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// need skips with the remedy, or fails where tests may not be skipped.
func need(t testing.TB, ok bool, remedy string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(remedy)
	}
	t.Skip(remedy)
}

// enterNamespace puts the test's thread into a fresh network namespace, without
// IPv6 so that the kernel says nothing unasked. The thread is never unlocked: it
// ends with the test, and the namespace with the last thing in it.
func enterNamespace(t testing.TB) {
	t.Helper()
	need(t, os.Geteuid() == 0, "needs root for namespaces: run as root, as with sudo -E go test")
	_, err := os.Stat(tunFile)
	need(t, err == nil, "needs "+tunFile+": modprobe tun")
	runtime.LockOSThread()
	err = unix.Unshare(unix.CLONE_NEWNET)
	need(t, !errors.Is(err, unix.EPERM), "needs network namespaces: run outside of a container, or in a privileged one")
	if err != nil {
		t.Fatalf("new network namespace: %v", err)
	}
	quiet := "/proc/sys/net/ipv6/conf/default/disable_ipv6" // of the thread that opens it
	if err := os.WriteFile(quiet, []byte("1"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

// openTap opens a device that is closed with the test.
func openTap(t testing.TB, cfg Config) *Device {
	t.Helper()
	d, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// openUp opens vpn0 in a namespace of its own, with its link up.
func openUp(t testing.TB) *Device {
	t.Helper()
	enterNamespace(t)
	d := openTap(t, Config{Name: "vpn0"})
	setLink(t, "vpn0", true)
	return d
}

// ifreq asks the kernel something about an interface in the thread's namespace.
func ifreq(t testing.TB, request uint, name string, fill func(*unix.Ifreq)) *unix.Ifreq {
	t.Helper()
	ifr, err := askKernel(request, name, fill)
	if err != nil {
		t.Fatalf("ioctl %#x on %s: %v", request, name, err)
	}
	return ifr
}

func askKernel(request uint, name string, fill func(*unix.Ifreq)) (*unix.Ifreq, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	if fill != nil {
		fill(ifr)
	}
	return ifr, unix.IoctlIfreq(fd, request, ifr)
}

func setLink(t testing.TB, name string, up bool) {
	t.Helper()
	ifreq(t, unix.SIOCSIFFLAGS, name, func(ifr *unix.Ifreq) {
		if up {
			ifr.SetUint16(unix.IFF_UP)
		}
	})
}

// setAddress gives the interface an address of a /24.
func setAddress(t testing.TB, name, address string) {
	t.Helper()
	set := func(ip net.IP) func(*unix.Ifreq) {
		return func(ifr *unix.Ifreq) {
			if err := ifr.SetInet4Addr(ip.To4()); err != nil {
				t.Fatal(err)
			}
		}
	}
	ifreq(t, unix.SIOCSIFADDR, name, set(net.ParseIP(address)))
	ifreq(t, unix.SIOCSIFNETMASK, name, set(net.IPv4(255, 255, 255, 0)))
}

// mtu returns what the kernel says.
func mtu(t testing.TB, name string) int {
	t.Helper()
	return int(ifreq(t, unix.SIOCGIFMTU, name, nil).Uint32())
}

// exists reports whether the thread's namespace has an interface of that name.
func exists(t testing.TB, name string) bool {
	t.Helper()
	_, err := askKernel(unix.SIOCGIFINDEX, name, nil)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		t.Fatal(err)
	}
	return err == nil
}

// interfaces lists the interfaces of the thread's namespace.
func interfaces(t testing.TB) string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	return strings.Join(names, " ")
}

// ip runs ip(8) in the thread's namespace.
func ip(t testing.TB, args ...string) {
	t.Helper()
	_, err := exec.LookPath("ip")
	need(t, err == nil, "needs ip: apt-get install iproute2")
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// experimental is an EtherType that the kernel leaves alone (IEEE 802, local use).
const experimental = 0x88b5

var (
	everybody = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	somebody  = net.HardwareAddr{0x5e, 0, 0x53, 9, 9, 9}
)

// numbered returns a frame of size bytes that carries n.
func numbered(n, size int) []byte {
	payload := make([]byte, size-frame.HeaderLen)
	copy(payload, fmt.Sprintf("frame %d.", n))
	return frametest.Frame(everybody, somebody, experimental, payload)
}

// A wire is a packet socket on an interface: the host's side of frames.
type wire struct {
	t  testing.TB
	fd int
}

func newWire(t testing.TB, index int) *wire {
	t.Helper()
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("packet socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		t.Fatalf("bind packet socket: %v", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		t.Fatal(err)
	}
	return &wire{t: t, fd: fd}
}

// send lets the host send a frame.
func (w *wire) send(frames ...[]byte) {
	w.t.Helper()
	for _, f := range frames {
		if _, err := unix.Write(w.fd, f); err != nil {
			w.t.Fatalf("send %d bytes: %v", len(f), err)
		}
	}
}

// receive returns the next frame that the host received from the interface.
func (w *wire) receive() []byte {
	w.t.Helper()
	b := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(w.fd, b, 0)
		if err != nil {
			w.t.Fatalf("receive: %v", err)
		}
		if ll := from.(*unix.SockaddrLinklayer); ll.Pkttype != unix.PACKET_OUTGOING {
			return b[:n]
		}
	}
}

// A run is a Device's Run in a goroutine of its own.
type run struct {
	t      testing.TB
	into   frametest.Pipe
	sizes  chan int // of the batches
	cancel context.CancelFunc
	ended  chan error
	err    error
}

// start runs d until the test ends or stops it.
func start(t testing.TB, d *Device) *run {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{t: t, cancel: cancel, sizes: make(chan int, 1000), ended: make(chan error, 1)}
	go func() {
		r.ended <- d.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
			r.sizes <- len(frames)
			return r.into.WriteFrames(frames)
		}))
	}()
	t.Cleanup(func() { r.stop() })
	return r
}

// patience is how long a test waits for what happens at once if all is well.
const patience = 20 * time.Second

// frames waits for n frames.
func (r *run) frames(n int) [][]byte {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	got := r.into.Received(ctx, n)
	if len(got) < n {
		r.t.Fatalf("got %d frames in %v, want %d", len(got), patience, n)
	}
	return got
}

// stop ends Run by its context and returns its error.
func (r *run) stop() error {
	r.t.Helper()
	r.cancel()
	return r.end()
}

// end waits for Run to end and returns its error.
func (r *run) end() error {
	r.t.Helper()
	if r.err != nil {
		return r.err
	}
	select {
	case r.err = <-r.ended:
	case <-time.After(patience):
		r.t.Fatalf("Run has not ended after %v", patience)
	}
	return r.err
}

// same fails unless got is want.
func same(t testing.TB, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("frame differs:\ngot  %x\nwant %x", got, want)
	}
}
