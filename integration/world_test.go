//go:build linux

package integration

import (
	"testing"
	"time"
)

const (
	userName     = "user"
	userPassword = "p4ss w0rd"
	guestName    = "guest"

	serverAddress = "198.18.0.1"
	clientAddress = "198.18.0.2"
	serverHost    = "vpn.test" // in the client's /etc/hosts

	secondServer  = "198.18.1.1" // of another world for the same client
	secondAddress = "198.18.1.2"
	secondGateway = "10.210.0.1" // of the LAN there

	natHost    = "198.51.100.1" // served beside the server, reached through SecureNAT
	routedHost = "10.201.0.1"   // behind the LAN's gateway, reached by a classless route
)

// usualLease is long enough that no test sees it renewed by chance.
const usualLease = time.Hour

// A world is a server with a hub, a place for a client, and what is behind the hub.
type world struct {
	t   testing.TB
	cli *netns
	srv *server
	lan *lan  // nil behind SecureNAT
	nat *site // nil with a LAN

	proxy string // curl's way to what is inside; empty means directly
}

// newBareWorld has a server and a hub with nothing behind it.
func newBareWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, cli: newNetns(t, "cli"), proxy: "socks5h://" + socksProxy}
	ns := newNetns(t, "srv")
	link(ns, w.cli, serverAddress+"/24", clientAddress+"/24")
	w.srv = startServer(t, ns)
	w.srv.CreateHub()
	return w
}

// newWorld has a LAN with dnsmasq behind the hub.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := newWorldWithoutDHCP(t)
	w.lan.Dnsmasq(usualLease)
	return w
}

// newWorldWithoutDHCP has a LAN whose DHCP server is up to the test.
func newWorldWithoutDHCP(t testing.TB) *world {
	t.Helper()
	w := newBareWorld(t)
	w.lan = newLAN(t, w.srv)
	return w
}

// another returns a second world for the same client, on its eth1, with a LAN whose
// DHCP server is up to the test.
func (w *world) another() *world {
	w.t.Helper()
	o := &world{t: w.t, cli: w.cli, proxy: w.proxy}
	ns := newNetns(w.t, "srv")
	w.cli.IP("link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", ns.name)
	w.cli.IP("address", "add", secondAddress+"/24", "dev", "eth1")
	w.cli.IP("link", "set", "eth1", "up")
	ns.IP("address", "add", secondServer+"/24", "dev", "eth0")
	ns.IP("link", "set", "eth0", "up")
	o.srv = startServer(w.t, ns)
	o.srv.CreateHub()
	o.lan = newLANAt(w.t, o.srv, secondGateway)
	return o
}

// newNATWorld has SecureNAT behind the hub, and a site beside the server that
// the client's namespace has no route to.
func newNATWorld(t testing.TB) *world {
	t.Helper()
	w := newBareWorld(t)
	w.srv.ns.IP("address", "add", natHost+"/32", "dev", "lo")
	needTool(t, "dnsmasq", "dnsmasq-base")
	dns := start(t, "dnsmasq", w.srv.ns.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--listen-address=127.0.0.1",
		"--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=", "--log-facility=-", "--log-queries",
		"--host-record="+siteName+","+natHost, "--local=/corp/"))
	dns.WaitLog(`started, version`, 10*time.Second)
	w.nat = startSite(t, w.srv.ns)
	w.srv.SecureNAT()
	return w
}

// in returns the world for use by a subtest, with which its clients end.
func (w *world) in(t testing.TB) *world {
	inner := *w
	inner.t = t
	return &inner
}
