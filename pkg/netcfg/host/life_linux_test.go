package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg"
	"softether-go/pkg/netcfg/host/resolv"
)

func TestWorseAndBetterDefaultRoutes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.sh("ip route add default via 192.0.2.1")
		before := w.state()
		h := w.open(Options{AcceptDefaultGateway: true})
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		w.show("beside one without a metric")
		if got := w.sh("ip route get 198.51.100.99"); !strings.Contains(got, "dev vpn0") {
			t.Errorf("not by the tunnel: %s", got)
		}
		w.close(h)
		w.same(before, "after Close")
	})
}

func TestStrictReversePath(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		before := w.state()
		h := w.open(everything())
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		w.show("loosened")
		w.close(h)
		w.same(before, "after Close")
	})
}

func TestSettingOfSomeoneElseStays(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		h := w.open(Options{AcceptDefaultGateway: true})
		w.apply(h, lease())
		w.sh("echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter")
		w.apply(h, lease())
		w.close(h)
		if got := strings.TrimSpace(w.sh("cat /proc/sys/net/ipv4/conf/eth0/rp_filter")); got != "0" {
			t.Errorf("rp_filter of eth0 is %s, someone had set it to 0", got)
		}
	})
}

func TestNamesOfSomeoneElseStay(t *testing.T) {
	inWorld(t, func(w *world) {
		root, conf := w.root()
		h := w.open(Options{AcceptDNS: true, Root: root})
		c := lease()
		c.DNS.Servers = []netip.Addr{netip.MustParseAddr("10.77.0.1")}
		w.apply(h, c)
		if text, _ := os.ReadFile(conf); !strings.Contains(string(text), "10.77.0.1") {
			t.Fatalf("the lease's name server is not in %q", text)
		}
		const theirs = "nameserver 9.9.9.9\n"
		if err := os.WriteFile(conf, []byte(theirs), 0o644); err != nil {
			t.Fatal(err)
		}
		w.apply(h, netcfg.Config{})
		w.close(h)
		if text, err := os.ReadFile(conf); err != nil || string(text) != theirs {
			t.Errorf("got %q, %v, someone had made it %q", text, err, theirs)
		}
		if got, err := os.ReadDir(filepath.Dir(conf)); err != nil || len(got) != 1 {
			t.Errorf("beside resolv.conf: %v, %v", got, err)
		}
	})
}

func TestReadOnlySettings(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		before := w.state()
		w.sh("mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys")
		h := w.open(Options{AcceptDefaultGateway: true, PolicyTable: 200})
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		w.show("applied with a read-only /proc/sys")
		w.close(h)
		w.same(before, "after Close")
	})
}

// otherLease is a lease of another network, sameSubnet one of the same.
func otherLease() netcfg.Config {
	return netcfg.Config{Address: netip.MustParsePrefix("10.88.0.50/16"), Gateway: netip.MustParseAddr("10.88.0.1"),
		Routes: []netcfg.Route{{Dest: netip.MustParsePrefix("172.20.0.0/16"), Via: netip.MustParseAddr("10.88.0.3")}}}
}

func sameSubnet() netcfg.Config {
	c := lease()
	c.Address = netip.MustParsePrefix("10.77.0.51/24")
	return c
}

func TestLeaseChanges(t *testing.T) {
	inWorld(t, func(w *world) {
		h := w.open(everything())
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		for _, next := range []struct {
			name string
			cfg  netcfg.Config
		}{{"another subnet", otherLease()}, {"back", lease()}, {"the same subnet", sameSubnet()}} {
			events := w.monitor(func() { w.apply(h, next.cfg) })
			if strings.Contains(events, "Deleted default") || strings.Contains(events, "Deleted 203.0.113.5") {
				t.Errorf("%s: a gap:\n%s", next.name, events)
			}
			if !strings.Contains(events, "Deleted") {
				t.Errorf("%s: nothing heard:\n%s", next.name, events)
			}
			w.show(next.name)
			fresh := w.state()
			w.apply(h, netcfg.Config{})
			w.apply(h, next.cfg)
			w.same(fresh, next.name+", not by a change")
		}
		w.close(h)
	})
}

