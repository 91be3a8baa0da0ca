//go:build linux

package integration

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	secondUplink = "198.18.2.1" // the server's end of the client's eth1
	secondLocal  = "198.18.2.2"

	// patience is the session's time-out in these tests, the longest that the server
	// grants. What happens well before it does not happen because of it.
	patience = 60 * time.Second
	atOnce   = 30 * time.Second // on a slow machine
)

// An uplinkedWorld has a client with two ways to the server, of which it prefers eth0.
type uplinkedWorld struct{ *routedWorld }

func newUplinkedWorld(t testing.TB) *uplinkedWorld {
	t.Helper()
	w := newRoutedWorld(t)
	command(t, "ip", "link", "add", "eth1", "netns", w.cli.name, "type", "veth", "peer", "name", "eth1", "netns", w.srv.ns.name)
	for address, ns := range map[string]*netns{secondLocal: w.cli, secondUplink: w.srv.ns} {
		ns.IP("address", "add", address+"/24", "dev", "eth1")
		ns.IP("link", "set", "eth1", "up")
	}
	w.cli.IP("route", "add", "default", "via", secondUplink, "metric", "200")
	w.srv.Policy(userName, "TimeOut", fmt.Sprint(int(patience/time.Second)))
	return &uplinkedWorld{w}
}

// waitingFlags have a client wait long between attempts, unless something ends the
// wait, and tell when it has looked at the network.
var waitingFlags = flags{"host": farServer, "reconnect-delay": "10m", "reconnect-max-delay": "10m", "log-level": "debug"}

