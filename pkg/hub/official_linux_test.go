package hub_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"softether-go/netstack"
	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

var record = flag.Bool("record", false, "record the official client's flow anew; needs root and the client")

const (
	officialClient = "/usr/libexec/softether/vpnclient/vpnclient"
	inside         = "HUB_TEST_INSIDE" // set in the process that has namespaces of its own
)

func missing(t *testing.T, remedy string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(remedy)
	}
	t.Skip(remedy)
}

// TestTheOfficialClient needs root, Debian's softether-vpnclient and -vpncmd. The
// test runs itself again in namespaces of its own, which take all that was started
// there with them when it ends.
func TestTheOfficialClient(t *testing.T) {
	if os.Getenv(inside) != "" {
		useOfficialClient(t)
		return
	}
	if os.Geteuid() != 0 {
		missing(t, "needs root: run it with sudo")
	}
	for program, debian := range map[string]string{officialClient: "softether-vpnclient", "vpncmd": "softether-vpncmd", "ip": "iproute2"} {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, "needs "+program+": apt-get install "+debian)
		}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		missing(t, "needs a TAP: mkdir -p /dev/net && mknod /dev/net/tun c 10 200")
	}
	args := []string{"-test.run=^TestTheOfficialClient$", "-test.v", "-test.timeout=3m"}
	if *record {
		args = append(args, "-record")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

// run runs a program that answers soon.
func run(t *testing.T, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func vpncmd(t *testing.T, command string) (string, error) {
	return run(t, append([]string{"vpncmd", "localhost", "/CLIENT", "/CMD"}, strings.Fields(command)...)...)
}

// eventually tries until it works, for what no program tells us about.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("it did not come about: %v", err)
}

// startOfficialClient gives this mount namespace directories of its own and starts
// the service in it.
func startOfficialClient(t *testing.T) {
	must(t, "mount", "--make-rprivate", "/")
	must(t, "mount", "-t", "proc", "proc", "/proc")
	for _, dir := range []string{"/var/lib/softether", "/var/log/softether", "/run/softether"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		must(t, "mount", "-t", "tmpfs", "tmpfs", dir)
	}
	service := exec.Command(officialClient, "execsvc")
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		service.Process.Kill()
		service.Wait()
	})
	eventually(t, func() error { _, err := vpncmd(t, "NicCreate v1"); return err })
}

func useOfficialClient(t *testing.T) {
	must(t, "hostname", "client")
	must(t, "ip", "link", "set", "lo", "up")
	ln := listenElsewhere(t)
	h, recorder := startOfficialHub(t, ln)
	gateway := plugGateway(t, h)
	startOfficialClient(t)
	for _, command := range []string{
		"AccountCreate c1 /SERVER:" + ln.Addr().String() + " /HUB:HUB /USERNAME:bob /NICNAME:v1",
		"AccountPasswordSet c1 /PASSWORD:secret /TYPE:standard",
		"AccountDetailSet c1 /MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:yes /NOQOS:no /DISABLEUDP:yes",
		"AccountConnect c1",
	} {
		if _, err := vpncmd(t, command); err != nil {
			t.Fatal(err)
		}
	}
	session := h.WaitSessions(t, 1)[0]
	eventually(t, func() error {
		status, err := vpncmd(t, "AccountStatusGet c1")
		if err == nil && !strings.Contains(status, "Connection Completed (Session Established)") {
			err = errors.New(status)
		}
		return err
	})
	must(t, "ip", "address", "add", "10.9.0.2/24", "dev", "vpn_v1")
	must(t, "ip", "link", "set", "vpn_v1", "up")
	carryBothWays(t, gateway)

	// It may lose its connection within a session. The end is announced: after one
	// that is not, this client cannot read any more and logs in anew in the end.
	lost := hub.Fault{Step: hub.InData, Kind: hub.HangUp, Times: 1}
	h.Inject(&lost)
	h.WaitSessions(t, 0)
	if again := h.WaitSessions(t, 1)[0]; again.Name != session.Name {
		t.Errorf("after a cut it has session %s, had %s", again.Name, session.Name)
	}
	carryBothWays(t, gateway)
	if stats := h.Sessions()[0].Stats; stats.InFrames == 0 || stats.OutFrames == 0 || stats.DroppedSize > 0 {
		t.Errorf("counted %+v", stats)
	}
	if *record {
		writeOfficialFlow(t, recorder.Flows()[0])
	}
}

