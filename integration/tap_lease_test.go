//go:build linux

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Proves that a lease that is renewed again and again touches nothing on the host:
// no answer to a ping series is missing, a connection goes on, the kernel tells of no
// change of an address, a route or a rule.
func TestTAPRenewalLeavesNoGap(t *testing.T) {
	t.Parallel()
	const lease = 12 * time.Second // T1 is 6 s
	needTool(t, "ping", "iputils-ping")
	w := newWorldWithoutDHCP(t)
	w.lan.Dhcpd(lease)
	c := w.StartTAP(fullFlags)
	c.WaitUp()
	inner := w.dialEcho()
	inner.Check(10 * time.Second)
	monitor := start(t, "ip-monitor", w.cli.Command("ip", "-4", "-o", "monitor", "link", "address", "route", "rule"))
	before, acks, discovers := w.hostState(), w.lan.Saw("DHCPACK on"), w.lan.Saw("DHCPDISCOVER")

	pinged := make(chan struct{})
	go func() {
		defer close(pinged)
		ping(t, w.cli, "-c", "130", "-i", "0.1", "-W", "5")
	}()
	defer func() { <-pinged }()
	eventually(t, 10*lease, "two renewals", func() error {
		inner.Check(10 * time.Second)
		if got := w.lan.Saw("DHCPACK on"); got < acks+2 {
			return fmt.Errorf("got %d", got-acks)
		}
		return nil
	})
	<-pinged
	w.sameHost(t, before)
	if got := w.lan.Saw("DHCPDISCOVER"); got != discovers {
		t.Errorf("discovers: got %d, want the %d of the beginning", got, discovers)
	}
	if got := monitor.Log(); got != "" {
		t.Errorf("the host has changed:\n%s", got)
	}
	c.Terminate()
	monitor.WaitLog("Deleted .*"+tapName, promptly) // it did listen
}

// Proves that an address whose lease has run out is gone from the host, with all that
// hung on it, and that the next lease brings it all back.
func TestTAPLeaseIsLostAndFoundAgain(t *testing.T) {
	t.Parallel()
	const lease = 10 * time.Second
	w := newWorldWithoutDHCP(t)
	w.lan.Dhcpd(lease)
	w.cli.IP("route", "add", "default", "via", serverAddress, "metric", "100")
	before := w.hostState()
	c := w.StartTAP(fullFlags)
	c.WaitUp()
	found := host{network: "10.200.0", gateway: lanGateway, dns: lanGateway, mtu: "1500"}
	found.check(w)

	w.lan.dhcp.Kill()
	c.WaitLog("address lost", 4*lease)
	eventually(t, 10*time.Second, "the host is as before, but for the interface and the way to the server", func() error {
		if d := cmp.Diff(before, withoutLines(w.hostState(), tapName, serverAddress+" dev eth0 proto 94")); d != "" {
			return fmt.Errorf("(-before +now)\n%s", d)
		}
		return nil
	})

	w.lan.Dhcpd(lease)
	c.WaitUp()
	found.check(w)
}

// withoutLines returns the lines of text that contain none of parts.
func withoutLines(text string, parts ...string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(line, part) }) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// Proves that a changed lease is on the host whole, and the one before it gone: if
// it comes with a renewal and keeps the address, connections with it; if it comes
// from another subnet after a refusal; and back again.
func TestTAPLeaseChanges(t *testing.T) {
	t.Parallel()
	const branch, branchGateway = "10.202.0", "10.202.0.1"
	w := newWorldWithoutDHCP(t)
	for _, address := range []string{"10.200.0.2/24", branchGateway + "/24"} {
		w.lan.ns.IP("address", "add", address, "dev", "br0")
	}
	early := []string{"--dhcp-option=option:T1,6", "--dhcp-option=option:T2,12"} // else they are minutes
	first := host{network: "10.200.0", gateway: lanGateway, dns: lanGateway, domain: lanDomain, mtu: "1500"}
	w.lan.Dnsmasq(usualLease, early...)
	c := w.StartTAP(fullFlags)
	c.WaitUp()
	first.check(w)
	inner := w.dialEcho()
	inner.Check(10 * time.Second)

	w.lan.dhcp.Kill()
	w.lan.Dnsmasq(usualLease, append(early, "--dhcp-option=option:router,10.200.0.2", "--dhcp-option=option:dns-server,10.200.0.2",
		"--dhcp-option=option:domain-name,moved", "--dhcp-option=option:mtu,1300")...)
	host{network: "10.200.0", gateway: "10.200.0.2", dns: "10.200.0.2", domain: "moved", mtu: "1300"}.check(w)
	inner.Check(10 * time.Second)

	w.lan.dhcp.Kill()
	w.lan.gateway = branchGateway
	w.lan.Dnsmasq(usualLease, append(early, "--dhcp-option=option:mtu,1400")...)
	host{network: branch, gateway: branchGateway, dns: branchGateway, domain: lanDomain, mtu: "1400"}.check(w)
	if got := w.lan.Saw("DHCPNAK"); got == 0 {
		t.Error("the server refused nothing, so it was no NAK that brought the new address")
	}
	if err := w.pageFrom(branchGateway); err != nil {
		t.Errorf("by the new address: %v", err)
	}

	// This refusal comes at T2: to dnsmasq the first address of the bridge is the
	// server's name, and at T1 only the server of the lease is listened to.
	w.lan.dhcp.Kill()
	w.lan.gateway = lanGateway
	w.lan.Dnsmasq(usualLease, early...)
	first.check(w)
	if got := strings.Count(c.Log(), "session established"); got != 1 {
		t.Errorf("sessions: got %d, want one through all changes", got)
	}
}

// A host is what a lease makes of a machine that takes all of it (fullFlags).
type host struct {
	network              string // three bytes of the address
	gateway, dns, domain string // an empty domain is none
	mtu                  string
}

// check waits until the client's namespace is so, and nothing of another lease is there.
func (h host) check(w *world) {
	w.t.Helper()
	eventually(w.t, time.Minute, fmt.Sprintf("the host is as %+v says", h), func() error {
		state, _, _ := strings.Cut(w.hostState(), "-- nftables")
		resolver, err := os.ReadFile(filepath.Join(w.clientFiles(), "resolv.conf"))
		if err != nil {
			return err
		}
		state += w.cli.IP("link", "show", "dev", tapName) + string(resolver)
		for pattern, want := range map[string]string{
			tapName + ` +inet (\S+)\.\d+/24`:                   h.network,
			`from (\S+)\.\d+ lookup 200`:                       h.network,
			`(?m)^default via (\S+) dev vpn0 .*metric 50`:      h.gateway,
			`(?m)^default via (\S+) dev vpn0 table 200`:        h.gateway,
			`(?m)^nameserver (\S+)`:                            h.dns,
			`(?m)^search (\S+)`:                                h.domain,
			tapName + `.* mtu (\d+) `:                          h.mtu,
			`(?m)^(10\.\d+\.\d+)\.0/24 dev vpn0 proto kernel `: h.network,
		} {
			var got []string
			for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(state, -1) {
				got = append(got, m[1])
			}
			if strings.Join(got, " ") != want {
				return fmt.Errorf("%s: got %q, want one %q, in\n%s", pattern, got, want, state)
			}
		}
		for _, other := range []string{"10.200.0.", "10.202.0."} {
			if other != h.network+"." && strings.Contains(state, other) {
				return fmt.Errorf("%s is still there in\n%s", other, state)
			}
		}
		return nil
	})
}