// monitor returns what ip monitor hears while something is done.
func (w *world) monitor(do func()) string {
	w.Helper()
	cmd := exec.Command("ip", "-4", "monitor", "route")
	var heard strings.Builder
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		buf := make([]byte, 1<<16)
		for {
			n, err := out.Read(buf)
			if err != nil {
				return
			}
			lines <- string(buf[:n])
		}
	}()
	// It listens when it reports a route made for it, and has heard all when it
	// reports another one.
	mark := func(route string) {
		for !strings.Contains(heard.String(), route) {
			w.sh("ip route replace unreachable " + route + " metric 4242; ip route del unreachable " + route + " metric 4242")
			select {
			case line := <-lines:
				heard.WriteString(line)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	mark("240.0.0.1")
	do()
	mark("240.0.0.2")
	cmd.Process.Kill()
	for range lines {
	}
	cmd.Wait()
	return heard.String()
}

func TestFailedApplyIsUndone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.sh("ip route add 172.20.0.0/16 via 192.0.2.1 metric 50")
		before := w.state()
		h := w.open(everything())
		w.protect(h, "203.0.113.5")
		protected := w.state()
		err := h.Apply(t.Context(), lease())
		if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "someone else has a route") {
			t.Errorf("got %v", err)
		}
		w.same(protected, "after a failed Apply")
		plain := lease()
		plain.Routes = nil
		w.apply(h, plain)
		applied := w.state()
		if err := h.Apply(t.Context(), lease()); err == nil {
			t.Error("no error")
		}
		w.same(applied, "after a failed change")
		w.close(h)
		w.same(before, "after Close")
	})
}

// A flaky namer fails on demand; being the last step, all others are undone.
type flaky struct {
	err error
	set resolv.Names
}

func (f *flaky) Set(_ context.Context, n resolv.Names) error {
	if f.err == nil {
		f.set = n
	}
	return f.err
}
func (f *flaky) Restore(context.Context) error { f.set = resolv.Names{}; return nil }
func (f *flaky) Held() bool                    { return f.set.Servers != nil }

func TestFailedLastStepUndoesAll(t *testing.T) {
	inWorld(t, func(w *world) {
		o := everything()
		o.AcceptDNS = true
		cfg := lease()
		cfg.DNS.Servers = []netip.Addr{netip.MustParseAddr("10.77.0.1")}
		h := w.open(o)
		f := &flaky{err: errors.New("no room")}
		h.act.names = f
		w.protect(h, "203.0.113.5")
		before := w.state()
		err := h.Apply(t.Context(), cfg)
		if !errors.Is(err, f.err) || strings.Contains(err.Error(), "undo") {
			t.Errorf("got %v", err)
		}
		w.same(before, "after a failed Apply")
		f.err = nil
		w.apply(h, cfg)
		applied := w.state()
		f.err = errors.New("no room again")
		other := otherLease()
		other.DNS.Servers = []netip.Addr{netip.MustParseAddr("10.88.0.1")}
		if err := h.Apply(t.Context(), other); !errors.Is(err, f.err) {
			t.Errorf("got %v", err)
		}
		w.same(applied, "after a failed change")
		if got := f.set.Servers[0].String(); got != "10.77.0.1" {
			t.Errorf("asks %s", got)
		}
		w.close(h)
	})
}

func TestCancelledApplyChangesNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		h := w.open(everything())
		before := w.state()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := h.Apply(ctx, lease()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		w.same(before, "after a cancelled Apply")
		w.close(h)
		if err := h.Apply(t.Context(), lease()); !errors.Is(err, os.ErrClosed) {
			t.Errorf("after Close: got %v", err)
		}
		if err := h.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

func TestRefusedLeaseChangesNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		h := w.open(everything())
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		before := w.state()
		bad := lease()
		bad.Address = netip.MustParsePrefix("192.0.2.77/24")
		err := h.Apply(t.Context(), bad)
		if !errors.Is(err, ErrRefused) {
			t.Errorf("got %v", err)
		}
		w.same(before, "after a refused lease")
		w.close(h)
	})
}

