//go:build linux

package integration

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Proves that what many home servers run is enough: the hub's own DHCP, DNS and NAT.
func TestHubBehindSecureNAT(t *testing.T) {
	t.Parallel()
	w := newNATWorld(t)
	if _, err := w.Curl("--max-time", "2", "http://"+natHost+"/"); err == nil {
		t.Fatal("the site is reached without the tunnel, so nothing below would mean a thing")
	}
	c := w.StartClient(usualFlags)
	c.WaitUp()
	for _, proxy := range []string{"socks5h://" + socksProxy, "http://" + httpProxy} {
		w.checkPage(t, proxy, "http://"+siteName+"/")
	}
	w.dialEcho().Check(10 * time.Second)
}

// Proves the LAN's settings arrive: its DNS alone resolves names given to the
// proxies, its search domain completes them, its classless routes are used.
func TestLeaseSettingsAreUsed(t *testing.T) {
	t.Parallel()
	w := newWorldWithoutDHCP(t)
	w.lan.Dnsmasq(usualLease, "--dhcp-option=option:router", // no default route
		"--dhcp-option=121,10.201.0.0/24,"+lanGateway, "--dhcp-option=option:domain-search,"+lanDomain)
	asked := countQuestions(w.cli)
	c := w.StartClient(usualFlags)
	c.WaitUp()
	for _, row := range []struct{ name, host string }{
		{"name", siteName},
		{"short name in the search domain", "files"},
		{"host behind a classless route", routedHost},
	} {
		t.Run(row.name, func(t *testing.T) {
			w.checkPage(t, "socks5h://"+socksProxy, "http://"+row.host+"/")
			w.checkPage(t, "http://"+httpProxy, "http://"+row.host+"/")
		})
	}
	if got := w.lan.Saw("query[A] " + siteName); got == 0 {
		t.Errorf("the LAN's name server was not asked for %s", siteName)
	}
	if got := asked.Load(); got != 0 {
		t.Errorf("questions to the host's resolver: got %d, want 0", got)
	}
}

// countQuestions answers nothing where the client's resolv.conf points to, and
// counts what comes.
func countQuestions(ns *netns) *atomic.Int64 {
	asked := new(atomic.Int64)
	c := ns.ListenPacket("127.0.0.53:53")
	go func() {
		buf := make([]byte, 1500)
		for {
			if _, _, err := c.ReadFrom(buf); err != nil {
				return
			}
			asked.Add(1)
		}
	}()
	return asked
}

// Proves that a program behind the proxy can tell why it got no connection.
func TestSOCKSRepliesTellFailuresApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.StartClient(usualFlags)
	c.WaitUp()
	for _, row := range []struct {
		name, target string
		want         socksReply
	}{
		{"nobody listens", net.JoinHostPort(lanGateway, "81"), socksRefused},
		{"nobody has the address", "10.200.0.222:80", socksHostUnreachable},
		{"nobody has the name", "nothing.corp:80", socksHostUnreachable},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			conn, err := w.socksDial(ctx, row.target)
			if err == nil {
				conn.Close()
			}
			var got socksReply
			if !errors.As(err, &got) || got != row.want {
				t.Errorf("connect to %s: got %v, want %v", row.target, err, row.want)
			}
		})
	}
}

// Proves that the hub saw our address leased in this very session: with DHCPForce
// it lets nothing else through, and after a cut that is true of what follows too.
func TestHubThatEnforcesDHCP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.srv.Policy(userName, "DHCPForce", "yes")
	m := w.startMiddlebox()

	static := w.StartClient(usualFlags.with(flags{"no-dhcp": "true", "address": "10.200.0.77/24"}))
	static.WaitLog("tunnel up", upTime)
	if _, err := w.Curl("--proxy", "socks5h://"+socksProxy, "--max-time", "3", "http://"+lanGateway+"/"); err == nil {
		t.Fatal("an address that nobody leased gets through: the hub enforces nothing")
	}
	static.Kill()

	c := w.StartClient(usualFlags.with(flags{"port": middleboxPort}))
	c.WaitUp()
	inner := w.dialEcho()
	inner.Check(5 * time.Second)
	seen := len(c.Log())
	if m.Cut() == 0 {
		t.Fatal("nothing to cut")
	}
	c.WaitLogAfter(seen, upAgain, upTime)
	inner.Check(upTime)
}

// Proves that addresses given by hand work where the hub does not care.
func TestStaticAddressing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.StartClient(usualFlags.with(flags{"no-dhcp": "true", "address": "10.200.0.77/24", "gateway": lanGateway, "dns": lanGateway}))
	c.WaitUp()
	w.checkPage(t, "socks5h://"+socksProxy, "http://"+siteName+"/")
	w.checkPage(t, "http://"+httpProxy, "http://"+routedHost+"/")
	if got := w.lan.Saw("DHCPDISCOVER"); got != 0 {
		t.Errorf("DHCP discovers with -no-dhcp: got %d, want 0", got)
	}
}

// Proves that a lease is renewed in time, with connections undisturbed: it lives
// for 12 s, and the connection for three such lives.
func TestShortLeaseIsRenewed(t *testing.T) {
	t.Parallel()
	const lease = 12 * time.Second
	w := newWorldWithoutDHCP(t)
	w.lan.Dhcpd(lease)
	c := w.StartClient(usualFlags)
	c.WaitUp()
	discovers := w.lan.Saw("DHCPDISCOVER")
	inner := w.dialEcho()
	for end := time.Now().Add(3 * lease); time.Now().Before(end); time.Sleep(time.Second) {
		inner.Check(2 * time.Second)
	}
	if got := w.lan.Saw("DHCPDISCOVER"); got != discovers {
		t.Errorf("discovers: got %d, want the %d there were when it came up", got, discovers)
	}
	// T1 is half the lease: at least five requests after the first in three lives.
	if got, want := w.lan.Saw("DHCPREQUEST for"), 1+4; got < want {
		t.Errorf("requests: got %d, want at least %d", got, want)
	}
	if got := len(w.srv.Sessions(userName)); got != 1 || strings.Count(c.Log(), "session established") != 1 {
		t.Errorf("sessions: got %d and %d established, want one that lasted", got, strings.Count(c.Log(), "session established"))
	}
}

// Proves that a lease nobody renews is given up, and that the address of the next
// one works, whatever it is.
func TestLeaseIsLostAndFoundAgain(t *testing.T) {
	t.Parallel()
	const lease = 10 * time.Second
	w := newWorldWithoutDHCP(t)
	w.lan.Dhcpd(lease)
	c := w.StartClient(usualFlags)
	c.WaitUp()
	w.lan.dhcp.Kill()
	seen := len(c.Log())
	c.WaitLogAfter(seen, `(?i)(address|lease)[^\n]*(lost|expired)`, 2*lease)
	if _, err := w.Curl("--proxy", "socks5h://"+socksProxy, "--max-time", "2", "http://"+lanGateway+"/"); err == nil {
		t.Error("an expired address still carries traffic")
	}
	w.lan.Dhcpd(lease)
	c.WaitUp()
}
