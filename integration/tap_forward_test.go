//go:build linux

package integration

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	forwardedMAC     = "5e:00:53:00:00:60"
	forwardedAddress = "10.200.0.60" // what the DHCP server has for that MAC

	outsideAddress = "198.51.100.77" // beyond the LAN's gateway
	gatewayOutside = "198.51.100.1"  // the gateway's address there
	portOfClient   = "8080"          // forwarded by the gateway to the client's port 80
	portOfInner    = "8081"          // forwarded to the client's 8081, and by it to the container

	bridgeAddress    = "172.18.0.1"
	containerAddress = "172.18.0.2"

	markedNet  = "10.98.0.0/16" // others have a route there for packets with their mark
	markedHost = "10.98.0.1"
)

// forwardFlags are those of a client that the gateway forwards ports to.
var (
	forwardFlags = tapFlags.with(flags{"mac": forwardedMAC})
	byTable      = flags{"policy-route-table": "200"}
	byMark       = byTable.with(flags{"connmark": "true"})
)

// A forwardWorld has a host outside, whose connections the LAN's gateway forwards to
// the client without hiding where they come from. The client serves, and so does a
// container behind it. Its own default route leads elsewhere.
type forwardWorld struct {
	*world
	out *netns
}

func newForwardWorld(t testing.TB) *forwardWorld {
	t.Helper()
	needTool(t, "nft", "nftables")
	w := newWorldWithoutDHCP(t)
	w.lan.Dnsmasq(usualLease, "--dhcp-host="+forwardedMAC+","+forwardedAddress)
	f := &forwardWorld{w, w.lan.forwardTo(forwardedAddress)}
	w.proxy = ""
	w.cli.IP("route", "add", "default", "via", serverAddress)
	startSite(t, w.cli)
	f.container()
	return f
}

// forwardTo makes a host outside and forwards the ports from there to an address.
func (l *lan) forwardTo(address string) *netns {
	l.t.Helper()
	out := newNetns(l.t, "out")
	link(out, l.ns, outsideAddress+"/24", gatewayOutside+"/24")
	out.IP("route", "add", "default", "via", gatewayOutside)
	l.ns.Set("net/ipv4/ip_forward", "1")
	l.ns.NFT(`table ip forwarded {
		chain prerouting { type nat hook prerouting priority dstnat
			iifname eth0 tcp dport ` + portOfClient + ` dnat to ` + address + `:80
			iifname eth0 tcp dport ` + portOfInner + ` dnat to ` + address + `
		}
	}`)
	return out
}

// container stands behind the client as Docker has it.
func (f *forwardWorld) container() {
	f.t.Helper()
	c := newNetns(f.t, "ctr")
	f.cli.IP("link", "add", "docker0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
	f.cli.IP("address", "add", bridgeAddress+"/16", "dev", "docker0")
	f.cli.IP("link", "set", "docker0", "up")
	f.cli.IP("link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", c.name)
	f.cli.IP("link", "set", "veth0", "master", "docker0", "up")
	c.IP("address", "add", containerAddress+"/16", "dev", "eth0")
	c.IP("link", "set", "eth0", "up")
	c.IP("route", "add", "default", "via", bridgeAddress)
	f.cli.Set("net/ipv4/ip_forward", "1")
	f.cli.NFT(`table ip docker {
		chain prerouting { type nat hook prerouting priority dstnat
			tcp dport ` + portOfInner + ` dnat to ` + containerAddress + `:80
		}
	}`)
	startSite(f.t, c)
}

// Start brings the program up in a test, at whose end it stops and the host is as before.
func (f *forwardWorld) Start(t *testing.T, more flags) *tapClient {
	t.Helper()
	before := f.hostState()
	c := f.in(t).StartTAP(forwardFlags.with(more))
	t.Cleanup(func() {
		c.Terminate()
		f.sameHost(t, before)
	})
	c.WaitUp()
	return c
}

// fromOutside fetches the page by a forwarded port.
func (f *forwardWorld) fromOutside(port string) error {
	outside := *f.world
	outside.cli = f.out
	_, err := outside.Curl("--max-time", "2", "http://"+gatewayOutside+":"+port+"/")
	return err
}

// Check says whether the page must come to the outside.
func (f *forwardWorld) Check(t *testing.T, port string, want bool) {
	t.Helper()
	if want {
		eventually(t, 15*time.Second, "port "+port+" answers the outside", func() error { return f.fromOutside(port) })
		return
	}
	const timeout = "exit status 28" // curl's: not refused, but lost
	if err := f.fromOutside(port); err == nil || !strings.Contains(err.Error(), timeout) {
		t.Errorf("port %s from the outside: got %v, want %s", port, err, timeout)
	}
}

// Set writes a setting under /proc/sys.
func (n *netns) Set(path, value string) {
	n.t.Helper()
	err := n.do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0o644) })
	if err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
}

