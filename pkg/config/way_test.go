package config

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProxyURLs(t *testing.T) {
	pw := NewSecret("p:w@x")
	for text, want := range map[string]ProxyURL{
		"http://proxy.example:3128":             {Scheme: "http", Host: "proxy.example", Port: 3128},
		"proxy.example:3128":                    {Scheme: "http", Host: "proxy.example", Port: 3128},
		"HTTPS://proxy/":                        {Scheme: "https", Host: "proxy", Port: 443},
		"socks5h://[2001:db8::1]":               {Scheme: "socks5h", Host: "2001:db8::1", Port: 1080},
		"socks4://me@127.0.0.1:9":               {Scheme: "socks4", Host: "127.0.0.1", Port: 9, User: "me"},
		"socks5://CORP%5Cann:p%3Aw%40x@proxy:1": {Scheme: "socks5", Host: "proxy", Port: 1, User: `CORP\ann`, Password: pw},
	} {
		got, err := parseProxyURL(text)
		if diff := cmp.Diff(got, want); err != nil || diff != "" {
			t.Errorf("%s: %v, -got +want:\n%s", text, err, diff)
		}
	}
}

func TestProxyURLsThatAreNone(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "names no proxy",
		"http://":                "names no proxy",
		"http://a b":             "is not a URL",
		"ftp://proxy":            "begins with none of http, https, socks4",
		"http://proxy:0":         "has no port that can be",
		"http://proxy:70000":     "has no port that can be",
		"http://proxy:x":         "is not a URL",
		"http://proxy/path":      "has more than a scheme, a host and a port",
		"http://proxy?x":         "has more than a scheme, a host and a port",
		"http://0.0.0.0":         "no single machine",
		"http://a%3Ab:pw@proxy":  "has a user with a colon",
		"http://:pw@proxy":       "has a password and no user",
		"http://me:%0a@proxy":    "its password is holds a line break",
		"socks5://m%00e:x@proxy": "control character",
		"socks4a://me:pw@proxy":  "SOCKS4 cannot carry",
	} {
		if _, err := parseProxyURL(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzParseProxyURL(f *testing.F) {
	f.Add("http://me:pw@proxy.example:3128")
	f.Add("socks5h://[fe80::1%25eth0]:1")
	f.Add("proxy:3128/")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseProxyURL(text)
		if err != nil {
			oneLine(t, err)
			return
		}
		again, err := parseProxyURL(p.String())
		again.Password = p.Password // which is not shown
		if diff := cmp.Diff(again, p); err != nil || diff != "" {
			t.Errorf("%q: %q: %v, -got +want:\n%s", text, p, err, diff)
		}
	})
}

func TestTheWayToTheServer(t *testing.T) {
	env := map[string]string{"https_proxy": "http://me:pw@proxy:3128"}
	for _, row := range []struct {
		name string
		env  map[string]string
		args string
		want Way
	}{
		{"nothing", env, "", Way{}},
		{"a password of its own", map[string]string{"SOFTETHER_PROXY_URL_PASS": "pw"}, "-proxy http://me@proxy:3128",
			Way{Proxy: ProxyURL{"http", "proxy", 3128, "me", NewSecret("pw")}}},
		{"a password in the URL", nil, "-proxy socks5://me:pw@proxy", Way{Proxy: ProxyURL{"socks5", "proxy", 1080, "me", NewSecret("pw")}}},
		{"a user without a password", nil, "-proxy http://me@proxy", Way{Proxy: ProxyURL{Scheme: "http", Host: "proxy", Port: 80, User: "me"}}},
		{"the environment's, with the same password beside it", env, "-proxy-from-env -proxy-url-pass pw",
			Way{Proxy: ProxyURL{"http", "proxy", 3128, "me", NewSecret("pw")}, FromEnv: true}},
		{"the environment's", env, "-proxy-from-env", Way{Proxy: ProxyURL{"http", "proxy", 3128, "me", NewSecret("pw")}, FromEnv: true}},
		{"the environment's, and none there", nil, "-proxy-from-env", Way{FromEnv: true}},
		{"headers", nil, "-proxy http://proxy -proxy-header X-A:1,2 -proxy-header X-B:",
			Way{Proxy: ProxyURL{Scheme: "http", Host: "proxy", Port: 80}, Headers: []Header{{"X-A", NewSecret("1,2")}, {"X-B", NewSecret("")}}}},
		{"bound", nil, "-bind-address 2001:db8::7 -bind-interface eth0 -fwmark 4294967295",
			Way{BindAddress: netip.MustParseAddr("2001:db8::7"), BindInterface: "eth0", Mark: 0xffffffff}},
		{"R-UDP", nil, "-transport rudp -rudp-port 4500", Way{Transport: RUDP, RUDPPort: 4500}},
		{"as DNS", nil, "-transport dns", Way{Transport: DNS}},
		{"TCP first, with a proxy", nil, "-transport auto -proxy http://proxy", Way{Transport: Auto, Proxy: ProxyURL{Scheme: "http", Host: "proxy", Port: 80}}},
	} {
		c := mustLoad(t, setup{env: row.env}, with(strings.Fields(row.args)...)...)
		if diff := cmp.Diff(c.Way, row.want, compareConfig); diff != "" {
			t.Errorf("%s: -got +want:\n%s", row.name, diff)
		}
	}
}

