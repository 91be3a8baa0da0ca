package main

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"softether-go/pkg/config"
	"softether-go/pkg/dnsproxy"
	"softether-go/pkg/forward"
	"softether-go/pkg/health"
	"softether-go/proxy"
)

// Who writes 0.0.0.0 opens no port of IPv6; [::] and no host are for both.
func TestPortsAreOfTheFamilyThatTheirAddressSays(t *testing.T) {
	if ln, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("this machine has no IPv6")
	} else {
		ln.Close()
	}
	listen := map[string]func(address string) (net.Listener, error){
		"-listen": func(a string) (net.Listener, error) { return proxy.Listen(t.Context(), a, nil, proxy.AllowOpen) },
		"-L":      func(a string) (net.Listener, error) { return forward.Host{}.Listen("tcp", a) },
		"-health": func(a string) (net.Listener, error) { return health.Listen(t.Context(), a) },
	}
	for flag, open := range listen {
		for address, want := range map[string]bool{"0.0.0.0:0": false, "[::]:0": true, ":0": true} {
			ln, err := open(address)
			if err != nil {
				t.Fatal(err)
			}
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			for host, want := range map[string]bool{"127.0.0.1": true, "::1": want} {
				c, err := net.Dial("tcp", net.JoinHostPort(host, port))
				if (err == nil) != want {
					t.Errorf("%s %s: at %s: got %v, want a listener: %v", flag, address, host, err, want)
				}
				if err == nil {
					c.Close()
				}
			}
			ln.Close()
		}
	}
	s, err := dnsproxy.Open(t.Context(), dnsproxy.Config{Listen: netip.MustParseAddrPort("0.0.0.0:0")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if c, err := net.Dial("tcp", netip.AddrPortFrom(netip.IPv6Loopback(), s.Addr().Port()).String()); err == nil {
		c.Close()
		t.Error("-dns-listen 0.0.0.0 is of IPv6 too")
	}
	pc, err := forward.Host{}.ListenPacket("udp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if a := pc.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); !a.Is4() {
		t.Errorf("-L udp/0.0.0.0 is bound to %v", a)
	}
}

// What is shown of a proxy can be pasted into another terminal.
func TestProxiesAreShownAsTheyAreReached(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := config.Proxy{Mixed: []string{"unix:rel.sock", "0.0.0.0:0"}, HTTP: []string{"unix:h.sock"}, Open: true}
	p, err := openProxies(t.Context(), c, proxy.Config{Dialer: &net.Dialer{}, Log: newLogger(config.Log{}, terminal{err: t.Output()})})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	_, port, _ := net.SplitHostPort(p.servers[1].ln.Addr().String())
	want := []string{"socks5h://localhost" + filepath.Join(dir, "rel.sock"), "unix:" + filepath.Join(dir, "rel.sock"),
		"socks5h://127.0.0.1:" + port, "http://127.0.0.1:" + port, "unix:" + filepath.Join(dir, "h.sock")}
	if got := p.urls(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
