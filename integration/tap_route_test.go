//go:build linux

package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	farServer = "203.0.113.10" // an address of the server beyond the client's gateway
	deadHost  = "203.0.113.99" // nobody's

	// internetHost is there twice, by the client's gateway and behind the hub's LAN,
	// with a page that says which.
	internetHost = "198.51.100.7"
	besidePage   = "the page beside the tunnel\n"
)

// A routedWorld has a client with a default route of its own, by which it reaches
// the server and an Internet of one host. The hub's LAN leads to another one.
type routedWorld struct{ *world }

// farFlags are those of a client of the far server.
var farFlags = tapFlags.with(flags{"host": farServer})

func newRoutedWorld(t testing.TB) *routedWorld {
	t.Helper()
	w := newWorldWithoutDHCP(t)
	w.lan.Dnsmasq(usualLease)
	return beyondGateway(w)
}

// beyondGateway puts the server and both Internets where a routedWorld has them.
func beyondGateway(w *world) *routedWorld {
	w.t.Helper()
	for _, a := range []string{farServer, internetHost} {
		w.srv.ns.IP("address", "add", a+"/32", "dev", "lo")
	}
	w.lan.ns.IP("address", "add", internetHost+"/32", "dev", "lo")
	w.cli.IP("route", "add", "default", "via", serverAddress, "metric", "100")
	servePage(w.srv.ns, besidePage)
	return &routedWorld{w}
}

// servePage serves one page on port 80 of all addresses, of both families.
func servePage(ns *netns, page string) {
	ns.t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })}
	go server.Serve(ns.Listen("[::]:80"))
	ns.t.Cleanup(func() { server.Close() })
}

// DHCP replaces the DHCP server by one with other options.
func (w *world) DHCP(options ...string) {
	w.t.Helper()
	w.lan.dhcp.Kill()
	w.lan.Dnsmasq(usualLease, options...)
}

// Hosts replaces the client's table of names.
func (w *world) Hosts(text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.clientFiles(), "hosts"), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// Up starts the program and waits until it is up. At the end of the test it stops,
// and the host is as before.
func (w *world) Up(t testing.TB, f flags) *tapClient {
	t.Helper()
	before := w.hostState()
	c := w.in(t).StartTAP(f)
	t.Cleanup(func() { c.Down(before) })
	c.WaitLog("tunnel up", upTime) // what is sent before goes out by a default route, and is lost
	c.WaitUp()
	return c
}

// Down stops the program, after which the host is as it was before. A second call
// does nothing.
func (c *tapClient) Down(before string) {
	c.t.Helper()
	if !c.Running() {
		return
	}
	c.Terminate()
	c.w.sameHost(c.t, before)
}

// Disconnect ends the client's session by the administrator's hand. Those of earlier
// clients may still be there.
func (c *tapClient) Disconnect() {
	c.t.Helper()
	sessions := regexp.MustCompile(`established" session=(\S+)`).FindAllStringSubmatch(c.Log(), -1)
	if sessions == nil {
		c.t.Fatalf("no session yet:\n%s", c.Log())
	}
	c.w.srv.Disconnect(sessions[len(sessions)-1][1])
}

// Reconnect ends the client's session and waits for the next one.
func (c *tapClient) Reconnect() {
	c.t.Helper()
	seen := len(c.Log())
	c.Disconnect()
	c.WaitLogAfter(seen, "tunnel up", recoverTime)
}

// wantPage fails the test unless a host's page is want; empty means that it cannot
// be reached.
func (w *world) wantPage(t testing.TB, host, want string) {
	t.Helper()
	limit := "10"
	if want == "" {
		limit = "2" // long enough to show that nothing answers
	}
	page, err := w.in(t).Curl("--globoff", "--max-time", limit, "http://"+host+"/")
	if page != want || (err != nil) != (want == "") {
		t.Errorf("page of %s: got %q, %v, want %q\n%s", host, page, err, want, w.cli.IP("route"))
	}
}

// wantRoute fails the test unless the kernel comes to choose this way to a host.
func (w *world) wantRoute(t testing.TB, host, want string) {
	t.Helper()
	eventually(t, 15*time.Second, "the way to "+host+" is "+want, func() error {
		out, err := w.cli.Command("ip", "route", "get", host).CombinedOutput()
		if got := string(out); !strings.Contains(got, want) {
			return fmt.Errorf("got %s, %v", got, err)
		}
		return nil
	})
}

