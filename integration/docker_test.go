//go:build linux

package integration

import (
	"fmt"
	"strings"
	"testing"
)

// containerFlags log in as people do: to a name, with a certificate that an authority
// has signed.
var containerFlags = flags{
	"host": serverHost, "port": middleboxPort, "hub": hubName, "user": userName, "pass": userPassword,
	"reconnect-delay": "200ms", "reconnect-max-delay": "2s",
}

// tapOptions are what a container needs for TAP mode.
var tapOptions = []string{"--user", "0", "--cap-add", "NET_ADMIN", "--device", "/dev/net/tun"}

const sitePageURL = "http://" + siteName + "/"

// Proves the released image in both modes.
func TestContainer(t *testing.T) {
	t.Parallel()
	w := newDockerWorld(t)
	m := w.startMiddlebox()
	t.Run("proxy", func(t *testing.T) { proveProxyContainer(t, w.in(t)) })
	t.Run("TAP", func(t *testing.T) { proveTAPContainer(t, w.in(t), m) })
	t.Run("TAP for another container's network", func(t *testing.T) { proveSidecar(t, w.in(t)) })
	t.Run("TAP without a file system", func(t *testing.T) { proveReadOnlyContainer(t, w.in(t)) })
	t.Run("run", func(t *testing.T) { proveRunContainer(t, w.in(t)) })
	t.Run("too little allowed", func(t *testing.T) { proveContainerRefuses(t, w.in(t)) })
}

// Proves that proxy mode needs nothing but a network: no user, no capability, no
// file. Another container uses it by its name.
func proveProxyContainer(t *testing.T, w *dockerWorld) {
	c := w.Start(w.network, containerFlags.with(flags{"socks5": ":1080", "http": ":8080", "proxy-user": "u", "proxy-pass": "secret"}),
		"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
	c.WaitLog("tunnel up", upTime)
	if page(w.Visit(w.network, sitePageURL)) == nil {
		t.Error("the page comes without the proxy, so nothing below means a thing")
	}
	for _, proxy := range []string{"http://u:secret@" + c.name + ":8080", "socks5h://u:secret@" + c.name + ":1080"} {
		if err := page(w.Visit(w.network, sitePageURL, "HTTP_PROXY="+proxy)); err != nil {
			t.Errorf("by %s: %v", proxy, err)
		}
	}
	c.Stop()
}

// Proves that TAP mode needs one capability and the device, and that another
// container which shares the network goes through the VPN, by name, with connections
// that outlive faults. The name servers are changed in the file that both have
// mounted, and put back, also when the client was killed and started again.
func proveTAPContainer(t *testing.T, w *dockerWorld, m *middlebox) {
	m.Refuse(true)
	c := w.Start(w.network, containerFlags.with(flags{"tap": tapName, "accept-default-gateway": "true", "accept-dns": "true"}), tapOptions...)
	resolver := c.ResolvConf()
	m.Refuse(false)
	c.WaitLog("tunnel up", upTime)
	if got := c.ResolvConf(); !strings.Contains(got, "nameserver "+lanGateway) {
		t.Errorf("resolv.conf while up: got %q, want %s in it", got, lanGateway)
	}
	visit := func() {
		t.Helper()
		for _, host := range []string{siteName, routedHost} {
			if err := page(w.Visit(c.Shared(), "http://"+host+"/")); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
	}
	visit()
	const size = 8 << 20
	d := w.watch("shared", size, w.Visit(c.Shared(), fmt.Sprintf("%sgated/shared/%d", sitePageURL, size)))
	for _, f := range faults {
		if f.name == "connection reset" || f.name == "server stopped and started" {
			seen := len(c.Log())
			f.do(t, w.world, m)
			c.WaitLogAfter(seen, upAgain, recoverTime)
		}
	}
	w.lan.site.Open(d.name)
	d.Check(recoverTime)
	visit()
	c.Kill()
	c.Again()
	c.WaitLog("tunnel up", upTime)
	visit()
	c.Stop()
	if got := c.ResolvConf(); got != resolver {
		t.Errorf("resolv.conf at the end: got %q, want %q", got, resolver)
	}
}

// Proves that the client may come, go and be killed in containers that join the network
// of another one, which stays as it was. They have nothing in common but that network.
func proveSidecar(t *testing.T, w *dockerWorld) {
	needTool(t, "nft", "nftables")
	app := w.Idle()
	w.cli = app.Network()
	before, resolver := w.hostState(), app.ResolvConf()
	up := func() *container {
		c := w.Start(app.Shared(), containerFlags.with(flags{"tap": tapName, "accept-default-gateway": "true", "accept-dns": "true",
			"policy-route-table": "200", "connmark": "true"}), tapOptions...)
		c.WaitLog("tunnel up", upTime)
		if err := page(w.Visit(app.Shared(), sitePageURL)); err != nil {
			t.Error(err)
		}
		return c
	}
	up().Kill()
	if w.hostState() == before || app.ResolvConf() == resolver {
		t.Error("a killed client left nothing, so what follows means nothing")
	}
	up().Stop()
	w.sameHost(t, before)
	if got := app.ResolvConf(); got != resolver {
		t.Errorf("resolv.conf at the end: got %q, want %q", got, resolver)
	}
}

// Proves that TAP mode needs no file system, if Docker keeps the name servers.
func proveReadOnlyContainer(t *testing.T, w *dockerWorld) {
	c := w.Start(w.network, containerFlags.with(flags{"tap": tapName, "accept-default-gateway": "true"}),
		append(tapOptions, "--cap-drop", "ALL", "--read-only", "--security-opt", "no-new-privileges")...)
	c.WaitLog("tunnel up", upTime)
	if err := page(w.Visit(c.Shared(), "http://"+routedHost+"/")); err != nil {
		t.Error(err)
	}
	c.Stop()
}

// Proves that what is missing is said in a line with the remedy.
func proveContainerRefuses(t *testing.T, w *dockerWorld) {
	for name, row := range map[string]struct {
		options []string
		flags   flags
		want    string
	}{
		"no device":               {[]string{"--user", "0", "--cap-add", "NET_ADMIN"}, nil, "--device /dev/net/tun"},
		"no capability":           {[]string{"--user", "0", "--device", "/dev/net/tun"}, nil, "NET_ADMIN"},
		"a read-only resolv.conf": {append(tapOptions, "--read-only"), flags{"accept-dns": "true"}, "leave out -accept-dns"},
	} {
		t.Run(name, func(t *testing.T) {
			options := append(row.options, "--rm")
			p := start(t, "softether-go", w.run(w.network, options, containerFlags.with(flags{"tap": tapName}).with(row.flags).args()))
			if code := p.ExitCode(dockerTime); code != exitLocal {
				t.Errorf("exit code: got %d, want %d", code, exitLocal)
			}
			if last := lastLines(p.Log(), 1); !strings.Contains(last, row.want) {
				t.Errorf("got %q, want %q in it", last, row.want)
			}
		})
	}
}