// from waits until the only connection to the server comes from a local address.
func (w *uplinkedWorld) from(t testing.TB, local string) {
	t.Helper()
	eventually(t, atOnce, "the connection is from "+local, func() error {
		out, err := w.cli.Command("ss", "-Htn", "state", "established", "dst", farServer).CombinedOutput()
		if err != nil {
			t.Fatalf("ss: %v\n%s", err, out)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(lines) != 1 || !strings.Contains(lines[0], local+":") {
			return fmt.Errorf("got %q", lines)
		}
		return nil
	})
}

// Looks waits until a client has looked at the network since its log had a length.
func (p *process) Looks(seen int) {
	p.t.Helper()
	p.WaitLogAfter(seen, `looked at the network`, 10*time.Second)
}

// established counts the sessions of a log.
func (p *process) established() int {
	return len(regexp.MustCompile(`msg="session established"`).FindAllString(p.Log(), -1))
}

// takesOver wants a client's connection to be cut because of a change, and the next
// one to come from a local address, long before the session's time-out and before the
// wait between attempts has passed.
func (w *uplinkedWorld) takesOver(p *process, seen int, cause, local string) {
	w.t.Helper()
	p.WaitLogAfter(seen, `cutting a connection that leads nowhere.*cause="`+cause, atOnce)
	w.from(w.t, local)
	p.settles()
	w.from(w.t, local)
	if log := p.Log()[seen:]; strings.Contains(log, "is silent") {
		w.t.Errorf("a time-out was waited for:\n%s", log)
	}
}

// settles waits until no connection is lost for a while: a server that has seen one cut
// may close those that join the session after it.
func (p *process) settles() {
	p.t.Helper()
	lost := regexp.MustCompile(`msg="(connection|session) lost`)
	eventually(p.t, recoverTime, "connections last", func() error {
		before := len(lost.FindAllString(p.Log(), -1))
		time.Sleep(2 * time.Second)
		if n := len(lost.FindAllString(p.Log(), -1)) - before; n > 0 {
			return fmt.Errorf("%d were lost", n)
		}
		return nil
	})
}

// Proves that a client without privileges comes back by another uplink at once when
// the one in use goes, that inner connections live on, and that what does not concern
// the session leaves it alone.
func TestAnotherUplinkTakesOver(t *testing.T) {
	t.Parallel()
	w := newUplinkedWorld(t)
	c := w.StartClient(usualFlags.with(waitingFlags))
	c.WaitUp()
	w.from(t, clientAddress)
	before := w.Session()
	inner := w.dialEcho()
	inner.Check(10 * time.Second)

	unrelated := func(name string, ip ...string) {
		seen := len(c.Log())
		w.cli.IP(ip...)
		c.Looks(seen)
		inner.Check(10 * time.Second)
		if got := c.established(); got != 1 {
			t.Fatalf("%s: %d sessions, want the first still", name, got)
		}
	}
	unrelated("another address", "address", "add", "192.0.2.200/32", "dev", "eth1")
	unrelated("another address of the interface in use", "address", "add", "192.0.2.201/32", "dev", "eth0")
	unrelated("an address gone", "address", "del", "192.0.2.201/32", "dev", "eth0")
	unrelated("two more interfaces", "link", "add", "eth8", "type", "veth", "peer", "name", "eth9")
	unrelated("one of them up", "link", "set", "eth8", "up")
	unrelated("a better way", "route", "add", farServer+"/32", "via", serverAddress, "metric", "1")
	if got := w.Session(); got != before {
		t.Errorf("session: got %s, want %s still", got, before)
	}

	seen := len(c.Log())
	w.cli.IP("link", "set", "eth0", "down")
	w.takesOver(c.process, seen, "its interface is down", secondLocal)
	inner.Check(recoverTime)

	w.cli.IP("link", "set", "eth0", "up") // its routes went with it
	seen = len(c.Log())
	w.cli.IP("route", "add", "default", "via", serverAddress, "metric", "100")
	c.Looks(seen)
	w.from(t, secondLocal)

	seen = len(c.Log())
	w.cli.IP("address", "del", secondLocal+"/24", "dev", "eth1")
	w.takesOver(c.process, seen, "its address is gone", clientAddress)
	inner.Check(recoverTime)

	seen = len(c.Log())
	w.cli.IP("address", "add", secondLocal+"/24", "dev", "eth1")
	w.cli.IP("route", "add", farServer+"/32", "via", secondUplink)
	c.Looks(seen)
	seen = len(c.Log())
	w.srv.ns.IP("link", "set", "eth0", "down") // as if the cable were pulled
	w.takesOver(c.process, seen, "its interface has lost its link, and there is another way", secondLocal)
	inner.Check(recoverTime)
	if got := c.established(); got > 4 {
		t.Errorf("%d sessions for three losses", got)
	}
}

// Proves that a client that has no network left waits, and no longer than until there
// is one.
func TestTheNetworksReturnEndsTheWait(t *testing.T) {
	t.Parallel()
	w := newUplinkedWorld(t)
	c := w.StartClient(usualFlags.with(waitingFlags))
	c.WaitUp()
	inner := w.dialEcho()
	inner.Check(10 * time.Second)
	seen := len(c.Log())
	w.cli.IP("link", "set", "eth1", "down")
	w.cli.IP("link", "set", "eth0", "down")
	c.WaitLogAfter(seen, `(?s)cutting a connection.*network is unreachable`, atOnce)
	w.cli.IP("link", "set", "eth1", "up")
	w.cli.IP("route", "add", "default", "via", secondUplink)
	w.from(t, secondLocal)
	inner.Check(recoverTime)
}

// Proves the same in TAP mode with everything in the tunnel, where the routes around it
// have to follow.
func TestTAPAnotherUplinkTakesOver(t *testing.T) {
	t.Parallel()
	w := newUplinkedWorld(t)
	c := w.in(t).StartTAP(tapFlags.with(waitingFlags).with(flags{"accept-default-gateway": "true"}))
	c.WaitLog("tunnel up", upTime)
	w.proxy = ""
	c.WaitUp()
	w.from(t, clientAddress)
	inner := w.dialEcho()
	inner.Check(10 * time.Second)
	seen := len(c.Log())
	w.cli.IP("address", "add", "192.0.2.200/32", "dev", "eth1")
	c.Looks(seen)
	inner.Check(10 * time.Second)
	if got := c.established(); got != 1 {
		t.Fatalf("%d sessions, want the first still", got)
	}
	seen = len(c.Log())
	w.cli.IP("link", "set", "eth0", "down")
	w.takesOver(c.process, seen, "its interface is down", secondLocal)
	w.wantRoute(t, farServer, "via "+secondUplink+" dev eth1")
	w.wantPage(t, internetHost, sitePage)
	inner.Check(recoverTime)

	// With no network left nothing may go into the tunnel that is not there, and the
	// machine's own routes come back before ours can.
	seen = len(c.Log())
	w.cli.IP("link", "set", "eth1", "down")
	c.WaitLogAfter(seen, `(?s)cutting a connection.*(no route to host|network is unreachable)`, atOnce)
	w.cli.IP("link", "set", "eth1", "up")
	w.cli.IP("route", "add", "default", "via", secondUplink, "metric", "200")
	w.from(t, secondLocal)
	c.WaitUp()
	w.wantRoute(t, farServer, "via "+secondUplink+" dev eth1")
	w.wantPage(t, internetHost, sitePage)
	inner.Check(recoverTime)
	c.Terminate()
}

// Proves the choices of how to leave the machine, by what the kernel says of the
// connection.
func TestWaysOutOfTheMachine(t *testing.T) {
	t.Parallel()
	w := newUplinkedWorld(t)
	w.cli.IP("address", "add", "198.18.0.3/24", "dev", "eth0")
	sockets := func() string {
		out, err := w.cli.Command("ss", "-Htnei", "state", "established", "dst", farServer).CombinedOutput()
		if err != nil {
			t.Fatalf("ss: %v\n%s", err, out)
		}
		return string(out)
	}
	for _, row := range []struct {
		name  string
		flags flags
		want  string
	}{
		{"address", flags{"bind-address": "198.18.0.3"}, `198\.18\.0\.3:`},
		{"interface", flags{"bind-interface": "eth1"}, regexp.QuoteMeta(secondLocal) + `%eth1:`},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).StartClient(usualFlags.with(flags{"host": farServer}).with(row.flags))
			c.WaitUp()
			if got := sockets(); !regexp.MustCompile(row.want).MatchString(got) {
				t.Errorf("sockets: got %s, want %s among them", got, row.want)
			}
			c.Terminate()
		})
	}
	t.Run("mark", func(t *testing.T) {
		w.cli.IP("rule", "add", "fwmark", "0x1d", "table", "29")
		w.cli.IP("route", "add", "default", "via", secondUplink, "table", "29")
		inner := w.in(t)
		c := inner.StartTAP(farFlags.with(flags{"fwmark": "29"}))
		c.WaitUp()
		if got := sockets(); !strings.Contains(got, "fwmark:0x1d") || !strings.Contains(got, secondLocal+":") {
			t.Errorf("sockets: got %s, want one with the mark, by the way of its rule", got)
		}
		c.Terminate()
	})
	for _, row := range []struct {
		name  string
		flags flags
		ends  bool
		words string
	}{
		{"mark without the privilege", flags{"fwmark": "29"}, true, `-fwmark: mark packets with 0x1d: it takes CAP_NET_ADMIN: run as root`},
		{"no such interface", flags{"bind-interface": "wlan9"}, false, `not connected.*connect by the interface wlan9: there is none of this name`},
		{"an address of nobody", flags{"bind-address": "198.18.0.77"}, false, `not connected.*no interface of this machine has the address 198.18.0.77`},
		{"an address of the other family", flags{"bind-address": "2001:db8::7"}, false, `not connected.*` + farServer + ` has no IPv6 address`},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).StartClient(usualFlags.with(flags{"host": farServer}).with(row.flags))
			c.WaitLog(row.words, upTime)
			if row.ends {
				if got := c.ExitCode(promptly); got != exitLocal {
					t.Errorf("exit code: got %d, want %d", got, exitLocal)
				}
			}
		})
	}
}