func TestOpenRefuses(t *testing.T) {
	inWorld(t, func(w *world) {
		before := w.state()
		for _, tt := range []struct{ name, tap, want string }{
			{"no name", "", "is no name of an interface"},
			{"a long name", "a-name-of-17-chars", "up to 15 characters"},
			{"a path", "../x", "is no name of an interface"},
			{"a missing interface", "vpn9", "vpn9: no such interface"},
		} {
			if _, err := Open(Config{Interface: tt.tap}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %v, want one with %q", tt.name, err, tt.want)
			}
		}
		for name, o := range map[string]Options{
			"add -policy-route-table": {ConnMark: true}, "kernel's own": {PolicyTable: 254}, "out of range": {PolicyTable: keepBase + 5},
		} {
			if _, err := Open(Config{Interface: "vpn0", Options: o}); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want one with %q", err, name)
			}
		}
		h := w.open(Options{})
		if _, err := Open(w.config(Options{})); err == nil || !strings.Contains(err.Error(), "another instance uses this interface") {
			t.Errorf("a second instance: got %v", err)
		}
		w.close(h)
		w.same(before, "after all that")
	})
}

// eventually waits until the host looks as it should.
func (w *world) eventually(what, line, want string) {
	w.Helper()
	var got string
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = w.sh(line + " || true"); strings.Contains(got, want) {
			return
		}
	}
	w.Errorf("%s: %s says\n%swant %s", what, line, got, want)
}

func TestWatchFollowsTheHost(t *testing.T) {
	inWorld(t, func(w *world) {
		o := everything()
		h := w.open(o)
		w.protect(h, "203.0.113.5", "192.0.2.99")
		w.apply(h, lease())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Watch(ctx) }()

		const server = "ip route show 203.0.113.5"
		w.sh("ip route replace default via 192.0.2.254 dev eth0 metric 100 proto dhcp")
		w.eventually("another gateway", server, "via 192.0.2.254 dev eth0")
		w.eventually("another gateway, on the way back", fmt.Sprint("ip route show table ", keepBase+100), "default via 192.0.2.254")

		w.sh(`ip link add wlan0 index 11 type veth peer name host2 netns net; ip -n net link set host2 up
			ip addr add 192.0.3.10/24 dev wlan0; ip link set wlan0 up; ip route add default via 192.0.3.1 metric 600`)
		w.eventually("another interface, its address", "ip rule", "from 192.0.3.10 lookup")
		w.sh("ip route add blackhole 198.51.100.66")
		w.eventually("someone who is banned, on the way back", fmt.Sprint("ip route show table ", keepBase+100), "unreachable 198.51.100.66")
		w.sh("ip link set eth0 down")
		w.eventually("the other interface", server, "via 192.0.3.1 dev wlan0")
		w.sh("ip link set wlan0 down")
		w.eventually("no network", server, "unreachable 203.0.113.5")
		w.sh("ip link set eth0 up; ip route add default via 192.0.2.1 metric 100 proto dhcp")
		w.eventually("the network again", server, "via 192.0.2.1 dev eth0")
		w.eventually("a server on link", "ip route show 192.0.2.99", "dev eth0")

		w.sh("ip rule del pref 5100; ip route del default dev vpn0")
		w.eventually("what someone removed", "ip rule", "from 10.77.0.50 lookup 200")
		w.eventually("what someone removed", "ip route", "default via 10.77.0.1 dev vpn0")
		w.sh("ip addr add 10.77.0.77/16 dev wlan0; ip link set wlan0 up") // would be refused in a new lease
		w.sh("ip route replace default via 192.0.2.253 dev eth0 metric 100 proto dhcp")
		w.eventually("beside a subnet that overlaps", server, "via 192.0.2.253 dev eth0")

		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v", err)
		}
		w.close(h)
		if got := w.sh("ip rule; ip route show table all; nft list ruleset"); strings.Contains(got, "proto 94") || strings.Contains(got, "softether") {
			t.Errorf("left behind:\n%s", got)
		}
	})
}

