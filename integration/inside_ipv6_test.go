//go:build linux

package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	short6      = "six"
	inside6     = short6 + "." + lanDomain // has an IPv6 address only
	deadSix     = "dead-six." + lanDomain  // has both, and nobody at that of IPv6
	deadFour    = "dead-four." + lanDomain
	nobody6     = lanPrefix6 + ":dead"
	nobody4     = "10.200.0.222"
	nextPrefix6 = "2001:db8:300:"
	nextRouter6 = nextPrefix6 + ":1"
)

// names6 are options of dnsmasq with the names of an IPv6 world.
var names6 = []string{
	"--host-record=" + inside6 + "," + lanGateway6,
	"--host-record=" + deadSix + "," + lanGateway + "," + nobody6,
	"--host-record=" + deadFour + "," + nobody4 + "," + lanGateway6,
}

// newWorld6 is a world whose LAN has IPv6, not announced yet, and behind its router one
// host of an Internet.
func newWorld6(t testing.TB) *world {
	t.Helper()
	w := newWorldWithoutDHCP(t)
	w.lan.ns.IP("address", "add", lanGateway6+"/64", "dev", "br0", "nodad")
	w.lan.ns.IP("address", "add", internetHost6+"/128", "dev", "lo")
	return w
}

// Radvd announces what conf says of the LAN's interface.
func (l *lan) Radvd(conf string) *process {
	l.t.Helper()
	needTool(l.t, "radvd", "radvd")
	p := start(l.t, "radvd", l.ns.Command("radvd", "--nodaemon", "--logmethod", "stderr", "--debug", "1",
		"--pidfile", filepath.Join(run.dir, l.ns.name+".radvd.pid"), "--config", l.radvdConf(conf)))
	p.WaitLog(`started`, 10*time.Second)
	return p
}

func (l *lan) radvdConf(conf string) string {
	l.t.Helper()
	path := filepath.Join(run.dir, l.ns.name+".radvd.conf")
	text := "interface br0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;\n" + conf + "\n};\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// addresses6 matches what the client says of its addresses.
var addresses6 = regexp.MustCompile(`msg="ipv6: configured" addresses=(?:"?\[([^\]]*)\]"?)`)

// replyToLaptop matches that DHCPv6 knows our name.
var replyToLaptop = regexp.MustCompile(`DHCPREPLY\(br0\) \S+ \S+ laptop`)

// ourLinkLocal matches the hub's row, with when it heard of us last.
var ourLinkLocal = regexp.MustCompile(`SID-USER-\d+,fe80:.*`)

// Addresses6 waits until the client says that it has IPv6 addresses of a prefix, and
// returns what it said last.
func (c *client) Addresses6(t testing.TB, prefix string) string {
	t.Helper()
	var last string
	eventually(t, upTime, "an address in "+prefix, func() error {
		all := addresses6.FindAllStringSubmatch(c.Log(), -1)
		if len(all) == 0 {
			return fmt.Errorf("no address yet")
		}
		if last = all[len(all)-1][1]; !strings.Contains(last, prefix) {
			return fmt.Errorf("got %s", last)
		}
		return nil
	})
	return last
}

// wantPages6 fetches pages behind the LAN by IPv6 through both proxies.
func (w *world) wantPages6(t testing.TB) {
	t.Helper()
	for _, proxy := range []string{"socks5h://" + socksProxy, "http://" + httpProxy} {
		for _, host := range []string{literal6(lanGateway6), literal6(internetHost6), inside6} {
			w.checkPage(t, proxy, "http://"+host+"/")
		}
	}
}

// Proves that each way in which dnsmasq and radvd announce IPv6 configures us: address,
// router, name servers and search domain, of which each row has no other source; that
// programs reach IPv6 hosts through the proxies; and that we leave what was lent.
func TestInsideIPv6(t *testing.T) {
	t.Parallel()
	w := newWorld6(t)
	asked := countQuestions(w.cli)
	const search6 = "option6:domain-search," + lanDomain
	noNames4 := []string{"--dhcp-option=option:dns-server", "--dhcp-option=option:domain-name"} // by DHCP of IPv4
	byRA := func(r string) []string {                                                           // RDNSS is there unasked
		return append([]string{"--enable-ra", "--dhcp-range=" + lanPrefix6 + r, "--dhcp-option=" + search6}, noNames4...)
	}
	byDHCP := func(r string) []string { // what has the tag is not in RAs
		return append([]string{"--enable-ra", "--dhcp-range=" + lanPrefix6 + r, "--dhcp-option=option6:dns-server", "--dhcp-option=option6:domain-search",
			"--dhcp-option=tag:dhcpv6,option6:dns-server,[" + lanGateway6 + "]", "--dhcp-option=tag:dhcpv6," + search6}, noNames4...)
	}
	for _, row := range []struct {
		name    string
		dnsmasq []string
		radvd   string
		saw     string // in dnsmasq's log
		never   string // the same
	}{
		{"slaac with RDNSS", byRA(":,slaac,64"), "", "RTR-ADVERT", "DHCPSOLICIT"},
		{"ra-names", byRA(":,ra-names,64"), "", "RTR-ADVERT", "DHCPSOLICIT"},
		{"ra-stateless", byDHCP(":,ra-stateless,64"), "", "DHCPINFORMATION-REQUEST", "DHCPSOLICIT"},
		{"stateful", byDHCP(":1000," + lanPrefix6 + ":1fff,64,10m"), "", "DHCPREPLY", "DHCPINFORMATION-REQUEST"},
		{"radvd", noNames4, "prefix " + lanPrefix6 + ":/64 { AdvOnLink on; AdvAutonomous on; };\n" +
			"RDNSS " + lanGateway6 + " { }; DNSSL " + lanDomain + " { };", "", "DHCPSOLICIT"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if w.lan.dhcp != nil {
				w.lan.dhcp.Kill()
			}
			w.lan.Dnsmasq(usualLease, append(row.dnsmasq, names6...)...)
			if row.radvd != "" {
				defer w.lan.Radvd(row.radvd).Kill()
			}
			c := w.in(t).StartClient(usualFlags.with(flags{"hostname": "laptop"}))
			c.WaitUp()
			got := c.Addresses6(t, lanPrefix6)
			stateful := row.name == "stateful"
			if stateful != strings.Contains(got, lanPrefix6+":1") || strings.Contains(got, "ff:fe") {
				t.Errorf("address: got %s", got)
			}
			c.WaitPage("http://" + short6 + "/") // by the search domain
			w.in(t).wantPages6(t)
			if row.saw != "" && w.lan.Saw(row.saw) == 0 {
				t.Errorf("dnsmasq saw no %s:\n%s", row.saw, w.lan.dhcp.Log())
			}
			if n := w.lan.Saw(row.never); n > 0 {
				t.Errorf("dnsmasq saw %d times %s", n, row.never)
			}
			c.Terminate()
			if code := c.ExitCode(10 * time.Second); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if stateful && (w.lan.Saw("DHCPRELEASE(br0) 00:03:00:01:") == 0 || !replyToLaptop.MatchString(w.lan.dhcp.Log())) {
				t.Errorf("the lease was not released, or not for our name:\n%s", w.lan.dhcp.Log())
			}
		})
	}
	if got := asked.Load(); got != 0 {
		t.Errorf("questions to the host's resolver: got %d, want 0", got)
	}
}

