package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"softether-go/pkg/client"
	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/session"
	"softether-go/pkg/tap"
	"softether-go/pkg/wire"
)

// high is a MAC address that no bridge takes from its port if it has another.
var high = net.HardwareAddr{0xfe, 0, 0, 0, 0, 9}

// openTAP makes a TAP that ends with the test at the latest.
func (w *world) openTAP(name string, mac net.HardwareAddr) *tap.Device {
	w.Helper()
	_, err := os.Stat("/dev/net/tun")
	need(w.T, err == nil, "needs /dev/net/tun: mkdir -p /dev/net && mknod /dev/net/tun c 10 200")
	d, err := tap.Open(tap.Config{Name: name, MAC: mac})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { d.Close() })
	return d
}

// site makes br0 with one port lan0, and removes what the world has beside.
func (w *world) site(mtu string) {
	w.sh("ip link delete vpn0; ip link add br0 type bridge; ip link set br0 up")
	w.sh("ip link add lan0 address 52:54:00:00:00:01 mtu " + mtu + " type veth peer name station mtu " + mtu)
	w.sh("ip link set lan0 up master br0; ip link set station up")
}

func (w *world) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (w *world) join(tap string) *Port {
	w.Helper()
	p, err := JoinBridge(tap, "br0", w.logger())
	if err != nil {
		w.Fatal(err)
	}
	return p
}

// links is what of the bridges and their ports could have changed. Whether there is
// a carrier shows a while after the fact, and is left out.
func (w *world) links() string {
	w.Helper()
	return w.sh(`(ip -o link; ip -4 -o addr; bridge -o link) |
		sed -E 's/^[0-9]+: //; s/ (qdisc|state|qlen) [^ ]+//g; s/NO-CARRIER,//; s/,LOWER_UP//'`)
}

// line is what links says of one of them.
func (w *world) line(name string) string {
	for line := range strings.Lines(w.links()) {
		if strings.HasPrefix(line, name+":") {
			return line
		}
	}
	return ""
}

func TestABridgeStaysAsItIs(t *testing.T) {
	inWorld(t, func(w *world) {
		w.site("9000")
		before := w.links()
		bridge := w.line("br0")
		if !strings.Contains(bridge, "mtu 9000") || !strings.Contains(bridge, "52:54:00:00:00:01") {
			t.Fatalf("the bridge is not what this test needs: %s", bridge)
		}
		d := w.openTAP("vpn0", high)
		w.join("vpn0")
		if now := w.line("br0"); now != bridge {
			t.Errorf("the bridge was\n%sand is\n%s", bridge, now)
		}
		port := w.line("vpn0")
		for _, want := range []string{"master br0", "mtu 9000", ",UP"} {
			if !strings.Contains(port, want) {
				t.Errorf("not %q: %s", want, port)
			}
		}
		if got := w.sh("cat /proc/sys/net/ipv6/conf/vpn0/disable_ipv6; ip -o addr show vpn0"); got != "1\n" {
			t.Errorf("the port has IPv6 or addresses: %s", got)
		}
		d.Close()
		if diff := cmp.Diff(before, w.links()); diff != "" {
			t.Errorf("left behind (-before +after):\n%s", diff)
		}
	})
}

const holdPort = "SOFTETHER_HOST_TEST_HOLD"

// hold is a program that joins br0 and stays until it is killed.
func hold(t *testing.T) {
	if _, err := tap.Open(tap.Config{Name: "vpn0", MAC: high}); err != nil {
		t.Fatal(err)
	}
	if _, err := JoinBridge("vpn0", "br0", nil); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("joined\n")
	<-t.Context().Done()
}

func TestAKilledPortIsGone(t *testing.T) {
	if os.Getenv(holdPort) != "" {
		hold(t)
		return
	}
	inWorld(t, func(w *world) {
		w.site("1500")
		before := w.links()
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), holdPort+"=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("joined"))); err != nil {
			t.Error(err)
		}
		if got := w.sh("ip -o link show master br0"); !strings.Contains(got, "vpn0") {
			t.Errorf("not joined: %s", got)
		}
		cmd.Process.Kill()
		cmd.Wait()
		w.until("the TAP is gone", func() bool { return !strings.Contains(w.sh("ip -o link"), "vpn0") })
		if diff := cmp.Diff(before, w.links()); diff != "" {
			t.Errorf("left behind (-before +after):\n%s", diff)
		}
	})
}