// NFT runs a script of nft(8) in the namespace and returns what that prints.
func (n *netns) NFT(script string) string {
	n.t.Helper()
	cmd := n.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("nft: %v\n%s\n%s", err, out, script)
	}
	return string(out)
}

// Proves that a port forwarded to us by the VPN's side is answered by the tunnel: by
// the client itself with a policy table, by what is behind it with marks.
func TestForwardedPorts(t *testing.T) {
	t.Parallel()
	f := newForwardWorld(t)
	for _, row := range []struct {
		name              string
		flags             flags
		client, container bool // who answers
	}{
		{"without a flag", flags{}, false, false},
		{"with a policy table", byTable, true, false},
		{"with marks", byMark, true, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			f.Start(t, row.flags)
			f.Check(t, portOfClient, row.client)
			f.Check(t, portOfInner, row.container)
		})
	}
	t.Run("with a strict reverse-path filter", f.strictFilter)
	t.Run("with a table that has routes of others", f.sharedTable)
	t.Run("with a table that has a default route", f.takenTable)
	t.Run("with marks of others", f.foreignMarks)
}

// strictFilter: what comes for the container comes by the "wrong" interface.
func (f *forwardWorld) strictFilter(t *testing.T) {
	all := []string{"all", "default", "lo", "eth0", "docker0", "veth0"}
	for _, i := range all {
		f.cli.Set("net/ipv4/conf/"+i+"/rp_filter", "1")
	}
	defer func() {
		for _, i := range all {
			f.cli.Set("net/ipv4/conf/"+i+"/rp_filter", "0")
		}
	}()
	t.Run("up", func(t *testing.T) {
		f.Start(t, byMark)
		f.Check(t, portOfClient, true)
		f.Check(t, portOfInner, true)
		f.cli.Set("net/ipv4/conf/"+tapName+"/rp_filter", "1")
		f.Check(t, portOfInner, false)
	})
}

func (f *forwardWorld) sharedTable(t *testing.T) {
	f.cli.IP("route", "add", "10.99.0.0/16", "via", serverAddress, "table", "200")
	defer f.cli.IP("route", "flush", "table", "200")
	t.Run("up", func(t *testing.T) {
		f.Start(t, byMark)
		f.Check(t, portOfClient, true)
		f.Check(t, portOfInner, true)
		if got := f.cli.IP("route", "show", "table", "200"); !strings.Contains(got, "10.99.0.0/16 via "+serverAddress) {
			t.Errorf("the route of others is gone:\n%s", got)
		}
	})
}

func (f *forwardWorld) takenTable(t *testing.T) {
	f.cli.IP("route", "add", "default", "via", serverAddress, "table", "200")
	defer f.cli.IP("route", "flush", "table", "200")
	before := f.hostState()
	c := f.in(t).StartTAP(forwardFlags.with(byMark))
	if got := c.ExitCode(upTime); got != exitLocal {
		t.Errorf("exit code: got %d, want %d", got, exitLocal)
	}
	c.wantLine(`table 200 has a default route already, by eth0; give another one with -policy-route-table`)
	f.sameHost(t, before)
}

