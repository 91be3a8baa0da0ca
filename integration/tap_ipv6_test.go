//go:build linux

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	nearServer6   = "2001:db8:18::1" // on the client's link
	clientIPv6    = "2001:db8:18::2"
	farServer6    = "2001:db8:ffff::10" // beyond the client's gateway
	internetHost6 = "2001:db8:77::7"    // as internetHost, on both sides
	lanGateway6   = "2001:db8:200::1"
	lanPrefix6    = "2001:db8:200:"
)

// advertise are options of dnsmasq that make the LAN's gateway a router for IPv6.
var advertise = []string{"--enable-ra", "--dhcp-range=" + lanPrefix6 + ":,ra-only,64"}

// newRoutedWorld6 is a world with IPv6 too, except that the LAN announces nothing
// unless it is told to by options of dnsmasq.
func newRoutedWorld6(t testing.TB, dnsmasq ...string) *routedWorld {
	t.Helper()
	w := newWorldWithoutDHCP(t)
	w.lan.ns.IP("address", "add", lanGateway6+"/64", "dev", "br0", "nodad")
	w.lan.ns.IP("address", "add", internetHost6+"/128", "dev", "lo")
	w.lan.Dnsmasq(usualLease, dnsmasq...)
	r := beyondGateway(w)
	w.srv.ns.IP("address", "add", nearServer6+"/64", "dev", "eth0", "nodad")
	for _, a := range []string{farServer6, internetHost6} {
		w.srv.ns.IP("address", "add", a+"/128", "dev", "lo")
	}
	w.cli.IP("address", "add", clientIPv6+"/64", "dev", "eth0", "nodad")
	w.cli.IP("route", "add", "default", "via", nearServer6, "metric", "100")
	return r
}

// literal6 is how a URL has an IPv6 address.
func literal6(address string) string { return "[" + address + "]" }

// Proves that the server is reached by IPv6, by address and by name, near and far,
// and stays reachable when the default route moves.
func TestTAPServerByIPv6(t *testing.T) {
	t.Parallel()
	w := newRoutedWorld6(t)
	w.Hosts(farServer6 + " " + serverHost + "\n")
	toFar := "via " + nearServer6 + " dev eth0"
	for _, row := range []struct{ name, host, server, way string }{
		{"address on link", nearServer6, nearServer6, "dev eth0"},
		{"address beyond the gateway", farServer6, farServer6, toFar},
		{"name", serverHost, farServer6, toFar},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.Up(t, tapFlags.with(flags{"host": row.host, "accept-default-gateway": "true", "block-ipv6": "true"}))
			w.wantPage(t, internetHost, sitePage)
			w.wantRoute(t, row.server, row.way)
			if got := w.srv.ns.output("ss", "-Hnt", "state", "established", "sport", "=", ":"+serverPort); !strings.Contains(got, literal6(row.server)) {
				t.Errorf("the server's connections: got\n%s, want one at %s", got, row.server)
			}
			inner := c.w.dialEcho()
			inner.Check(10 * time.Second)
			c.Reconnect() // now that IPv6 is blocked
			inner.Check(recoverTime)
		})
	}
}

// Proves that with -block-ipv6 what would leave beside the tunnel is refused at once,
// and only as long as the tunnel has the default route.
func TestTAPBlocksIPv6(t *testing.T) {
	t.Parallel()
	needTool(t, "nft", "nftables")
	w := newRoutedWorld6(t)
	gateway := farFlags.with(flags{"accept-default-gateway": "true"})
	internet := literal6(internetHost6)
	w.wantPage(t, internet, besidePage)
	t.Run("without the flag", func(t *testing.T) {
		w.Up(t, gateway)
		w.wantPage(t, internetHost, sitePage)
		w.wantPage(t, internet, besidePage)
	})
	t.Run("with it", func(t *testing.T) {
		w.Up(t, gateway.with(flags{"block-ipv6": "true"}))
		w.wantPage(t, internetHost, sitePage)
		const refusedAtOnce = "exit status 7" // curl's: not lost
		page, err := w.Curl("--globoff", "--max-time", "10", "http://"+internet+"/")
		if err == nil || !strings.Contains(err.Error(), refusedAtOnce) {
			t.Errorf("beside the tunnel: got page %q, %v, want %s", page, err, refusedAtOnce)
		}
		w.wantPage(t, literal6(nearServer6), besidePage) // its own subnet
	})
	w.wantPage(t, internet, besidePage)
}

// Proves that a router's advertisements from the VPN are heard with the flag only, and
// that its default route is used with the other flag only.
func TestTAPConfiguresIPv6(t *testing.T) {
	t.Parallel()
	w := newRoutedWorld6(t, advertise...)
	autoconf := farFlags.with(flags{"ipv6-autoconf": "true"})
	for _, row := range []struct {
		name      string
		flags     flags
		addressed bool
		internet  string
	}{
		{"without a flag", farFlags, false, besidePage},
		{"with it", autoconf, true, besidePage},
		{"with the default gateway", autoconf.with(flags{"accept-default-gateway": "true"}), true, sitePage},
		{"with the default gateway, nothing beside the tunnel",
			autoconf.with(flags{"accept-default-gateway": "true", "block-ipv6": "true"}), true, sitePage},
	} {
		t.Run(row.name, func(t *testing.T) {
			w.Up(t, row.flags)
			if row.addressed {
				eventually(t, 20*time.Second, "the address is usable", func() error { return w.hasAddress6() })
			} else {
				w.DHCP(advertise...) // it advertises when it starts
				w.lan.dhcp.WaitLog(`RTR-ADVERT\(br0\)`, 30*time.Second)
				time.Sleep(time.Second)
				if got := w.cli.IP("-6", "address", "show", "dev", tapName); got != "" {
					t.Errorf("an address nobody asked for:\n%s", got)
				}
			}
			near := ""
			if row.addressed {
				near = sitePage
			}
			w.wantPage(t, literal6(lanGateway6), near)
			if row.internet == sitePage {
				w.wantRoute(t, internetHost6, "dev "+tapName)
			}
			w.wantPage(t, literal6(internetHost6), row.internet)
		})
	}
}

// Proves that a tunnel that takes IPv6 too leaves the server and logins their way.
func TestTAPTakesIPv6(t *testing.T) {
	t.Parallel()
	w := newRoutedWorld6(t, advertise...)
	go echo(w.cli.Listen("[::]:" + loginPort))
	early := w.logIn(t, internetHost6, clientIPv6)
	c := w.Up(t, tapFlags.with(flags{"host": farServer6, "accept-default-gateway": "true", "ipv6-autoconf": "true"}))
	w.wantRoute(t, internetHost6, "dev "+tapName)
	eventually(t, 20*time.Second, "the address is usable", func() error { return w.hasAddress6() })
	w.wantPage(t, literal6(internetHost6), sitePage)
	w.wantRoute(t, farServer6, "via "+nearServer6+" dev eth0")
	c.w.dialEcho().Check(10 * time.Second)
	for _, l := range []*login{early, w.logIn(t, internetHost6, clientIPv6)} {
		l.GoesOn("with IPv6 in the tunnel")
	}
}

// hasAddress6 returns no error if the TAP has an address of the LAN's prefix.
func (w *world) hasAddress6() error {
	out := w.cli.IP("-6", "address", "show", "dev", tapName, "-tentative")
	if !strings.Contains(out, lanPrefix6) {
		return fmt.Errorf("got %q", out)
	}
	return nil
}