// until waits for what somebody else brings about.
func (w *world) until(what string, done func() bool) {
	w.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("not so: %s\n%s", what, w.links())
		}
	}
}

func TestBridgesThatCannotBeJoined(t *testing.T) {
	inWorld(t, func(w *world) {
		w.site("1500")
		w.openTAP("vpn0", high)
		before := w.links()
		for _, row := range []struct{ name, tap, bridge, want string }{
			{"none", "vpn0", "br7", "host: join vpn0 to bridge br7: there is no such bridge: make it (ip link add br7 type bridge; ip link set br7 up) and join the interface of the site to it"},
			{"another kind", "vpn0", "lan0", "host: join vpn0 to bridge lan0: that is an interface of the kind veth and no bridge: name one, or make it (ip link add br0 type bridge; ip link set br0 up)"},
			{"itself", "vpn0", "vpn0", "host: join vpn0 to bridge vpn0: that is an interface of the kind tuntap and no bridge: name one, or make it (ip link add br0 type bridge; ip link set br0 up)"},
			{"no TAP", "vpn7", "br0", "host: vpn7: Link not found"},
		} {
			if _, err := JoinBridge(row.tap, row.bridge, nil); err == nil || err.Error() != row.want {
				t.Errorf("%s: got %v\nwant %s", row.name, err, row.want)
			}
		}
		if diff := cmp.Diff(before, w.links()); diff != "" {
			t.Errorf("changed (-before +after):\n%s", diff)
		}
		err := asNobody(func() error { _, err := JoinBridge("vpn0", "br0", nil); return err })
		if err == nil || !errors.Is(err, os.ErrPermission) || !strings.HasSuffix(err.Error(), "needs root or CAP_NET_ADMIN") {
			t.Errorf("without privilege: %v", err)
		}
	})
}

// asNobody calls do in a thread without privilege, which ends with it.
func asNobody(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			result <- errno
			return
		}
		result <- do()
	}()
	return <-result
}

func TestWhatIsToldOfABridge(t *testing.T) {
	inWorld(t, func(w *world) {
		w.site("9000")
		w.sh("ip link set br0 down")
		w.openTAP("vpn0", net.HardwareAddr{2, 0, 0, 0, 0, 9})
		w.join("vpn0")
		for _, want := range []string{
			"level=WARN msg=\"the bridge is down and carries nothing: ip link set br0 up\" bridge=br0",
			"bridge=br0 mtu=9000 tunnel=1500",
			"bridge=br0 was=52:54:00:00:00:01 is=02:00:00:00:00:09",
		} {
			if !strings.Contains(w.log.String(), want) {
				t.Errorf("the log does not say %q:\n%s", want, w.log.String())
			}
		}
		value, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables")
		if filtered := err == nil && string(value) == "1\n"; strings.Contains(w.log.String(), "iptables") != filtered {
			t.Errorf("bridge-nf-call-iptables is %q, %v, and the log says:\n%s", value, err, w.log.String())
		}
		w.log.Reset()
		w.sh("ip link delete br0; ip link delete lan0; ip link set vpn0 mtu 1500 address fe:00:00:00:00:09")
		w.sh("ip link add br0 address 02:00:00:00:00:01 type bridge; ip link set br0 up")
		w.join("vpn0")
		if got := w.log.String(); strings.Contains(got, "WARN") || !strings.Contains(got, "joined the bridge") {
			t.Errorf("of one that is as it should be the log says:\n%s", got)
		}
	})
}

func TestAPortFollowsItsBridge(t *testing.T) {
	inWorld(t, func(w *world) {
		w.site("1500")
		w.openTAP("vpn0", high)
		p := w.join("vpn0")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Watch(ctx) }()
		isPort := func(bridge string) func() bool {
			return func() bool { return strings.Contains(w.sh("ip -o link show vpn0"), " master "+bridge+" ") }
		}
		w.sh("ip link set vpn0 nomaster")
		w.until("taken out, it is back", isPort("br0"))
		w.sh("ip link delete br0")
		w.sh("ip link add br0 type bridge")
		w.until("it is in the new bridge", isPort("br0"))
		w.sh("ip link add br1 type bridge; ip link set vpn0 master br1")
		w.sh("ip link add other type veth; ip link delete other") // something else happens
		time.Sleep(3 * rest)
		if !isPort("br1")() {
			t.Errorf("in another bridge it did not stay: %s", w.links())
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v", err)
		}
	})
}

