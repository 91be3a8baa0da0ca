package dhcp

// These tests need root (for a network namespace of their own), ip, dnsmasq and
// dhcpd. Without them they are skipped, unless CI=true says that they must run.

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

var update = flag.Bool("update", false, "record the replies of real servers into testdata")

func TestRealDnsmasq(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testRealServer(t, "dnsmasq", "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--user=root",
		"--interface=server", "--bind-interfaces", "--no-ping", "--log-dhcp", "--dhcp-authoritative",
		"--dhcp-leasefile="+filepath.Join(dir, "leases"),
		"--dhcp-range=10.77.0.50,10.77.0.50,255.255.255.0,2m",
		"--dhcp-option=3,10.77.0.254", "--dhcp-option=6,10.77.0.1,10.77.0.2", "--dhcp-option=15,corp.example",
		"--dhcp-option=26,1400", "--dhcp-option=42,10.77.0.9", "--dhcp-option=58,5s", "--dhcp-option=59,100s",
		"--dhcp-option=119,corp.example,eng.corp.example,lab.eng.corp.example",
		"--dhcp-option=121,192.168.7.0/24,10.77.0.2,172.16.0.0/12,10.77.0.3,0.0.0.0/0,10.77.0.254")
}

func TestRealDhcpd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf := `
authoritative; ping-check false; default-lease-time 10; max-lease-time 10;
option classless code 121 = array of unsigned integer 8;
subnet 10.77.0.0 netmask 255.255.255.0 {
  range 10.77.0.50 10.77.0.50;
  option routers 10.77.0.254; option domain-name-servers 10.77.0.1, 10.77.0.2; option domain-name "corp.example";
  option interface-mtu 1400; option ntp-servers 10.77.0.9; option broadcast-address 10.77.0.255;
  option domain-search "corp.example", "eng.corp.example", "lab.eng.corp.example";
  option classless 24,192,168,7,10,77,0,2, 12,172,16,10,77,0,3, 0,10,77,0,254;
}`
	for name, text := range map[string]string{"conf": conf, "leases": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	testRealServer(t, "dhcpd", "dhcpd", "-4", "-f", "-d", "--no-pid", "-cf", filepath.Join(dir, "conf"),
		"-lf", filepath.Join(dir, "leases"), "server")
}

// testRealServer takes a client through its life against a server, which grants
// leases that are to be renewed after five seconds.
func testRealServer(t *testing.T, name string, server ...string) {
	w := newWire(t, server[0])
	log := w.start(server...)
	c := New(Config{MAC: ourMAC[:], Hostname: "laptop", Rand: rand.NewChaCha8([32]byte{1})})
	w.run(c)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	// Somebody has never heard of this address and says so.
	c.remember(Lease{Config: netcfg.Config{Address: netip.MustParsePrefix("10.99.0.9/24")}})
	first := w.acquire(ctx, c)
	if d := cmp.Diff(realConfig(), first.Config, compareAddrs, comparePrefixes); d != "" {
		t.Errorf("lease (-want +got):\n%s", d)
	}
	if got, want := mac(first.ServerMAC), serverMAC; got != want || first.Server.String() != "10.77.0.1" {
		t.Errorf("server %v at %x", first.Server, got)
	}
	if got, want := w.sent, []string{"request", "discover", "request", "arp", "arp"}; !equalAfterRepeats(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}

	w.keepUntilRenewed(ctx, c, first)

	w.sent = nil
	w.acquire(ctx, c)
	if got := fmt.Sprint(w.sent); got != "[request]" {
		t.Errorf("next session sent %v, want one REQUEST", got)
	}

	if err := c.Release(t.Context(), w); err != nil {
		t.Error(err)
	}
	w.acquire(ctx, c) // so that the server has surely heard the release
	text := log()
	for _, want := range []string{"DHCPNAK", "DHCPDISCOVER", "DHCPOFFER", "DHCPREQUEST", "DHCPACK", "DHCPRELEASE"} {
		if !strings.Contains(text, want) {
			t.Errorf("the server's log does not mention %s:\n%s", want, text)
		}
	}
	w.record(name)
}

// equalAfterRepeats reports whether got is want, but for a server that was not
// listening yet and was asked again.
func equalAfterRepeats(got, want []string) bool {
	return strings.HasSuffix(fmt.Sprint(got), strings.TrimPrefix(fmt.Sprint(want), "["))
}

