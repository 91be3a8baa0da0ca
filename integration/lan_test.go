//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	lanGateway = "10.200.0.1"
	lanDomain  = "corp"
	siteName   = "files." + lanDomain
)

// A lan is what stands behind the hub: a bridge with the hub's TAP as its port,
// and on the bridge an address, DHCP, DNS and a web site.
//
// The hub makes a new TAP each time it starts; Attach brings it back here. The
// services sit on the bridge and notice nothing.
type lan struct {
	t       testing.TB
	ns      *netns
	srv     *server
	gateway string // its own address; its subnet has 24 bits
	dhcp    *process
	site    *site
}

// newLAN plugs a LAN into the server's hub. It has no DHCP and no DNS yet.
func newLAN(t testing.TB, srv *server) *lan { t.Helper(); return newLANAt(t, srv, lanGateway) }

// newLANAt is newLAN with another subnet.
func newLANAt(t testing.TB, srv *server, gateway string) *lan {
	t.Helper()
	l := &lan{t: t, ns: newNetns(t, "lan"), srv: srv, gateway: gateway}
	l.ns.IP("link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
	l.ns.IP("address", "add", l.gateway+"/24", "dev", "br0")
	l.ns.IP("link", "set", "br0", "up")
	// Another subnet behind the gateway, for classless routes.
	l.ns.IP("address", "add", routedHost+"/32", "dev", "lo")
	l.site = startSite(t, l.ns)
	srv.Admin("BridgeCreate "+hubName+" /DEVICE:lan /TAP:yes", "Flush")
	l.Attach()
	return l
}

// Attach moves the TAP the hub has just made onto the bridge.
func (l *lan) Attach() {
	l.t.Helper()
	eventually(l.t, 20*time.Second, "the hub makes its TAP", func() error {
		cmd := l.srv.ns.Command("ip", "link", "set", "tap_lan", "netns", l.ns.name)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	l.ns.IP("link", "set", "tap_lan", "master", "br0", "up")
}

// host returns the address of a host in the LAN by its number.
func (l *lan) host(n byte) string {
	a := netip.MustParseAddr(l.gateway).As4()
	a[3] = n
	return netip.AddrFrom4(a).String()
}

// Dnsmasq serves DNS, and DHCP with leases of a fixed time (2 minutes at least).
func (l *lan) Dnsmasq(lease time.Duration, options ...string) {
	l.t.Helper()
	needTool(l.t, "dnsmasq", "dnsmasq-base")
	argv := []string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--interface=br0", "--bind-interfaces",
		"--except-interface=lo", "--no-resolv", "--no-hosts", "--no-ping", "--user=root", "--pid-file=", "--log-facility=-",
		"--log-dhcp", "--log-queries", "--dhcp-authoritative", "--dhcp-leasefile=" + filepath.Join(run.dir, l.ns.name+".leases"),
		fmt.Sprintf("--dhcp-range=%s,%s,%d", l.host(50), l.host(150), int(lease.Seconds())),
		"--domain=" + lanDomain, "--local=/" + lanDomain + "/", "--host-record=" + siteName + "," + l.gateway}
	l.dhcp = start(l.t, "dnsmasq", l.ns.Command(append(argv, options...)...))
	l.dhcp.WaitLog(`DHCP, sockets bound`, 10*time.Second)
}

// Dhcpd serves DHCP with leases that may be shorter than dnsmasq's shortest.
func (l *lan) Dhcpd(lease time.Duration) {
	l.t.Helper()
	needTool(l.t, "dhcpd", "isc-dhcp-server")
	conf := fmt.Sprintf(`authoritative; ping-check false;
default-lease-time %[1]d; max-lease-time %[1]d; min-lease-time %[1]d;
subnet %[3]s netmask 255.255.255.0 {
	range %[4]s %[5]s;
	option routers %[2]s;
	option domain-name-servers %[2]s;
}
`, int(lease.Seconds()), l.gateway, l.host(0), l.host(50), l.host(150))
	file := filepath.Join(run.dir, l.ns.name)
	for name, text := range map[string]string{".dhcpd.conf": conf, ".dhcpd.leases": ""} {
		if err := os.WriteFile(file+name, []byte(text), 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	l.dhcp = start(l.t, "dhcpd", l.ns.Command("dhcpd", "-4", "-f", "-d", "--no-pid",
		"-cf", file+".dhcpd.conf", "-lf", file+".dhcpd.leases", "br0"))
	l.dhcp.WaitLog(`Sending on +Socket`, 10*time.Second)
}

// Saw counts lines of the DHCP server's log that contain text.
func (l *lan) Saw(text string) int { return strings.Count(l.dhcp.Log(), text) }