// Proves what happens to IPv6 later: half a network that is dead, renumbering, a
// connection to the server that is cut.
func TestInsideIPv6Lives(t *testing.T) {
	t.Parallel()
	w := newWorld6(t)
	w.lan.Dnsmasq(usualLease, names6...)
	usual := "prefix " + lanPrefix6 + ":/64 { };\n"
	radvd := w.lan.Radvd(usual)
	m := w.startMiddlebox()
	c := w.StartClient(usualFlags.with(flags{"port": middleboxPort}))
	c.WaitUp()
	before := c.Addresses6(t, lanPrefix6)

	t.Run("the reply to SOCKS5 has our address", func(t *testing.T) {
		if got := w.socksBound(t, net.JoinHostPort(inside6, "80")); !strings.Contains(before, got.Addr().String()) || got.Port() == 0 {
			t.Errorf("bound to %v, want one of %s", got, before)
		}
	})
	t.Run("a transfer is whole", func(t *testing.T) {
		const size = 16 << 20
		body, err := w.Curl("--proxy", "socks5h://"+socksProxy, "--max-time", "30", fmt.Sprintf("http://%s/stream/six/%d", inside6, size))
		if got, want := sumOfString(body), sumOf("six", size); err != nil || got != want {
			t.Errorf("got %d bytes of sum %s, %v, want %s", len(body), got, err, want)
		}
	})
	t.Run("a dead family is not waited for", func(t *testing.T) {
		for _, host := range []string{deadSix, deadFour, deadSix, deadFour} {
			begun := time.Now()
			w.checkPage(t, "socks5h://"+socksProxy, "http://"+host+"/")
			if took := time.Since(begun); took > 2*time.Second { // an attempt at nobody takes 3 s
				t.Errorf("%s: took %v", host, took)
			}
		}
	})
	inner := w.dialEcho6(t, lanGateway6)
	inner.Check(5 * time.Second)
	t.Run("a cut connection keeps addresses", func(t *testing.T) {
		seen := len(c.Log())
		if m.Cut() == 0 {
			t.Fatal("nothing to cut")
		}
		c.WaitLogAfter(seen, upAgain, upTime)
		inner.Check(upTime)
		w.in(t).wantPages6(t)
		if again := c.Addresses6(t, lanPrefix6); again != before {
			t.Errorf("addresses: got %s, want %s", again, before)
		}
	})
	t.Run("renumbering", func(t *testing.T) {
		w.lan.ns.IP("address", "add", nextRouter6+"/64", "dev", "br0", "nodad")
		w.lan.radvdConf("prefix " + lanPrefix6 + ":/64 { AdvPreferredLifetime 0; };\nprefix " + nextPrefix6 + ":/64 { };")
		radvd.Signal(syscall.SIGHUP)
		next := c.Addresses6(t, nextPrefix6)
		if strings.Contains(next, lanPrefix6) {
			t.Errorf("new connections may be from %s", next)
		}
		if got := w.socksBound(t, net.JoinHostPort(lanGateway6, "80")); !strings.Contains(next, got.Addr().String()) {
			t.Errorf("connected from %v, want %s", got, next)
		}
		inner.Check(5 * time.Second) // which goes on from the old one
	})
	t.Run("the hub's own questions are answered", func(t *testing.T) {
		var first string
		eventually(t, 30*time.Second, "the hub hears again of our address on the link", func() error {
			row := ourLinkLocal.FindString(w.srv.Hub("IpTable"))
			if first == "" {
				first = row
			}
			if row == "" || row == first {
				return fmt.Errorf("its table has %q", row)
			}
			return nil
		})
	})
}

