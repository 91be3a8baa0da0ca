//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// init keeps the main goroutine on the main thread for good, so that no other one
// runs there: the main thread cannot end, and one left in a namespace would make
// the whole process look like it lived in it.
func init() { runtime.LockOSThread() }

// A netns is a network namespace that ends with its test.
type netns struct {
	t    testing.TB
	name string
}

var nsNumber atomic.Int64

// newNetns makes a namespace. All names of a run carry its id, which is how
// a later run finds what this one left if it is killed.
func newNetns(t testing.TB, role string) *netns {
	t.Helper()
	needRoot(t)
	needTool(t, "ip", "iproute2")
	n := &netns{t: t, name: fmt.Sprintf("%s%s-%d%s", nsPrefix, run.id, nsNumber.Add(1), role)}
	command(t, "ip", "netns", "add", n.name)
	t.Cleanup(func() { removeNamespace(n.name) })
	n.IP("link", "set", "lo", "up")
	n.plainCongestionControl()
	return n
}

// command runs a short program and fails the test with its output if it fails.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// IP runs ip(8) in the namespace.
func (n *netns) IP(args ...string) string {
	n.t.Helper()
	argv := append([]string{"-n", n.name}, args...)
	var out []byte
	eventually(n.t, 10*time.Second, "ip "+strings.Join(argv, " "), func() (err error) {
		out, err = exec.Command("ip", argv...).CombinedOutput()
		if strings.Contains(string(out), otherNamespaceGone) {
			return errors.New(otherNamespaceGone)
		}
		if err != nil {
			n.t.Fatalf("ip %s: %v\n%s", strings.Join(argv, " "), err, out)
		}
		return nil
	})
	return string(out)
}

// otherNamespaceGone is what a list of interfaces may end with while a namespace, any
// one, is being removed.
const otherNamespaceGone = "Peer netns reference is invalid"

// plainCongestionControl chooses cubic, so that the host's choice does not decide
// what a measurement says. A host may not allow cubic in namespaces, then it is
// reno, which differs on lossy paths only.
func (n *netns) plainCongestionControl() {
	n.t.Helper()
	err := n.do(func() error {
		// The file shows the namespace of the thread that opens it.
		const file = "/proc/sys/net/ipv4/tcp_congestion_control"
		if os.WriteFile(file, []byte("cubic"), 0o644) == nil {
			return nil
		}
		return os.WriteFile(file, []byte("reno"), 0o644)
	})
	if err != nil {
		n.t.Fatalf("%s: congestion control: %v", n.name, err)
	}
}

// Command prepares a program in the namespace. ip-netns(8) also gives it a mount
// namespace whose mounts do not reach the host, and replaces itself by the program.
func (n *netns) Command(argv ...string) *exec.Cmd {
	cmd := exec.Command("ip", append([]string{"netns", "exec", n.name}, argv...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	return cmd
}

// do runs fn on a thread inside the namespace. The thread is never unlocked, so
// the runtime ends it with the goroutine and no other goroutine wakes up there.
func (n *netns) do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+n.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- fmt.Errorf("open namespace %s: %w", n.name, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter namespace %s: %w", n.name, err)
			return
		}
		result <- fn()
	}()
	return <-result
}

// Listen opens a TCP listener in the namespace, closed with the test.
func (n *netns) Listen(address string) net.Listener {
	n.t.Helper()
	var l net.Listener
	err := n.do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
	n.t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket opens a UDP socket in the namespace, closed with the test.
func (n *netns) ListenPacket(address string) net.PacketConn {
	n.t.Helper()
	var c net.PacketConn
	err := n.do(func() (err error) {
		c, err = net.ListenPacket("udp", address)
		return err
	})
	if err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
	n.t.Cleanup(func() { c.Close() })
	return c
}

// Dial connects from inside the namespace. The address is literal, so that
// the dial stays on its thread.
func (n *netns) Dial(ctx context.Context, address string) (net.Conn, error) {
	var c net.Conn
	err := n.do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, "tcp4", address)
		return err
	})
	return c, err
}

// dialContext is Dial for who wants to name the network.
func (n *netns) dialContext(ctx context.Context, _, address string) (net.Conn, error) {
	return n.Dial(ctx, address)
}

// link joins two namespaces by a veth pair named eth0 on both sides.
func link(a, b *netns, addressA, addressB string) {
	a.t.Helper()
	command(a.t, "ip", "link", "add", "eth0", "netns", a.name, "type", "veth", "peer", "name", "eth0", "netns", b.name)
	for ns, address := range map[*netns]string{a: addressA, b: addressB} {
		ns.IP("address", "add", address, "dev", "eth0")
		ns.IP("link", "set", "eth0", "up")
	}
}