func TestWaysThatCannotBe(t *testing.T) {
	env := map[string]string{"HTTPS_PROXY": "ftp://proxy"}
	for _, row := range []struct{ args, want string }{
		{"-proxy ftp://x", "-proxy: begins with none of"},
		{"-proxy http://x -proxy-from-env", "-proxy-from-env: -proxy says already where to go: drop one of the two"},
		{"-proxy-from-env", "-proxy-from-env: HTTPS_PROXY begins with none of"},
		{"-proxy-url-pass x", "-proxy-url-pass: needs a user in the proxy's URL"},
		{"-proxy http://x -proxy-url-pass x", "-proxy-url-pass: needs a user in the proxy's URL"},
		{"-proxy http://me:pw@x -proxy-url-pass x", "-proxy-url-pass: there is a password in the proxy's URL too: drop one of the two"},
		{"-proxy http://me:pw@x -proxy-url-pass-file /none", "-proxy-url-pass-file: there is a password in the proxy's URL too"},
		{"-proxy http://me@x -proxy-url-pass-file /none/such", "-proxy-url-pass-file: open /none/such"},
		{"-proxy socks4://me@x -proxy-url-pass x", "-proxy: has a password, which SOCKS4 cannot carry"},
		{"-proxy socks5://me@x", "-proxy: has a user and no password, which SOCKS5 cannot carry: give -proxy-url-pass-file"},
		{"-proxy-header A:b", "-proxy-header: is for an http:// or https:// proxy"},
		{"-proxy socks5://x -proxy-header A:b", "-proxy-header: is for an http:// or https:// proxy"},
		{"-proxy http://x -proxy-header A", `-proxy-header: is not a header: give "NAME: VALUE"`},
		{"-proxy http://x -proxy-header A(:x", `-proxy-header: is not a header: give "NAME: VALUE"`},
		{"-proxy http://x -proxy-header A:\x01", "-proxy-header: has a control character"},
		{"-proxy http://x -proxy-header host:x", "-proxy-header: is one that follows from the request"},
		{"-host-order random", `-host-order: "random" is not an order: give listed or fastest`},
		{"-bind-address 0.0.0.0", `-bind-address: "0.0.0.0" is not an address that this machine can have`},
		{"-bind-address eth0", `-bind-address: "eth0" is not an address`},
		{"-bind-address fe80::1%eth0", `-bind-address: "fe80::1%eth0" is not an address`},
		{"-bind-interface a/b", `-bind-interface: "a/b" has other characters`},
		{"-fwmark 0", `-fwmark: "0" is not a mark: give 1 to 4294967295`},
		{"-fwmark 4294967296", `-fwmark: "4294967296" is not a mark`},
		{"-fwmark mark", `-fwmark: "mark" is not a mark`},
		{"-transport udp", `-transport: "udp" is not a transport: give tcp, rudp, dns, icmp or auto`},
		{"-transport rudp", "-transport: rudp needs the server's R-UDP port: give -rudp-port"},
		{"-rudp-port 4500", "-rudp-port: is for -transport rudp or auto"},
		{"-rudp-port 4500 -transport dns", "-rudp-port: is for -transport rudp or auto"},
		{"-rudp-port 0 -transport rudp", "-rudp-port: "},
		{"-transport icmp -proxy http://x", "-transport: icmp cannot go through a proxy"},
		{"-host b:1,b:1", `-host: "b" is in the list twice: drop one`},
		{"-host b,", `-host: "" is not a server`},
	} {
		_, err := load(t, setup{env: env}, with(strings.Fields(row.args)...)...)
		if got := message(err); !strings.HasPrefix(got, row.want) || strings.Contains(got, "\n") {
			t.Errorf("%s:\n got %s\nwant %s", row.args, got, row.want)
		}
	}
}