// Proves that the default route moves only if asked for, and that the way to the
// server and the default routes of others stay.
func TestTAPDefaultGateway(t *testing.T) {
	t.Parallel()
	w := newRoutedWorld(t)
	byGateway := "via " + serverAddress + " dev eth0"
	w.wantPage(t, internetHost, besidePage)
	t.Run("server with several addresses", func(t *testing.T) {
		w.Hosts(deadHost + " " + serverHost + "\n" + farServer + " " + serverHost + "\n")
		c := w.Up(t, farFlags.with(flags{"host": serverHost, "accept-default-gateway": "true"}))
		w.wantPage(t, internetHost, sitePage)
		for _, address := range []string{deadHost, farServer} {
			w.wantRoute(t, address, byGateway)
		}
		// The name leads elsewhere the next time.
		w.Hosts(farServer + " " + serverHost + "\n")
		time.Sleep(6 * time.Second) // the Go library reads the table every 5 s
		c.Reconnect()
		w.wantRoute(t, farServer, byGateway)
		w.wantRoute(t, deadHost, "dev "+tapName)
	})
	for _, row := range []struct {
		name  string
		flags flags
		page  string
	}{
		{"without the flag", flags{}, besidePage},
		{"with it", flags{"accept-default-gateway": "true"}, sitePage},
	} {
		t.Run(row.name, func(t *testing.T) {
			w.Up(t, farFlags.with(row.flags))
			w.wantPage(t, internetHost, row.page)
			w.wantRoute(t, farServer, byGateway)
			if got, want := w.cli.IP("route", "show", "default"), "default "+byGateway+" metric 100"; !strings.Contains(got, want) {
				t.Errorf("default routes: got\n%s, want %q among them", got, want)
			}
		})
	}
	t.Run("beside a default route with a better metric", func(t *testing.T) {
		w.cli.IP("route", "add", "default", "via", serverAddress, "metric", "10")
		defer w.cli.IP("route", "del", "default", "metric", "10")
		t.Run("up", func(t *testing.T) {
			w.Up(t, farFlags.with(flags{"accept-default-gateway": "true"}))
			w.wantPage(t, internetHost, sitePage)
			w.wantRoute(t, farServer, byGateway)
		})
	})
}

// Proves which of a lease's classless routes are used with which flags.
func TestTAPStaticRoutes(t *testing.T) {
	t.Parallel()
	w := newRoutedWorld(t)
	const (
		statics  = routedHost + "/32," + lanGateway
		standard = "--dhcp-option=121,"
		windows  = "--dhcp-option-force=249,"
		byItself = "0.0.0.0/0," + lanGateway + ","
	)
	var (
		none        = flags{}
		accept      = flags{"accept-static-routes": "true"}
		gateway     = flags{"accept-default-gateway": "true"}
		both        = gateway.with(accept)
		routeOfOurs = routedHost + " via " + lanGateway + " dev " + tapName
	)
	for _, row := range []struct {
		name     string
		option   string
		flags    flags
		route    bool   // is the route there
		routed   string // the page of the host that it leads to
		internet string
	}{
		{"option 121", standard + statics, none, false, "", besidePage},
		{"option 121", standard + statics, accept, true, sitePage, besidePage},
		{"option 121", standard + statics, both, true, sitePage, sitePage},
		{"option 121 with a default route", standard + byItself + statics, none, false, "", besidePage},
		{"option 121 with a default route", standard + byItself + statics, accept, true, sitePage, besidePage},
		{"option 121 with a default route", standard + byItself + statics, gateway, false, sitePage, sitePage},
		{"option 121 with a default route", standard + byItself + statics, both, true, sitePage, sitePage},
		{"option 249", windows + statics, none, false, "", besidePage},
		{"option 249", windows + statics, accept, true, sitePage, besidePage},
		{"option 249 with a default route", windows + byItself + statics, accept, true, sitePage, besidePage},
		{"option 249 with a default route", windows + byItself + statics, both, true, sitePage, sitePage},
	} {
		t.Run(row.name+", "+strings.Join(row.flags.args(), " "), func(t *testing.T) {
			w.DHCP(row.option)
			w.Up(t, farFlags.with(row.flags))
			if got := strings.Contains(w.cli.IP("route"), routeOfOurs); got != row.route {
				t.Errorf("route %q is there: got %v, want %v\n%s", routeOfOurs, got, row.route, w.cli.IP("route"))
			}
			w.wantPage(t, routedHost, row.routed)
			w.wantPage(t, internetHost, row.internet)
		})
	}
}