// Proves that a hub without IPv4 will do, that IPv6 can be set by hand, and left out.
func TestInsideIPv6Alone(t *testing.T) {
	t.Parallel()
	w := newWorld6(t)
	static := usualFlags.with(flags{"address6": lanPrefix6 + ":77/64", "gateway6": lanGateway6, "dns": lanGateway6})
	dns := start(t, "dnsmasq", w.lan.ns.Command(append([]string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--interface=br0",
		"--bind-interfaces", "--except-interface=lo", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=", "--log-facility=-"}, names6...)...))
	dns.WaitLog(`started, version`, 10*time.Second)
	page := "http://" + literal6(lanGateway6) + "/"
	t.Run("by hand", func(t *testing.T) {
		c := w.in(t).StartClient(static.with(flags{"no-dhcp": "true", "health": "unix:@six"}))
		c.WaitPage(page)
		w.in(t).waitHealth("unix:@six", "ready", 0, "gateway "+lanGateway6+" answered in")
		w.in(t).wantPages6(t)
		if got := w.socksBound(t, net.JoinHostPort(lanGateway6, "80")).Addr().String(); got != lanPrefix6+":77" {
			t.Errorf("connected from %s", got)
		}
	})
	t.Run("by hand, but taken", func(t *testing.T) {
		c := w.in(t).StartClient(static.with(flags{"no-dhcp": "true", "address6": lanGateway6 + "/64", "gateway6": absent}))
		c.WaitLog(`the static address is not used: give another \(-address6\)`, upTime)
		if _, err := w.Curl("--proxy", "socks5h://"+socksProxy, "--max-time", "2", page); err == nil {
			t.Error("somebody else's address carries traffic")
		}
	})
	defer w.lan.Radvd("prefix " + lanPrefix6 + ":/64 { };\nRDNSS " + lanGateway6 + " { };").Kill()
	t.Run("by a router, without IPv4", func(t *testing.T) {
		c := w.in(t).StartClient(usualFlags.with(flags{"health": "unix:@six", "health-target": lanGateway6}))
		c.WaitPage(page)
		w.in(t).waitHealth("unix:@six", "ready", 0, lanGateway6+" answered in")
		w.in(t).wantPages6(t)
		if !strings.Contains(c.Log(), "going on with IPv6 alone") {
			t.Errorf("not told of:\n%s", c.Log())
		}
	})
	t.Run("run by a router, without IPv4", func(t *testing.T) {
		for name, more := range map[string]flags{
			"alone": {}, "shared": {"share": "six"},
			"by hand": {"no-dhcp": "true", "address6": lanPrefix6 + ":78/64", "gateway6": lanGateway6, "dns": lanGateway6},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				out, errs, code := w.in(t).Run(t, runFlags.with(more), "curl", "--silent", "--show-error", "--max-time", "10", "http://"+inside6+"/")
				if out != sitePage || code != 0 {
					t.Errorf("got %q, exit code %d\n%s", out, code, errs)
				}
			})
		}
	})
	t.Run("left out", func(t *testing.T) {
		c := w.in(t).StartClient(usualFlags.with(flags{"no-ipv6": "true", "no-dhcp": "true", "address": "10.200.0.77/24"}))
		c.WaitUp()
		if _, err := w.Curl("--proxy", "socks5h://"+socksProxy, "--max-time", "5", page); err == nil {
			t.Error("IPv6 with -no-ipv6")
		}
	})
}

// socksBound connects by SOCKS5 and returns the address that the proxy says it connects
// from.
func (w *world) socksBound(t testing.TB, target string) netip.AddrPort {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := w.cli.Dial(ctx, socksProxy)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	bound, err := socksConnect(conn, target)
	if err != nil {
		t.Fatalf("connect to %s: %v", target, err)
	}
	return bound
}

// dialEcho6 is dialEcho for an IPv6 address.
func (w *world) dialEcho6(t testing.TB, host string) *innerConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := w.socksDial(ctx, net.JoinHostPort(host, echoPort))
	if err != nil {
		t.Fatalf("connect to the echo service: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return &innerConn{t: t, Conn: conn}
}
