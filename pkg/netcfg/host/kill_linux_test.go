package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg"
)

// addSecond makes another TAP, vpn1.
func (w *world) addSecond() {
	w.sh(`ip link add vpn1 index 101 type veth peer name hub1 netns vpn; ip -n vpn link set hub1 up`)
}

func (w *world) openSecond() *Host {
	w.Helper()
	cfg := w.config(Options{PolicyTable: 201, ConnMark: true, AcceptStaticRoutes: true})
	cfg.Interface = "vpn1"
	h, err := Open(cfg)
	if err != nil {
		w.Fatal(err)
	}
	return h
}

func secondLease() netcfg.Config {
	c := otherLease()
	c.Routes[0].Dest = netip.MustParsePrefix("172.30.0.0/16")
	return c
}

func TestTwoInstances(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addSecond()
		empty := w.state()
		first, second := w.open(everything()), w.openSecond()
		w.protect(first, "203.0.113.5")
		w.protect(second, "203.0.113.5") // the same server
		w.apply(first, lease())
		onlyFirst := w.state()
		w.apply(second, secondLease())
		w.apply(first, lease())
		w.apply(second, secondLease())
		w.show("two")
		w.apply(second, netcfg.Config{})
		w.apply(first, lease())
		if got := w.state(); got != onlyFirst {
			t.Errorf("the first alone is not as before (-before +after):\n%s", cmp.Diff(onlyFirst, got))
		}
		w.apply(second, secondLease())
		w.close(first)
		w.apply(second, secondLease())
		w.show("the second alone")
		w.close(second)
		w.same(empty, "after both")
	})
}

// Who comes second with the same table is refused, and takes nothing from the first
// while it comes or goes.
func TestTwoInstancesWithOneTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addSecond()
		first := w.open(Options{PolicyTable: 201, ConnMark: true})
		w.protect(first, "203.0.113.5")
		w.apply(first, lease())
		onlyFirst := w.state()
		second := w.openSecond()
		w.protect(second, "203.0.113.6")
		if got := w.sh("ip rule"); strings.Count(got, "lookup 201") != 2 {
			t.Errorf("the first lost its rules:\n%s", got)
		}
		if err := second.Apply(t.Context(), secondLease()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "by vpn0; give another one") {
			t.Errorf("the second in the same table: got %v", err)
		}
		w.close(second)
		if got := w.state(); got != onlyFirst {
			t.Errorf("the first alone is not as before (-before +after):\n%s", cmp.Diff(onlyFirst, got))
		}
		w.close(first)
	})
}

const holdTAP = "SOFTETHER_HOST_TEST_HOLD"

// TestHoldForKill is the instance that others kill.
func TestHoldForKill(t *testing.T) {
	if os.Getenv(holdTAP) == "" {
		return
	}
	o := everything()
	o.AcceptDNS, o.Root = true, os.Getenv(holdTAP)
	h, err := Open(Config{Interface: "vpn0", Options: o})
	if err != nil {
		t.Fatal(err)
	}
	cfg := lease()
	cfg.DNS.Servers = []netip.Addr{netip.MustParseAddr("10.77.0.1")}
	if err := errors.Join(h.Protect(t.Context(), addrs("203.0.113.5")), h.Apply(t.Context(), cfg)); err != nil {
		t.Fatal(err)
	}
	fmt.Println("HELD")
	select {}
}