func TestSeveralHosts(t *testing.T) {
	for _, row := range []struct {
		name, file, args string
		want             []Address
	}{
		{"ports of their own", "", "-host a:1,b -host [2001:db8::1]:3", []Address{{"a", 1}, {"b", 443}, {"2001:db8::1", 3}}},
		{"-port for the others", "", "-host a:1,b,c -port 992", []Address{{"a", 1}, {"b", 992}, {"c", 992}}},
		{"-port from below", "port 992", "-host a:1,b:2", []Address{{"a", 1}, {"b", 2}}},
		{"-port from above", "host a:1, b", "-port 992", []Address{{"a", 992}, {"b", 992}}},
	} {
		args := append([]string{"-user", "ann", "-pass", "pw", "-http", "127.0.0.1:8080"}, strings.Fields(row.args)...)
		c := mustLoad(t, setup{file: row.file}, args...)
		if diff := cmp.Diff(c.Server.Addresses(), row.want); diff != "" {
			t.Errorf("%s: -got +want:\n%s", row.name, diff)
		}
	}
}

func TestAPortThatNoHostNeeds(t *testing.T) {
	_, err := load(t, setup{}, "-user", "ann", "-pass", "pw", "-http", "127.0.0.1:8080", "-host", "b:1,c:2", "-port", "3")
	if got, want := message(err), "-port: every -host has a port of its own: drop -port, or one of those"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNotesOnTheWay(t *testing.T) {
	for _, row := range []struct{ name, args, want string }{
		{"a proxy here that would go through its own tunnel", "-proxy http://localhost -accept-default-gateway", "-accept-default-gateway with a proxy on this machine"},
		{"a proxy elsewhere", "-proxy http://proxy -accept-default-gateway", ""},
		{"no proxy in the environment", "-proxy-from-env", "-proxy-from-env: HTTPS_PROXY is not set"},
		{"a login for the other proxies", "-proxy http://proxy -socks5 :0 -proxy-user me -proxy-pass pw", "-proxy-user is what clients of -socks5 and -http must give"},
	} {
		got := strings.Join(mustLoad(t, setup{}, loginWith(strings.Fields(row.args)...)...).Notes, "\n")
		if !strings.HasPrefix(got, row.want) || (got == "") != (row.want == "") {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

// The variables are those of the process, as net/http reads them only once.
func TestServersWithoutTheEnvironmentsProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://proxy:3128")
	t.Setenv("NO_PROXY", "corp.example,192.0.2.0/24,vpn.example.com:992")
	t.Setenv("REQUEST_METHOD", "")
	w := Way{Proxy: ProxyURL{Scheme: "http", Host: "proxy", Port: 3128}, FromEnv: true}
	for host, want := range map[Address]bool{
		{"vpn.example.com", 443}: true, {"vpn.example.com", 992}: false, {"vpn.corp.example", 443}: false,
		{"192.0.2.1", 443}: false, {"198.51.100.1", 443}: true, {"2001:db8::1", 443}: true, {"localhost", 443}: false,
	} {
		if got := w.ByProxy(host.Host, host.Port); got != want {
			t.Errorf("%v by proxy: got %v, want %v", host, got, want)
		}
	}
	w.FromEnv = false
	if !w.ByProxy("192.0.2.1", 443) || (Way{FromEnv: true}).ByProxy("vpn.example.com", 443) {
		t.Error("-proxy goes to all servers, and no proxy to none")
	}
}