// A virtual interface is made anew when networking is restarted, and gets its address
// again from DHCP.
func TestUnderlayMadeAnew(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		w.serve("", ":2222")
		w.serve("net", ":443")
		h := w.open(Options{AcceptDefaultGateway: true})
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Watch(ctx) }()
		works := func(when, way, own string) {
			t.Helper()
			w.eventually(when+", the server's way", "ip route get 203.0.113.5", way)
			w.eventually(when+", the way back", "ip rule", "from "+own+" lookup")
			w.eventually(when+", the filter", "cat /proc/sys/net/ipv4/conf/eth0/rp_filter", "2")
			w.reaches(true, "", own, "203.0.113.5:443")
			w.reaches(true, "net", outside, own+":2222")
		}
		works("at first", "via 192.0.2.1 dev eth0", "192.0.2.10")
		w.sh("ip addr flush dev eth0; ip addr add 192.0.2.11/24 dev eth0; ip route add default via 192.0.2.1 metric 100 mtu 1300 src 192.0.2.11")
		works("with another address", "via 192.0.2.1 dev eth0 src 192.0.2.11", "192.0.2.11")
		w.eventually("the MTU of the default route", "ip route show 203.0.113.5", "mtu 1300")
		w.eventually("the MTU on the way back", fmt.Sprint("ip route show table ", keepBase+100), "mtu 1300")
		w.sh(`ip link del eth0; ip link add eth0 index 12 type veth peer name host netns net
			ip -n net addr add 192.0.2.1/24 dev host; ip -n net link set host up
			ip addr add 192.0.2.10/24 dev eth0; ip link set eth0 up; ip route add default via 192.0.2.1 metric 100 proto dhcp`)
		works("with another interface", "via 192.0.2.1 dev eth0 src 192.0.2.10", "192.0.2.10")
		cancel()
		<-done
		w.close(h)
		if got := w.sh("ip rule; ip route show table all; nft list ruleset; cat /proc/sys/net/ipv4/conf/eth0/rp_filter"); strings.Contains(got, "proto 94") ||
			strings.Contains(got, "softether") || !strings.HasSuffix(got, "1\n") {
			t.Errorf("left behind:\n%s", got)
		}
	})
}

func TestBrokenJournalIsReported(t *testing.T) {
	inWorld(t, func(w *world) {
		cfg := w.config(Options{}).withDefaults().inNamespace()
		if err := errors.Join(os.MkdirAll(cfg.StateDir, 0o755), os.WriteFile(journalPath(cfg.StateDir, "vpn7"), []byte("{"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := CleanUp(t.Context(), w.config(Options{})); err == nil || !strings.Contains(err.Error(), "vpn7.json") {
			t.Errorf("got %v", err)
		}
		w.close(w.open(Options{})) // it does not keep us from starting
	})
}

func TestMarksAsIntended(t *testing.T) {
	inWorld(t, func(w *world) {
		h := w.open(Options{PolicyTable: 200, ConnMark: true, AcceptDefaultGateway: true})
		w.apply(h, lease())
		ours := strings.Replace(fleeting.ReplaceAllString(w.sh("nft list ruleset"), ""), "\tflags owner\n\n", "", 1)
		w.close(h)
		w.sh("nft -f testdata/marks.nft")
		if d := cmp.Diff(w.sh("nft list ruleset"), ours); d != "" {
			t.Errorf("marks differ from testdata/marks.nft (-want +got):\n%s", d)
		}
	})
}

// Someone who flushes all rules does not get ours: the table has an owner.
func TestOthersCannotTouchTheMarks(t *testing.T) {
	inWorld(t, func(w *world) {
		h := w.open(Options{PolicyTable: 200, ConnMark: true})
		w.apply(h, lease())
		before := w.state()
		w.sh("nft flush ruleset")
		if out, err := exec.Command("nft", "delete", "table", "inet", "softether-go-vpn0").CombinedOutput(); err == nil {
			t.Errorf("someone removed our table: %s", out)
		}
		w.same(before, "after others tried")
		w.close(h)
	})
}

func TestStateDirectoryIsLost(t *testing.T) {
	inWorld(t, func(w *world) {
		before := w.state()
		h := w.open(everything())
		w.apply(h, lease())
		w.sh("rm -r /run/softether-go")
		w.apply(h, otherLease())
		w.sh("rm -r /run/softether-go; touch /run/softether-go")
		if err := h.Apply(t.Context(), lease()); err == nil {
			t.Error("changed the host without a journal")
		}
		w.close(h)
		w.same(before, "after Close")
	})
}

func TestReadOnlyStateDirectory(t *testing.T) {
	inWorld(t, func(w *world) {
		w.sh("mkdir /run/ro; mount -t tmpfs -o ro none /run/ro")
		before := w.state()
		o := everything()
		o.StateDir = "/run/ro/softether-go"
		h := w.open(o)
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		if got := w.sh("ip route"); !strings.Contains(got, "default via 10.77.0.1 dev vpn0") {
			t.Errorf("not configured:\n%s", got)
		}
		w.close(h)
		w.same(before, "after Close")
		if !strings.Contains(w.log.String(), "no journal") {
			t.Error("not a word of it in the log")
		}
		if err := CleanUp(t.Context(), w.config(o)); err != nil {
			t.Error(err)
		}
	})
}
