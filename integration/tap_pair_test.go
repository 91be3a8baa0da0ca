//go:build linux

package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	secondTAP       = "vpn1"
	secondMAC       = "5e:00:53:00:00:61"
	secondForwarded = "10.210.0.60"
)

// secondFlags are of an instance beside one with forwardFlags.
var secondFlags = forwardFlags.with(flags{"host": secondServer, "tap": secondTAP, "mac": secondMAC,
	"policy-route-table": "201", "connmark": "true"})

// another returns a second VPN for the same client, which forwards ports to it too.
func (f *forwardWorld) another() *forwardWorld {
	f.t.Helper()
	w := f.world.another()
	w.lan.Dnsmasq(usualLease, "--dhcp-host="+secondMAC+","+secondForwarded)
	return &forwardWorld{w, w.lan.forwardTo(secondForwarded)}
}

// Proves that two instances with different TAPs, tables and servers do not notice
// each other, whatever becomes of one of them.
func TestTwoTunnelsSideBySide(t *testing.T) {
	t.Parallel()
	f := newForwardWorld(t)
	g := f.another()
	before := f.hostState()
	first := forwardFlags.with(byMark).with(flags{"accept-default-gateway": "true"})

	stays := g.StartTAP(secondFlags)
	stays.WaitUp()
	inner := g.dialEcho()
	alone := f.hostState()
	watch := start(t, "ip-monitor", f.cli.Command("ip", "monitor", "rule", "route"))
	undisturbed := func(t *testing.T) {
		t.Helper()
		inner.Check(5 * time.Second)
		g.Check(t, portOfClient, true)
		g.Check(t, portOfInner, true)
		for line := range strings.Lines(watch.Log()) {
			if strings.Contains(line, "Deleted") && (strings.Contains(line, secondTAP) || strings.Contains(line, "lookup 201")) {
				t.Errorf("the other instance lost %q for a while", line)
			}
		}
	}
	comes := func(t *testing.T) *tapClient {
		t.Helper()
		c := f.in(t).StartTAP(first)
		c.WaitUp()
		return c
	}
	t.Run("one comes and goes", func(t *testing.T) {
		c := comes(t)
		f.Check(t, portOfClient, true)
		f.Check(t, portOfInner, true)
		undisturbed(t)
		c.Terminate()
		f.sameHost(t, alone)
		undisturbed(t)
	})
	t.Run("one is killed and cleaned up", func(t *testing.T) {
		comes(t).Kill()
		if f.hostState() == alone {
			t.Fatal("a killed program left nothing, so nothing below would mean a thing")
		}
		f.CleanUp()
		f.sameHost(t, alone)
		undisturbed(t)
	})
	for _, row := range []struct {
		name  string
		flags flags
		words string
	}{
		{"one wants the other's interface", flags{"tap": secondTAP}, `another program has it.*; choose another name`},
		{"one wants the other's table", flags{"policy-route-table": "201"},
			`table 201 has a default route already, by ` + secondTAP + `; give another one with -policy-route-table`},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := f.in(t).StartTAP(first.with(row.flags))
			if got := c.ExitCode(upTime); got != exitLocal {
				t.Errorf("exit code: got %d, want %d", got, exitLocal)
			}
			c.wantLine(row.words)
			f.sameHost(t, alone)
			undisturbed(t)
		})
	}
	stays.Terminate()
	f.sameHost(t, before)
}

// Proves that what others change while the tunnel is up stays when it is gone, that
// what they take of ours comes back, and that the end is clean all the same.
func TestTheHostIsSharedWithOthers(t *testing.T) {
	t.Parallel()
	needTool(t, "nft", "nftables")
	w := newWorld(t)
	w.cli.IP("route", "add", "default", "via", serverAddress, "metric", "100")
	w.cli.Set("net/ipv4/conf/eth0/rp_filter", "1")
	shell := func(t *testing.T, script string) {
		t.Helper()
		if out, err := w.rootCommand("sh", "-exc", script).CombinedOutput(); err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
	}
	up := func(t *testing.T) *tapClient {
		t.Helper()
		c := w.in(t).StartTAP(fullFlags)
		c.WaitUp()
		return c
	}
	stop := func(t *testing.T, c *tapClient) {
		t.Helper()
		c.Terminate()
	}
	before := w.hostState()

	t.Run("what others add stays", func(t *testing.T) {
		const theirs = `
			ip address add 192.0.2.9/24 dev eth0
			ip route add 10.55.0.0/16 via ` + serverAddress + `
			ip route add default via ` + serverAddress + ` metric 200
			ip route add default via ` + serverAddress + ` table 77
			ip rule add from 192.0.2.9 lookup 77 priority 5000
			nft add table inet theirs
			echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter
			echo nameserver 9.9.9.9 >/etc/resolv.conf`
		const undo = `
			ip rule del priority 5000
			ip route flush table 77
			ip route del default metric 200
			ip route del 10.55.0.0/16
			ip address del 192.0.2.9/24 dev eth0
			nft delete table inet theirs
			echo 1 >/proc/sys/net/ipv4/conf/eth0/rp_filter
			echo nameserver 127.0.0.53 >/etc/resolv.conf`
		shell(t, theirs)
		want := w.hostState()
		shell(t, undo)
		w.sameHost(t, before)
		c := up(t)
		shell(t, theirs)
		c.WaitUp()
		stop(t, c)
		w.sameHost(t, want)
		shell(t, undo)
	})

	t.Run("what others take comes back", func(t *testing.T) {
		c := up(t)
		want := sortedLines(w.hostState())
		for _, script := range []string{
			`ip rule del lookup 200; ip rule del lookup 200; ip route flush table 200`,
			`ip route del default dev ` + tapName,
			`ip route flush proto 94`,
			`ip address flush dev ` + tapName,
			`ip link set ` + tapName + ` down`,
			`nft flush ruleset`,
		} {
			shell(t, script)
			eventually(t, 15*time.Second, "the host is configured again after "+script, func() error {
				if d := cmp.Diff(want, sortedLines(w.hostState())); d != "" {
					return fmt.Errorf("(-before +after):\n%s", d)
				}
				return nil
			})
			c.WaitUp()
		}
		stop(t, c)
		w.sameHost(t, before)
	})

	t.Run("a journal that others removed is not missed", func(t *testing.T) {
		c := up(t)
		shell(t, `find /run/softether-go -type f -delete`)
		stop(t, c)
		w.sameHost(t, before)
	})

	t.Run("without the interface it ends", func(t *testing.T) {
		c := up(t)
		shell(t, `ip link del `+tapName)
		if got := c.ExitCode(upTime); got != exitLocal {
			t.Errorf("exit code: got %d, want %d", got, exitLocal)
		}
		c.wantLine(`interface`)
		w.sameHost(t, before)
	})
}

// sortedLines is a text without the order of its lines.
func sortedLines(text string) []string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return lines
}