// plugGateway attaches a host at 10.9.0.1 that sends back what it is sent.
func plugGateway(t *testing.T, h *hubtest.Hub) netip.AddrPort {
	stack, err := netstack.New(netstack.Config{MAC: station(1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := stack.Apply(t.Context(), netcfg.Config{Address: netip.MustParsePrefix("10.9.0.1/24")}); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort("10.9.0.1:7")
	ln, err := stack.ListenTCP(at)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { h.Plug(context.Background(), stack) })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		h.Close()
		stack.Close()
		wg.Wait()
	})
	return at
}

// carryBothWays sends a megabyte through the kernel's end of the client's TAP to
// the gateway and back.
func carryBothWays(t *testing.T, gateway netip.AddrPort) {
	t.Helper()
	c, err := net.DialTimeout("tcp", gateway.String(), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	sent := bytes.Repeat([]byte("there and back "), 1<<20/15)
	go func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	back, err := io.ReadAll(c)
	if err != nil || sha256.Sum256(back) != sha256.Sum256(sent) {
		t.Errorf("%d bytes of %d came back: %v", len(back), len(sent), err)
	}
}

// listenElsewhere listens in a network namespace of its own, linked to the one we
// are in: this client behaves differently towards its own machine.
func listenElsewhere(t *testing.T) net.Listener {
	t.Helper()
	var ln net.Listener
	thread, linked, done := make(chan string), make(chan bool), make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			close(thread)
			done <- err
			return
		}
		thread <- strconv.Itoa(syscall.Gettid())
		<-linked
		_, err := run(t, "ip", "address", "add", "192.0.2.1/24", "dev", "hub0")
		if err == nil {
			_, err = run(t, "ip", "link", "set", "hub0", "up")
		}
		if err == nil {
			ln, err = net.Listen("tcp", "192.0.2.1:0")
		}
		done <- err
	}()
	if id, ok := <-thread; ok {
		must(t, "ip", "link", "add", "hub1", "type", "veth", "peer", "name", "hub0", "netns", id)
		must(t, "ip", "address", "add", "192.0.2.2/24", "dev", "hub1")
		must(t, "ip", "link", "set", "hub1", "up")
		close(linked)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return ln
}

// startOfficialHub serves a hub on ln, through a recorder if one is wanted.
func startOfficialHub(t *testing.T, ln net.Listener) (*hubtest.Hub, *hubtest.Recorder) {
	r := new(hubtest.Recorder)
	if !*record {
		return hubtest.StartOn(t, officialConfig(), ln), r
	}
	h := hubtest.Start(t, officialConfig())
	cert := sessiontest.Certificate(t, nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		r.Relay(ln, cert, func() (net.Conn, error) { return h.DialContext(context.Background(), "", "") })
	})
	t.Cleanup(func() {
		ln.Close()
		h.Close()
		wg.Wait()
	})
	return h, r
}

// writeOfficialFlow keeps the negotiation only, as from then on lengths are random,
// and puts our signature in the place of the client's, an image that is not ours.
func writeOfficialFlow(t *testing.T, f hubtest.Flow) {
	for i, p := range f {
		if p.Side == hubtest.Server && bytes.Contains(p.Bytes, []byte("session_key")) {
			f = f[:i+1]
			break
		}
	}
	welcome := &f[len(f)-1].Bytes
	*welcome = (*welcome)[:messageLen(t, *welcome)]
	for i, p := range f {
		if bytes.HasPrefix(p.Bytes, []byte("POST "+wire.SignaturePath)) {
			var ours bytes.Buffer
			wire.WriteSignature(&ours, "192.0.2.1")
			f[i].Bytes = ours.Bytes()
		}
	}
	if err := os.WriteFile(officialFlow, []byte(f.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// messageLen returns how long the HTTP message at the front of b is.
func messageLen(t *testing.T, b []byte) int {
	var n int
	_, length, _ := bytes.Cut(b, []byte("Content-Length: "))
	if _, err := fmt.Sscan(string(length[:bytes.IndexByte(length, '\r')]), &n); err != nil {
		t.Fatal(err)
	}
	return bytes.Index(b, []byte("\r\n\r\n")) + 4 + n
}