// foreignMarks: others mark connections and packets in bits of their own, as
// Tailscale does, and filter and route by them.
func (f *forwardWorld) foreignMarks(t *testing.T) {
	const theirs = `table inet theirs {
		counter marked { }
		counter both { }
		counter spoiled { }
		chain prerouting { type filter hook prerouting priority mangle + 5
			ct state new ct mark set ct mark & 0xff00ffff | 0x00080000
			ct direction reply meta mark set meta mark & 0xff00ffff | 0x00040000
		}
		chain output { type route hook output priority mangle + 5
			ip daddr ` + markedNet + ` meta mark set meta mark & 0xff00ffff | 0x00040000
		}
		chain postrouting { type filter hook postrouting priority 0
			iifname docker0 ct direction reply meta mark & 0x00ff0000 == 0x00040000 counter name marked
			iifname docker0 ct direction reply ct mark & 0x00ff0000 == 0x00080000 ct mark & 0x0f000000 != 0 counter name both
			ct mark & 0xf0f0ffff != 0 counter name spoiled
		}
	}`
	f.srv.ns.IP("address", "add", markedHost+"/32", "dev", "lo")
	startSite(t, f.srv.ns)
	f.cli.IP("route", "add", markedNet, "dev", "docker0", "src", clientAddress) // to nowhere
	f.cli.IP("route", "add", markedNet, "via", serverAddress, "table", "52")
	f.cli.IP("rule", "add", "fwmark", "0x40000/0xff0000", "table", "52", "priority", "5270")
	defer func() {
		f.cli.IP("rule", "del", "priority", "5270")
		f.cli.IP("route", "flush", "table", "52")
		f.cli.IP("route", "del", markedNet)
	}()
	route := func(t *testing.T) {
		t.Helper()
		if err := f.pageFrom(markedHost); err != nil {
			t.Errorf("by the mark of others: %v", err)
		}
	}
	check := func(t *testing.T) {
		t.Helper()
		f.Check(t, portOfClient, true)
		f.Check(t, portOfInner, true)
		route(t)
		for name, want := range map[string]bool{"marked": true, "both": true, "spoiled": false} {
			count := f.cli.output("nft", "list", "counter", "inet", "theirs", name)
			if got := !strings.Contains(count, "packets 0 "); got != want {
				t.Errorf("packets with %s marks: got %v, want %v", name, got, want)
			}
		}
	}
	t.Run("that were there before", func(t *testing.T) {
		f.cli.NFT(theirs)
		route(t)
		t.Run("up", func(t *testing.T) {
			f.Start(t, byMark)
			check(t)
		})
		route(t)
		f.cli.NFT("delete table inet theirs")
	})
	t.Run("that come meanwhile, after all tables were flushed", func(t *testing.T) {
		docker := f.cli.output("nft", "list", "table", "ip", "docker")
		f.Start(t, byMark)
		f.Check(t, portOfInner, true)
		f.cli.NFT("flush ruleset\n" + docker + theirs)
		check(t)
		f.cli.NFT("delete table inet theirs")
	})
}

// output runs a short program in the namespace.
func (n *netns) output(argv ...string) string {
	n.t.Helper()
	out, err := n.Command(argv...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// wantLine fails the test unless the program ended with one line on why, which
// matches pattern.
func (p *process) wantLine(pattern string) {
	p.t.Helper()
	var last []string
	for line := range strings.Lines(p.Log()) {
		if text, ok := strings.CutPrefix(line, "softether-go: "); ok {
			last = append(last, strings.TrimSpace(text))
		}
	}
	if len(last) != 1 || !regexp.MustCompile(pattern).MatchString(last[0]) {
		p.t.Errorf("last words: got %q, want one line like %q; all of it:\n%s", last, pattern, p.Log())
	}
	if strings.Contains(p.Log(), "panic") {
		p.t.Error(fmt.Sprint("it panicked:\n", p.Log()))
	}
}