// kill starts an instance on vpn0 and kills it when all is configured.
func (w *world) kill(root string) {
	w.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHoldForKill$")
	cmd.Env = append(os.Environ(), holdTAP+"="+root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	said := make([]byte, 4096)
	n, _ := out.Read(said)
	cmd.Process.Kill()
	cmd.Wait()
	if !strings.Contains(string(said[:n]), "HELD") {
		w.Fatalf("the instance to be killed says %s", said[:n])
	}
}

// root makes a root directory with a resolv.conf.
func (w *world) root() (root, conf string) {
	w.Helper()
	root = w.TempDir()
	conf = filepath.Join(root, "etc/resolv.conf")
	if err := errors.Join(os.Mkdir(filepath.Join(root, "etc"), 0o755), os.WriteFile(conf, []byte("nameserver 192.0.2.1\n"), 0o604)); err != nil {
		w.Fatal(err)
	}
	return root, conf
}

func (w *world) sameNames(conf string) {
	w.Helper()
	text, err := os.ReadFile(conf)
	info, serr := os.Stat(conf)
	if err != nil || serr != nil || string(text) != "nameserver 192.0.2.1\n" || info.Mode() != 0o604 {
		w.Errorf("resolv.conf is not as before: %q %v", text, errors.Join(err, serr))
	}
	if others, _ := filepath.Glob(filepath.Join(filepath.Dir(conf), "*softether*")); len(others) > 0 {
		w.Errorf("left behind: %v", others)
	}
}

func TestKilled(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		w.addSecond()
		second := w.openSecond()
		w.protect(second, "203.0.113.5")
		w.apply(second, secondLease())
		w.sh("ip rule add from 10.5.5.5 lookup 200; ip route add 10.6.0.0/16 via 192.0.2.1 table 200") // others'
		before := w.state()
		root, conf := w.root()
		w.kill(root)
		w.show("killed")
		cfg := w.config(Options{Root: root})
		if err := CleanUp(t.Context(), cfg); err != nil {
			t.Error(err)
		}
		w.same(before, "after CleanUp")
		w.sameNames(conf)

		w.kill(root)
		h := w.open(Options{Root: root}) // the next start
		w.close(h)
		w.same(before, "after the next start")
		w.sameNames(conf)
		w.apply(second, secondLease())
		w.same(before, "with the other instance going on")
		w.close(second)
	})
}

func TestKilledWithItsTAP(t *testing.T) {
	inWorld(t, func(w *world) {
		gone := w.withoutTAP()
		w.addTAP()
		root, conf := w.root()
		w.kill(root)
		w.sh("ip link del vpn0")
		if err := CleanUp(t.Context(), w.config(Options{Root: root})); err != nil {
			t.Error(err)
		}
		w.same(gone, "after CleanUp")
		w.sameNames(conf)
	})
}

// A container that shares the network of another loses its files with its life.
func TestKilledWithItsTAPAndItsJournal(t *testing.T) {
	inWorld(t, func(w *world) {
		gone := w.withoutTAP()
		w.addTAP()
		root, conf := w.root()
		w.kill(root)
		w.sh("ip link del vpn0; rm -r /run/softether-go")
		if err := CleanUp(t.Context(), w.config(Options{Root: root})); err != nil {
			t.Error(err)
		}
		w.same(gone, "after CleanUp")
		w.sameNames(conf)
	})
}

// The real device goes before we know, and takes its own along.
func TestTAPVanishesBeforeClose(t *testing.T) {
	inWorld(t, func(w *world) {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		need(t, err == nil, fmt.Sprintf("needs /dev/net/tun (%v): mknod /dev/net/tun c 10 200", err))
		before := w.withoutTAP()
		request, err := unix.NewIfreq("vpn0")
		if err != nil {
			t.Fatal(err)
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			t.Fatal(err)
		}
		h := w.open(everything())
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		if got := w.sh("ip -o link show vpn0; ip route"); !strings.Contains(got, "LOWER_UP> mtu 1400") ||
			!strings.Contains(got, "default via 10.77.0.1 dev vpn0") {
			t.Errorf("not configured:\n%s", got)
		}
		unix.Close(fd)
		if err := h.Apply(t.Context(), otherLease()); err == nil || !strings.Contains(err.Error(), "the interface is gone") {
			t.Errorf("without a TAP: got %v", err)
		}
		w.apply(h, netcfg.Config{})
		if got := w.sh("ip rule; ip route show table all"); strings.Contains(got, "proto 94") {
			t.Errorf("without a TAP and with nothing to configure:\n%s", got)
		}
		w.close(h)
		w.same(before, "after Close")
	})
}

// withoutTAP returns what the host looks like without vpn0.
func (w *world) withoutTAP() string {
	w.sh("ip link del vpn0")
	return w.state()
}

func (w *world) addTAP() {
	w.sh(`ip link add vpn0 index 100 type veth peer name hub netns vpn; ip -n vpn addr add 10.77.0.1/24 dev hub; ip -n vpn link set hub up`)
}
