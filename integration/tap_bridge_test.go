//go:build linux

package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// bridgeFlags join the client's namespace, a branch, to what is behind the hub.
var bridgeFlags = tapFlags.with(flags{"bridge": branchBridge, "reconnect-max-delay": "1s"})

const (
	branchBridge = "br0"
	branchHosts  = 6 // more than the three stations of a session without bridge mode
)

// A branch is a Linux bridge in the client's namespace with some hosts on it.
type branch struct {
	w     *world
	hosts []*netns
	macs  []string
}

// newBranch makes hosts without an address. The bridge has none either.
func (w *world) newBranch() *branch {
	w.t.Helper()
	b := &branch{w: w}
	w.cli.IP("link", "add", branchBridge, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
	w.cli.IP("link", "set", branchBridge, "up")
	for i := range branchHosts {
		host, port := newNetns(w.t, "pc"), fmt.Sprintf("pc%d", i)
		mac := fmt.Sprintf("5e:00:53:00:01:%02x", i)
		w.cli.IP("link", "add", port, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", host.name)
		// A bridge takes the lowest address of its ports, which is not to be the TAP's.
		w.cli.IP("link", "set", port, "address", fmt.Sprintf("f2:00:53:00:02:%02x", i), "master", branchBridge, "up")
		host.IP("link", "set", "eth0", "up")
		b.hosts, b.macs = append(b.hosts, host), append(b.macs, mac)
	}
	return b
}

// takeLease has one host ask for an address by a DHCP client of the usual kind.
func (b *branch) takeLease(i int) {
	b.w.t.Helper()
	needTool(b.w.t, "udhcpc", "udhcpc")
	script := filepath.Join(run.dir, "udhcpc-bound")
	const text = "#!/bin/sh\n[ $1 != bound ] || ip address add $ip/$mask dev $interface\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		b.w.t.Fatal(err)
	}
	out, err := runLimited(b.hosts[i].Command("udhcpc", "-f", "-q", "-n", "-t", "10", "-T", "1", "-i", "eth0", "-s", script), 30*time.Second)
	if err != nil {
		b.w.t.Fatalf("no address for host %d: %v\n%s", i, err, out)
	}
}

// setAddress gives one host an address outside the range of the LAN's DHCP.
func (b *branch) setAddress(i int) {
	b.w.t.Helper()
	b.hosts[i].IP("address", "add", fmt.Sprintf("10.200.0.%d/24", 200+i), "dev", "eth0")
}

// reached counts the hosts that reach the LAN's gateway.
func (b *branch) reached() int {
	results := make(chan error, len(b.hosts))
	for _, host := range b.hosts {
		go func() {
			_, err := pingOutput(host, "-c", "1", "-W", "2")
			results <- err
		}()
	}
	n := 0
	for range b.hosts {
		if <-results == nil {
			n++
		}
	}
	return n
}

// waitAll waits until every host reaches the LAN's gateway.
func (b *branch) waitAll(t *testing.T, within time.Duration) {
	t.Helper()
	eventually(t, within, "all hosts reach the LAN", func() error {
		if got := b.reached(); got != branchHosts {
			return fmt.Errorf("got %d, want %d", got, branchHosts)
		}
		return nil
	})
}

// links is what the client's namespace has of interfaces, their bridge and their
// addresses, but for the TAP itself. It does not ask "ip link", which looks for the
// namespaces of others that come and go meanwhile.
func (b *branch) links() string {
	b.w.t.Helper()
	return b.w.cli.command(b.w.t, "sh", "-c", `
		cd /sys/class/net
		for d in *; do
			[ $d = `+tapName+` ] || echo $d $(cat $d/address $d/mtu $d/flags) $(readlink $d/master)
		done
		ip -o -4 address show`)
}

// Proves that two sites are one network by -bridge: the hosts of the branch, more
// than the hub takes for stations, get addresses from the LAN's DHCP server, reach it
// and are reached, with frames of any kind and full length, also after the server has
// gone and come back; the machine itself gets no address, and its bridge stays as it was.
func TestTAPBridgeJoinsSites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.newBranch()
	links, before := b.links(), w.hostState()
	c := w.StartTAP(bridgeFlags)
	c.WaitLog("tunnel up", upTime)
	b.takeLease(0)
	for i := range branchHosts - 1 {
		b.setAddress(i + 1)
	}
	pc := b.hosts[0]

	t.Run("every host", func(t *testing.T) {
		b.waitAll(t, upTime)
		behind := w.srv.Hub("MacTable")
		learned := w.cli.command(t, "bridge", "fdb", "show", "dev", tapName)
		for _, mac := range b.macs {
			if entry := strings.ToUpper(strings.ReplaceAll(mac, ":", "-")); !strings.Contains(behind, entry) {
				t.Errorf("the hub knows nothing of %s:\n%s", entry, behind)
			}
		}
		if mac := openRaw(t, w.lan.ns, "br0").mac.String(); !strings.Contains(learned, mac) {
			t.Errorf("the bridge has not learned %s on %s:\n%s", mac, tapName, learned)
		}
	})
	t.Run("full length", func(t *testing.T) {
		ping(t, pc, "-c", "3", "-M", "do", "-s", "1472", "-W", "5")
		checkFrames(t, w.lan.ns, "br0", pc, "eth0")
	})
	t.Run("broadcast and multicast", func(t *testing.T) {
		checkBroadcast(t, w.lan.ns, pc)
		checkBroadcast(t, pc, w.lan.ns)
		checkMulticast(t, w.lan.ns, "br0", pc, "eth0")
		checkMulticast(t, pc, "eth0", w.lan.ns, "br0")
	})
	t.Run("64 MiB each way", func(t *testing.T) { checkBulk(t, pc, 64<<20) })
	t.Run("after a restart of the server", func(t *testing.T) {
		seen := len(c.Log())
		w.srv.Stop()
		w.srv.Start()
		w.lan.Attach()
		c.WaitLogAfter(seen, "tunnel up", recoverTime)
		b.waitAll(t, recoverTime)
	})
	if now := b.links(); now != links {
		t.Errorf("beside %s the interfaces have changed:\ngot  %s\nwant %s", tapName, now, links)
	}
	for _, m := range regexp.MustCompile(`DHCP[A-Z]+\(br0\).* ((?:[0-9a-f]{2}:){5}[0-9a-f]{2})`).FindAllStringSubmatch(w.lan.dhcp.Log(), -1) {
		if m[1] != b.macs[0] {
			t.Errorf("the DHCP server heard of %s, and only %s has asked on purpose: %s", m[1], b.macs[0], m[0])
		}
	}
	c.Terminate()
	if now := b.links(); now != links {
		t.Errorf("the interfaces are not as before:\ngot  %s\nwant %s", now, links)
	}
	w.sameHost(t, before)
}