// Proves that servers are tried in order, or the one first that answers first.
func TestSeveralServers(t *testing.T) {
	t.Parallel()
	w := newRoutedWorld(t)
	const refusing, dead, alive = farServer + ":9", deadHost + ":443", farServer + ":443"
	w.cli.IP("route", "add", "blackhole", deadHost+"/32") // so that there is no answer at all
	for _, row := range []struct {
		name, hosts, order string
		first, then        string // of the log
	}{
		{"in order", refusing + "," + alive + "," + serverAddress, "listed", "host=" + farServer + " port=9",
			`(?s)trying the next server.*connection refused.*connecting host=` + farServer + ` port=443.*session established`},
		{"by latency", dead + "," + refusing + "," + alive, "fastest", "host=" + farServer + " port=443", `session established`},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).StartClient(usualFlags.with(flags{"host": row.hosts, "port": absent, "host-order": row.order}))
			c.WaitUp()
			if !regexp.MustCompile(row.then).MatchString(c.Log()) {
				t.Errorf("log: want %s in\n%s", row.then, c.Log())
			}
			if got := regexp.MustCompile(`msg=connecting (.*)`).FindStringSubmatch(c.Log()); got == nil || got[1] != row.first {
				t.Errorf("first server: got %v, want %s", got, row.first)
			}
			c.Terminate()
		})
	}
}

// Proves that servers are reached by IPv6, and by the other family where one leads
// nowhere.
func TestServersByIPv6(t *testing.T) {
	t.Parallel()
	const server6, local6, dead6 = "2001:db8:18::1", "2001:db8:18::2", "2001:db8:18::dead"
	w := newWorld(t)
	w.srv.ns.IP("address", "add", server6+"/64", "dev", "eth0", "nodad")
	w.cli.IP("address", "add", local6+"/64", "dev", "eth0", "nodad")
	for _, row := range []struct {
		name, hosts string // of /etc/hosts
		flags       flags
		remote      string
	}{
		{"an address", "", flags{"host": "[" + server6 + "]:443", "port": absent}, "[" + server6 + "]:443"},
		{"a name with both", server6 + " both.test\n" + serverAddress + " both.test\n", flags{"host": "both.test"}, "[" + server6 + "]:443"},
		{"a name whose IPv6 address leads nowhere", dead6 + " half.test\n" + serverAddress + " half.test\n", flags{"host": "half.test"}, serverAddress + ":443"},
		{"from an IPv6 address", serverAddress + " bound.test\n" + server6 + " bound.test\n", flags{"host": "bound.test", "bind-address": local6}, "[" + server6 + "]:443"},
		{"from an IPv4 address", server6 + " bound.test\n" + serverAddress + " bound.test\n", flags{"host": "bound.test", "bind-address": clientAddress}, serverAddress + ":443"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			w.Hosts("127.0.0.1 localhost\n" + row.hosts)
			c := w.StartClient(usualFlags.with(row.flags))
			c.WaitUp()
			out, err := w.cli.Command("ss", "-Htn", "state", "established", "dport", "=", ":443").CombinedOutput()
			if err != nil || !strings.Contains(string(out), " "+row.remote) {
				t.Errorf("sockets: got %s, %v, want one to %s", out, err, row.remote)
			}
			c.Terminate()
		})
	}
}
