//go:build linux

package integration

import (
	"strings"
	"testing"
)

// Proves that a browser with the PAC file uses the proxy for addresses, too: for those of a
// network that the lease has a route to, and for no others.
func TestPACFollowsTheLeasesRoutes(t *testing.T) {
	t.Parallel()
	needTool(t, "chromium", "chromium")
	w := newWorldWithoutDHCP(t)
	w.lan.Dnsmasq(usualLease, "--dhcp-option=option:classless-static-route,10.201.0.0/16,"+lanGateway)
	web, beside := startProgramWeb(t, w.lan.ns, "", ""), startProgramWeb(t, w.cli, "", "")
	w.StartClient(usualFlags).WaitUp()

	dom := w.chromium(t, "--proxy-pac-url=http://"+httpProxy+"/proxy.pac", "http://"+routedHost+":"+programPort+"/page?outside")
	if !strings.Contains(dom, "all of it by script") {
		t.Errorf("got %s", dom)
	}
	if got, want := web.loads(programLoads+" ws"), programLoads+" ws"; got != want {
		t.Errorf("by the proxy: loaded %s, want %s", got, want)
	}
	if beside.loads("beside") == "" {
		t.Error("an address of another network was not loaded beside the proxy")
	}
}
