package host

// Tests with a world run in a process of their own, in network and mount
// namespaces that end with it. They need root, ip and nft; without them they are
// skipped, unless CI=true says that they must run.

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg"
)

var update = flag.Bool("update", false, "write what the host looks like into testdata")

const inChild = "SOFTETHER_HOST_TEST_CHILD"

// need skips with the remedy, or fails where tests may not be skipped.
func need(t *testing.T, ok bool, remedy string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(remedy)
	}
	t.Skip(remedy)
}

// A world is the namespace of a test: this host with its eth0, the network that
// eth0 leads to (the namespace net), and what is behind the TAP (the namespace vpn).
type world struct {
	*testing.T
	golden strings.Builder
	log    bytes.Buffer
}

// inWorld runs the body in a process of its own.
func inWorld(t *testing.T, body func(w *world)) {
	t.Helper()
	need(t, os.Geteuid() == 0, "needs root for namespaces: run as root, as with sudo -E go test")
	for _, tool := range []string{"ip", "nft"} {
		_, err := exec.LookPath(tool)
		need(t, err == nil, "needs "+tool+": install iproute2 and nftables")
	}
	if os.Getenv(inChild) == "" {
		runChild(t)
		return
	}
	if err := unix.Mount("none", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	w := &world{T: t}
	w.build()
	body(w)
	w.compare()
	if t.Failed() {
		t.Logf("log:\n%s", w.log.String())
	}
}

func runChild(t *testing.T) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", fmt.Sprintf("-update=%t", *update))
	cmd.Env = append(os.Environ(), inChild+"=1", "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
}

func (w *world) build() {
	w.sh("ip link set lo up")
	w.sh("ip netns add net; ip netns add vpn; ip -n net link set lo up; ip -n vpn link set lo up")
	w.sh("ip link add eth0 index 10 type veth peer name host netns net")
	w.sh("ip link add vpn0 index 100 type veth peer name hub netns vpn")
	w.sh("ip addr add 192.0.2.10/24 dev eth0; ip link set eth0 up; ip route add default via 192.0.2.1 metric 100 proto dhcp")
	w.sh("ip -n net addr add 192.0.2.1/24 dev host; ip -n net link set host up")
	w.sh("ip -n net addr add 203.0.113.5/32 dev lo; ip -n net addr add 198.51.100.7/32 dev lo")
	w.sh("ip -n vpn addr add 10.77.0.1/24 dev hub; ip -n vpn link set hub up; ip -n vpn addr add 198.51.100.99/32 dev lo")
	w.sh("ip -n vpn route add default via 10.77.0.50 || ip -n vpn route add default dev hub")
	w.sh("ip -n vpn addr add 10.77.0.2/24 dev hub")
}

// sh runs shell lines in this namespace.
func (w *world) sh(line string) string {
	w.Helper()
	out, err := exec.Command("sh", "-c", line).CombinedOutput()
	if err != nil {
		w.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// fleeting are facts that differ from run to run or are always there.
var fleeting = regexp.MustCompile(`(?m)^(fe80:|ff00:|multicast ff00:|::1 |anycast ).*\n| +(pref medium|linkdown)|@[a-z0-9]+| # progname .*`)

// state is all that this program could have changed.
func (w *world) state() string {
	w.Helper()
	text := w.sh(`
		ip -o link show vpn0 2>/dev/null | sed -E 's/.*<(.*)> mtu ([0-9]+).*/vpn0 \1 mtu \2/' | sed -E 's/BROADCAST,MULTICAST,?//'
		ip -o addr show vpn0 2>/dev/null | sed -E 's/ brd .*//; s/^[0-9]+: //; s/ scope .*//; s/ +/ /g' | grep -v ' fe80:' || true
		echo '-- routes'
		ip route show table all | grep -v ' table local'
		echo '-- rules'
		ip rule show | tr '\t' ' ' | sort -t: -k1,1n -k2
		ip -6 rule show | tr '\t' ' ' | sort -t: -k1,1n -k2 | sed 's/^/6 /'
		echo '-- nftables'
		nft list ruleset
		echo '-- settings'
		cd /proc/sys/net
		for i in all eth0 vpn0; do
			test -d ipv4/conf/$i || continue
			echo $i: rp_filter $(cat ipv4/conf/$i/rp_filter) promote_secondaries $(cat ipv4/conf/$i/promote_secondaries) \
				disable_ipv6 $(cat ipv6/conf/$i/disable_ipv6) accept_ra $(cat ipv6/conf/$i/accept_ra) \
				defrtr $(cat ipv6/conf/$i/accept_ra_defrtr) autoconf $(cat ipv6/conf/$i/autoconf)
		done
	`)
	var kept []string
	for line := range strings.Lines(fleeting.ReplaceAllString(text, "")) {
		kept = append(kept, strings.TrimRight(line, " \n"))
	}
	return strings.Join(kept, "\n") + "\n"
}

// show adds the host's state to the test's golden file.
func (w *world) show(title string) {
	w.Helper()
	fmt.Fprintf(&w.golden, "== %s\n%s\n", title, w.state())
}

// compare holds what was shown against the golden file.
func (w *world) compare() {
	w.Helper()
	if w.golden.Len() == 0 || w.Failed() {
		return
	}
	path := filepath.Join("testdata", strings.TrimPrefix(w.Name(), "Test")+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(w.golden.String()), 0o644); err != nil {
			w.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		w.Fatal(err)
	}
	if d := cmp.Diff(string(want), w.golden.String()); d != "" {
		w.Errorf("host differs from %s (-want +got):\n%s", path, d)
	}
}

// open opens a Host on vpn0 that tells the test what it logs.
func (w *world) open(o Options) *Host {
	w.Helper()
	h, err := Open(w.config(o))
	if err != nil {
		w.Fatal(err)
	}
	return h
}

func (w *world) config(o Options) Config {
	return Config{Interface: "vpn0", Options: o,
		Log: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

func (w *world) apply(h *Host, c netcfg.Config) {
	w.Helper()
	if err := h.Apply(w.Context(), c); err != nil {
		w.Fatalf("apply: %v", err)
	}
}

func (w *world) protect(h *Host, servers ...string) {
	w.Helper()
	var addrs []netip.Addr
	for _, s := range servers {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	if err := h.Protect(w.Context(), addrs); err != nil {
		w.Fatalf("protect: %v", err)
	}
}

func (w *world) close(h *Host) {
	w.Helper()
	if err := h.Close(); err != nil {
		w.Fatalf("close: %v", err)
	}
}

// same fails unless the host looks as it did before.
func (w *world) same(before, what string) {
	w.Helper()
	if d := cmp.Diff(before, w.state()); d != "" {
		w.Errorf("%s: the host is not as before (-before +after):\n%s", what, d)
	}
}