// joinSites makes the whole path until the test ends: stations, the TAP lan1 as
// their cable, br0, vpn0, a session, a hub, the other site.
func (w *world) joinSites() (here, there *frametest.Pipe) {
	w.site("1500")
	port, cable := w.openTAP("vpn0", high), w.openTAP("lan1", nil)
	w.sh("ip link set lan1 up master br0")
	w.join("vpn0")
	h := hubtest.Start(w.T, hub.Config{Users: []hub.User{{Name: "u", Password: "p"}}})
	here, there = &frametest.Pipe{}, &frametest.Pipe{}
	up := make(chan struct{}, 10)
	c := client.New(client.Config{
		Session: session.Config{Host: "127.0.0.1", Hub: "DEFAULT", User: "u", Password: "p", Auth: wire.HashedPass,
			Bridge: true, Trust: session.Trust{Roots: h.Roots}, DialContext: h.DialContext},
		Endpoint: port,
		OnState: func(s client.State) {
			if s == client.Up {
				up <- struct{}{}
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	wg.Go(func() { h.Plug(ctx, there) })
	wg.Go(func() { frame.Join(ctx, here, cable) })
	w.Cleanup(func() { cancel(); wg.Wait() })
	select {
	case <-up:
	case <-time.After(20 * time.Second):
		w.Fatal("the tunnel did not come up")
	}
	w.until("every port forwards", func() bool {
		return strings.Count(w.sh("bridge -o link"), "state forwarding") == 3
	})
	return here, there
}

// station is the nth of a site.
func station(site, n byte) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 0, site, n} }

// trade returns what stations of one site send to those of another: from many
// addresses, of full length, tagged, and DHCP to everyone.
func trade(from, to byte) [][]byte {
	var all [][]byte
	for n := range byte(20) {
		all = append(all, frametest.Frame(station(to, n), station(from, n), 0x88b5, bytes.Repeat([]byte{n}, 1500)))
	}
	tagged := append([]byte{0, 7, 0x88, 0xb5}, bytes.Repeat([]byte{7}, 1500)...)
	all = append(all, frametest.Frame(station(to, 0), station(from, 0), frame.TypeVLAN, tagged))
	for _, ports := range [][]byte{{0, 68, 0, 67}, {0, 67, 0, 68}} { // a client's, a server's
		packet := make([]byte, 20+8+300)
		copy(packet, []byte{0x45, 0, 328 >> 8, 328 & 0xff, 0, 0, 0, 0, 64, 17, 0x79, 0xa6, 0, 0, 0, 0, 255, 255, 255, 255})
		copy(packet[20:], ports)
		copy(packet[24:], []byte{308 >> 8, 308 & 0xff})
		all = append(all, frametest.Frame(bytes.Repeat([]byte{0xff}, 6), station(from, 1), frame.TypeIPv4, packet))
	}
	return all
}

// heard waits for n frames of a site's stations; the bridge's host may speak too.
func heard(p *frametest.Pipe, site byte, n int) [][]byte {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for least := n; ; {
		all := p.Received(ctx, least)
		var own [][]byte
		for _, f := range all {
			if bytes.HasPrefix(frame.Src(f), station(site, 0)[:5]) {
				own = append(own, f)
			}
		}
		if len(own) >= n || ctx.Err() != nil {
			return own
		}
		least = len(all) + 1
	}
}

func TestABridgeCarriesWhatIsNotOurs(t *testing.T) {
	inWorld(t, func(w *world) {
		here, there := w.joinSites()
		out, in := trade(1, 2), trade(2, 1)
		here.Send(out...)
		if diff := cmp.Diff(out, heard(there, 1, len(out))); diff != "" {
			t.Errorf("to the other site (-want +got):\n%s", diff)
		}
		there.Send(in...)
		if diff := cmp.Diff(in, heard(here, 2, len(in))); diff != "" {
			t.Errorf("from the other site (-want +got):\n%s", diff)
		}
		for _, f := range there.Received(t.Context(), 0) {
			if bytes.Equal(frame.Src(f), high) {
				t.Errorf("the port itself spoke: % x", f)
			}
		}
	})
}
