//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	loginPort = "22"

	// A second way from the client to the server's namespace.
	gatewayAfter = "198.18.1.1"
	clientAfter  = "198.18.1.2"
)

// A login is a connection from the Internet into the client's namespace, as of
// someone logged in, on which something is said all the time.
type login struct {
	t    testing.TB
	conn net.Conn
	said atomic.Int64 // how often it was answered
	end  chan error
}

// logIn connects from a host of the Internet beside the tunnel to the client.
func (w *routedWorld) logIn(t testing.TB, from, to string) *login {
	t.Helper()
	l := &login{t: t, end: make(chan error, 1)}
	err := w.srv.ns.do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
		l.conn, err = d.DialContext(context.Background(), "tcp", net.JoinHostPort(to, loginPort))
		return err
	})
	if err != nil {
		t.Fatalf("log in: %v\n%s", err, w.cli.IP("route"))
	}
	t.Cleanup(func() { l.conn.Close() })
	go func() { l.end <- l.talk() }()
	return l
}

// talk says a line every 20 ms and hears it back. It takes a second for a lost packet to
// be sent again a few times, much longer for one whose way is gone.
func (l *login) talk() error {
	for n := 0; ; n++ {
		line := fmt.Sprintf("line %6d", n)
		l.conn.SetDeadline(time.Now().Add(15 * time.Second))
		if _, err := io.WriteString(l.conn, line); err != nil {
			return err
		}
		got := make([]byte, len(line))
		if _, err := io.ReadFull(l.conn, got); err != nil {
			return err
		}
		if string(got) != line {
			return fmt.Errorf("got %q, want %q", got, line)
		}
		l.said.Add(1)
		time.Sleep(20 * time.Millisecond)
	}
}

// GoesOn fails the test unless more is said and answered from now on.
func (l *login) GoesOn(when string) {
	l.t.Helper()
	begun := l.said.Load()
	eventually(l.t, 20*time.Second, when+", the login goes on", func() error {
		select {
		case err := <-l.end:
			l.t.Fatalf("%s, the login ended: %v", when, err)
		default:
		}
		if l.said.Load() < begun+3 {
			return errors.New("nothing is answered")
		}
		return nil
	})
}

// Proves that someone who is logged in from the Internet stays so when the default
// route moves into the tunnel and back, however it does, and that others can come.
func TestTAPKeepsLogins(t *testing.T) {
	t.Parallel()
	w := newRoutedWorld(t)
	go echo(w.cli.Listen("0.0.0.0:" + loginPort))
	logins := map[string]*login{"before": w.logIn(t, internetHost, clientAddress)}
	goOn := func(when string) {
		t.Helper()
		for who, l := range logins {
			l.GoesOn(when + ", for who came " + who)
		}
	}
	before := w.hostState()
	all := farFlags.with(flags{"accept-default-gateway": "true", "accept-static-routes": "true"})
	up := func() *tapClient {
		t.Helper()
		c := w.in(t).StartTAP(all)
		c.WaitLog("tunnel up", upTime)
		c.WaitUp()
		// The client's own connections to the same host go by the tunnel.
		w.wantPage(t, internetHost, sitePage)
		return c
	}
	goOn("without the tunnel")
	c := up()
	goOn("in the tunnel's presence")
	logins["while up"] = w.logIn(t, internetHost, clientAddress)
	goOn("with two")

	c.Reconnect()
	goOn("in the second session")

	c.Terminate()
	goOn("when the program has stopped")
	w.wantPage(t, internetHost, besidePage)
	w.sameHost(t, before)

	c = up()
	c.Kill()
	goOn("when the program has been killed")
	w.CleanUp()
	goOn("after the cleanup")
	w.sameHost(t, before)
}

// Proves that the way to the server follows the client's gateway and link, and that
// the tunnel comes back by it with its connections.
func TestTAPFollowsTheUnderlay(t *testing.T) {
	t.Parallel()
	w := newRoutedWorld(t)
	w.srv.ns.IP("link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", w.cli.name)
	for ns, address := range map[*netns]string{w.srv.ns: gatewayAfter, w.cli: clientAfter} {
		ns.IP("address", "add", address+"/24", "dev", "eth1")
		ns.IP("link", "set", "eth1", "up")
	}
	c := w.StartTAP(farFlags.with(flags{"accept-default-gateway": "true", "reconnect-max-delay": "1s"}))
	c.WaitLog("tunnel up", upTime)
	c.WaitUp()
	inner := w.dialEcho()
	check := func(when, way string) {
		t.Helper()
		t.Log(when)
		w.wantRoute(t, farServer, way)
		inner.Check(recoverTime)
		w.wantPage(t, internetHost, sitePage)
	}
	first, second := "via "+serverAddress+" dev eth0", "via "+gatewayAfter+" dev eth1"
	check("at first", first)

	w.cli.IP("link", "set", "eth0", "down")
	w.wantRoute(t, farServer, "No route to host") // and none into the tunnel itself
	w.cli.IP("link", "set", "eth0", "up")
	w.cli.IP("route", "add", "default", "via", serverAddress, "metric", "100")
	check("after the link was down", first)

	w.srv.ns.IP("link", "set", "eth0", "down")
	w.wantRoute(t, farServer, "No route to host")
	w.srv.ns.IP("link", "set", "eth0", "up")
	check("after the cable was out", first)

	w.cli.IP("route", "replace", "default", "via", gatewayAfter, "metric", "100")
	check("with another gateway", second)
	w.cli.IP("link", "set", "eth0", "down")
	check("without the first link", second)

	c.Terminate()
	w.wantRoute(t, farServer, second)
	// Ours are the routes of this protocol, and the rules for a table with our number.
	if state := w.hostState(); strings.Contains(state, "proto 94") || strings.Contains(state, "lookup 1577") {
		t.Errorf("something of ours is left:\n%s", state)
	}
}

// Proves that leases which only look like they would cut the client off do no harm:
// those that would are refused.
func TestTAPLeasesAroundTheServer(t *testing.T) {
	t.Parallel()
	w := newRoutedWorld(t)
	accept := farFlags.with(flags{"accept-static-routes": "true"})
	route := func(dest string) string { return "--dhcp-option=121," + dest + "," + lanGateway }
	for _, row := range []struct {
		name  string
		dest  string
		flags flags
	}{
		{"route to the server that nobody wants", farServer + "/32", farFlags},
		{"route around the server", "203.0.113.0/24", accept},
		{"route around the own subnet", "198.18.0.0/15", accept},
	} {
		t.Run(row.name, func(t *testing.T) {
			w.DHCP(route(row.dest))
			c := w.Up(t, row.flags)
			w.wantRoute(t, farServer, "via "+serverAddress+" dev eth0")
			w.wantPage(t, serverAddress, besidePage)
			c.w.dialEcho().Check(10 * time.Second)
			c.Reconnect()
			w.wantRoute(t, farServer, "via "+serverAddress+" dev eth0")
		})
	}
	t.Run("one that does harm in a later session", func(t *testing.T) {
		w.DHCP()
		before := w.hostState()
		c := w.in(t).StartTAP(accept.with(flags{"accept-default-gateway": "true", "accept-dns": "true"}))
		c.WaitLog("tunnel up", upTime)
		c.WaitUp()
		w.DHCP(route(farServer + "/32"))
		c.Disconnect()
		if got := c.ExitCode(upTime); got != exitLocal {
			t.Errorf("exit code: got %d, want %d", got, exitLocal)
		}
		c.wantLine(`refused: the VPN's route to 203\.0\.113\.10 would lead the tunnel into itself`)
		w.sameHost(t, before)
	})
}