// command runs a short program in the namespace.
func (n *netns) command(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := runLimited(n.Command(argv...), 30*time.Second)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

// checkBroadcast sends to the LAN's broadcast address until it is heard.
func checkBroadcast(t *testing.T, from, to *netns) {
	t.Helper()
	listener := to.ListenPacket("0.0.0.0:5008")
	defer listener.Close()
	checkHeard(t, from.ListenPacket("0.0.0.0:0"), &net.UDPAddr{IP: net.IPv4(10, 200, 0, 255), Port: 5008}, listener)
}

// checkBulk compares the sum of a transfer each way between a host and the LAN.
func checkBulk(t *testing.T, host *netns, size int64) {
	curl := []string{"curl", "--silent", "--show-error", "--fail", "--max-time", "120"}
	down := host.Command(append(curl, fmt.Sprintf("http://%s/stream/bulk/%d", lanGateway, size))...)
	if got, want := sumOfOutput(down), sumOf("bulk", size); got != want {
		t.Errorf("down: got sum %s, want %s", got, want)
	}
	up := host.Command(append(curl, "--upload-file", "-", "http://"+lanGateway+"/sink")...)
	up.Stdin = streamOf("bulk", size)
	got, err := up.Output()
	if want := fmt.Sprintf("%d %s", size, sumOf("bulk", size)); err != nil || string(got) != want {
		t.Errorf("up: the site received %q, %v, want %q", got, err, want)
	}
}

// Proves what the bridge mode is for, and what a user's policy makes of it: without
// it most hosts are not heard, and one of whom it is forbidden is told so at once.
func TestTAPBridgeNeedsTheMode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.newBranch()
	for i := range branchHosts {
		b.setAddress(i)
	}
	few := func(t *testing.T) {
		eventually(t, 30*time.Second, "some hosts reach the LAN", func() error {
			if b.reached() == 0 {
				return fmt.Errorf("none")
			}
			return nil
		})
		if got := b.reached(); got == branchHosts {
			t.Errorf("all %d hosts reach the LAN", got)
		}
	}
	t.Run("a TAP put on the bridge by hand", func(t *testing.T) {
		c := w.in(t).StartTAP(tapFlags)
		c.WaitLog("tunnel up", upTime)
		w.cli.IP("address", "flush", "dev", tapName)
		w.cli.IP("link", "set", tapName, "master", branchBridge)
		few(t)
	})
	t.Run("a policy against bridges", func(t *testing.T) {
		w.srv.Policy(userName, "NoBridge", "yes")
		c := w.in(t).StartTAP(bridgeFlags)
		c.WaitLog("tunnel up", upTime)
		c.WaitLog(`level=WARN msg="the user's policy limits the bridge`, upTime)
		few(t)
	})
	t.Run("a policy against bridges and routers", func(t *testing.T) {
		w.srv.Policy(userName, "NoRouting", "yes")
		links := b.links()
		c := w.in(t).StartTAP(bridgeFlags)
		if got := c.ExitCode(upTime); got != exitRefused {
			t.Errorf("exit code: got %d, want %d", got, exitRefused)
		}
		if last := lastLines(c.Log(), 1); !strings.Contains(last, "bridge mode is not allowed for this user") {
			t.Errorf("the last line is %q", last)
		}
		if now := b.links(); now != links {
			t.Errorf("the interfaces are not as before:\ngot  %s\nwant %s", now, links)
		}
	})
	t.Run("no such bridge", func(t *testing.T) {
		c := w.in(t).StartTAP(bridgeFlags.with(flags{"bridge": "br9"}))
		if got := c.ExitCode(upTime); got != exitLocal {
			t.Errorf("exit code: got %d, want %d", got, exitLocal)
		}
		if last := lastLines(c.Log(), 1); !strings.Contains(last, "join "+tapName+" to bridge br9: there is no such bridge: make it") {
			t.Errorf("the last line is %q", last)
		}
	})
}