// A wire is a veth pair in a namespace of its own: a server's interface with an
// address at one end, raw frames at ours.
type wire struct {
	t    *testing.T
	file *os.File
	sent []string // what the client sent; between calls into the client only

	mu      sync.Mutex // guards replies
	replies [][]byte   // what came to port 68
}

// newWire moves the calling goroutine's thread into a new namespace. The thread is
// never unlocked, so it ends with the test, and with it goes the namespace.
func newWire(t *testing.T, tool string) *wire {
	t.Helper()
	for _, name := range []string{"ip", tool} {
		if _, err := exec.LookPath(name); err != nil {
			needed(t, "install "+name+" (Debian: iproute2, dnsmasq-base, isc-dhcp-server)", err)
		}
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		needed(t, "run as root, for a network namespace: sudo -E env PATH=$PATH go test ./pkg/dhcp", err)
	}
	for _, args := range []string{
		"link set lo up",
		fmt.Sprintf("link add server address %v type veth peer name client address %v", net.HardwareAddr(serverMAC[:]), net.HardwareAddr(ourMAC[:])),
		"addr add 10.77.0.1/24 dev server",
		"link set server up",
		"link set client up",
		// The renewal is answered to an address that only a stack would resolve.
		fmt.Sprintf("neigh add 10.77.0.50 lladdr %v dev server", net.HardwareAddr(ourMAC[:])),
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	return &wire{t: t, file: openPacketSocket(t, "client")}
}

func needed(t *testing.T, remedy string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%v; %s", err, remedy)
	}
	t.Skipf("%v; %s", err, remedy)
}

func openPacketSocket(t *testing.T, ifname string) *os.File {
	t.Helper()
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), ifname)
}

// start runs a server and returns what stops it and yields its log.
func (w *wire) start(command ...string) (stop func() string) {
	w.t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // should the test die
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	stop = sync.OnceValue(func() string {
		cmd.Process.Kill()
		cmd.Wait()
		return log.String()
	})
	w.t.Cleanup(func() {
		if text := stop(); w.t.Failed() {
			w.t.Logf("%s said:\n%s", command[0], text)
		}
	})
	return stop
}

// run delivers frames to the client's Filter until the test ends.
func (w *wire) run(c *Client) {
	filter := c.Filter(frame.WriterFunc(func([][]byte) error { return nil }))
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, err := w.file.Read(buf)
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					w.t.Errorf("read frame: %v", err)
				}
				return
			}
			if maybeReply(buf[:n]) {
				w.mu.Lock()
				w.replies = append(w.replies, bytes.Clone(buf[:n]))
				w.mu.Unlock()
			}
			if err := filter.WriteFrames([][]byte{buf[:n]}); err != nil {
				w.t.Errorf("filter: %v", err)
			}
		}
	})
	w.t.Cleanup(func() {
		w.file.Close()
		wg.Wait()
	})
}

// WriteFrames is what the client sends to.
func (w *wire) WriteFrames(frames [][]byte) error {
	for _, f := range frames {
		kind := "arp"
		if frame.EtherType(f) == frame.TypeIPv4 {
			m, err := decode(bytes.Clone(f[42:]))
			if err != nil {
				return err
			}
			kind = strings.ToLower(m.MessageType().String())
		}
		w.sent = append(w.sent, kind)
		if _, err := w.file.Write(f); err != nil {
			return err
		}
	}
	return nil
}

func (w *wire) acquire(ctx context.Context, c *Client) Lease {
	w.t.Helper()
	l, err := c.Acquire(ctx, w)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// keepUntilRenewed runs Keep until the server has extended the lease.
func (w *wire) keepUntilRenewed(ctx context.Context, c *Client, first Lease) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if l, ok := c.Lease(); ok && l.Start.After(first.Start) {
				cancel()
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	err := c.Keep(ctx, w, func(l Lease) { w.t.Errorf("renewal changed the lease: %+v", l) })
	wg.Wait()
	if l, ok := c.Lease(); !ok || !l.Start.After(first.Start) {
		w.t.Errorf("lease was not renewed: %v", err)
	}
}

// record writes the replies heard into testdata, if asked to.
func (w *wire) record(name string) {
	if !*update {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var text strings.Builder
	fmt.Fprintf(&text, "# Ethernet frames from %s to a client, one a line. Recorded with go test -update.\n", name)
	for _, f := range w.replies {
		fmt.Fprintln(&text, hex.EncodeToString(f))
	}
	if err := os.WriteFile(filepath.Join("testdata", name+".hex"), []byte(text.String()), 0o644); err != nil {
		w.t.Error(err)
	}
}
