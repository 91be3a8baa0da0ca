package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"softether-go/pkg/account"
)

// official is a file that the official client exported.
func official(name string) string { return filepath.Join("..", "account", "testdata", name+".vpn") }

// private is a copy that only its owner can read, so that nothing is noted about it.
func private(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(official(name))
	if err != nil {
		t.Fatal(err)
	}
	return write(t, name+".vpn", string(b))
}

func TestAnAccountIsAllThatIsNeeded(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	c := mustLoad(t, setup{}, "-account", private(t, "hashed"))
	if c.Server.Host != "vpn.example.com" || c.Server.Port != 443 || c.Server.Hub != "VPN" || c.Auth.User != "alice" {
		t.Errorf("got %+v, user %s", c.Server, c.Auth.User)
	}
	if c.Auth.Method != HashedPassword || len(c.Auth.Hash.Reveal()) != 40 || c.Auth.Password.IsSet() || c.Mode != ModeTAP || c.Trust.KnownServers == "" {
		t.Errorf("got %v, mode %v, known servers %q", c.Auth.Method, c.Mode, c.Trust.KnownServers)
	}
	if c.Retry.Delay != 15*time.Second || len(c.Notes) > 0 {
		t.Errorf("delay %v, notes %q", c.Retry.Delay, c.Notes)
	}
	if s := setting(t, c, "user"); s.Origin != FromAccount || filepath.Base(s.Where) != "hashed.vpn" {
		t.Errorf("the user is from %v, %s", s.Origin, s.Where)
	}

	c = mustLoad(t, setup{}, "-account", private(t, "plain"), "-http", ":0", "-proxy-open")
	if p := c.Way.Proxy; c.Auth.Method != PlainPassword || c.Auth.Password.Reveal() != "p4ss w0rd" ||
		p.String() != "http://puser@proxy.example.com:3128" || p.Password.Reveal() != "pr0xy $ pass" {
		t.Errorf("got %v, proxy %v", c.Auth.Method, p)
	}
	if strings.Contains(c.Lines(), "p4ss") || strings.Contains(c.Lines(), "pr0xy") {
		t.Errorf("a secret is printed:\n%s", c.Lines())
	}

	c = mustLoad(t, setup{}, "-account", private(t, "anonymous"))
	if c.Auth.Method != Anonymous || c.Way.Proxy.Scheme != "socks4" || len(c.Trust.Pins) != 1 || c.Trust.KnownServers != "" {
		t.Errorf("got %v, %v, trust %+v", c.Auth.Method, c.Way.Proxy, c.Trust)
	}
	if notes := strings.Join(c.Notes, ""); !strings.Contains(notes, "left out: the proxy's password, which SOCKS4 does not carry") {
		t.Errorf("notes %q", notes)
	}

	c = mustLoad(t, setup{}, "-account", private(t, "certificate"))
	if pem := c.Auth.Inline.Reveal(); c.Auth.Method != ByCertificate || strings.Count(pem, "-----BEGIN ") != 2 {
		t.Errorf("got %v with %d PEM blocks", c.Auth.Method, strings.Count(pem, "-----BEGIN "))
	}
	if notes := strings.Join(c.Notes, ""); !strings.Contains(notes, "bridge mode") {
		t.Errorf("notes %q", notes)
	}
}

func TestWhatIsGivenElsewhereBeatsTheAccount(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	hashed, plain, certificate := private(t, "hashed"), private(t, "plain"), private(t, "certificate")
	c := mustLoad(t, setup{file: "hub OTHER\nuser bob\n"}, "-account", hashed, "-host", "elsewhere")
	if c.Server.Host != "elsewhere" || c.Server.Hub != "OTHER" || c.Auth.User != "bob" || !c.Auth.Hash.IsSet() {
		t.Errorf("got %+v, user %s", c.Server, c.Auth.User)
	}
	if c := mustLoad(t, setup{}, "-account", plain, "-host", "elsewhere"); c.Server.Port != 443 {
		t.Errorf("another host has the account's port %d", c.Server.Port)
	}
	if c := mustLoad(t, setup{}, "-account", plain, "-pass", "pw"); c.Auth.Method != HashedPassword || c.Auth.Password.Reveal() != "pw" {
		t.Errorf("another password goes by the account's method %v", c.Auth.Method)
	}
	if c := mustLoad(t, setup{}, "-account", certificate, "-anonymous"); c.Auth.Method != Anonymous || c.Auth.Inline.IsSet() {
		t.Errorf("-anonymous has the account's method %v", c.Auth.Method)
	}
	if c := mustLoad(t, setup{}, "-account", plain, "-proxy", "socks5h://10.0.0.9"); c.Way.Proxy.String() != "socks5h://10.0.0.9:1080" || c.Way.Proxy.Password.IsSet() {
		t.Errorf("another proxy: got %v", c.Way.Proxy)
	}
	if c := mustLoad(t, setup{}, "-account", plain, "-insecure"); !c.Trust.Insecure || c.Trust.KnownServers != "" {
		t.Errorf("another trust: got %+v", c.Trust)
	}
	// What is printed is as good as what was given.
	first := mustLoad(t, setup{}, "-account", hashed)
	if again := mustLoad(t, setup{}, "-config", write(t, "c", first.Lines()), "-account", hashed); !again.Auth.Hash.Equal(first.Auth.Hash) {
		t.Error("a switch that is off in the config file keeps the account's hash out")
	}
}

func TestAnAccountsUDPPortIsOfItsHost(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	b, err := os.ReadFile(official("hashed"))
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, "udp.vpn", strings.Replace(string(b), "uint PortUDP 0", "uint PortUDP 4500", 1))
	if w := mustLoad(t, setup{}, "-account", file).Way; w.Transport != RUDP || w.RUDPPort != 4500 {
		t.Errorf("got %v to port %d", w.Transport, w.RUDPPort)
	}
	if w := mustLoad(t, setup{}, "-account", file, "-host", "other.example.com").Way; w.Transport != TCP || w.RUDPPort != 0 {
		t.Errorf("for another host: %v to port %d", w.Transport, w.RUDPPort)
	}
	if c := mustLoad(t, setup{}, "-account", file, "-transport", "tcp"); c.Way.Transport != TCP || c.Way.RUDPPort != 0 || c.Server.Host != "vpn.example.com" {
		t.Errorf("by TCP, as told: %v to port %d of %s", c.Way.Transport, c.Way.RUDPPort, c.Server.Host)
	}
}

func TestAccountsThatCannotBeUsed(t *testing.T) {
	for _, tt := range []struct{ name, path, want string }{
		{"not there", "/nowhere/x.vpn", "-account: open /nowhere/x.vpn: no such file or directory"},
		{"another file", write(t, "x.vpn", "host vpn\n"), `it has no line "declare root"; export it anew`},
		{"a directory", t.TempDir(), "-account: read "},
	} {
		_, err := load(t, setup{}, "-account", tt.path)
		if got := message(err); !strings.Contains(got, tt.want) || strings.Contains(got, "\n") {
			t.Errorf("%s: got %s, want one line with %s", tt.name, got, tt.want)
		}
	}
	if c := mustLoad(t, setup{env: map[string]string{"HOME": "/x"}}, "-account", official("hashed"), "-pin", "sha256:"+strings.Repeat("00", 32)); !slices.ContainsFunc(c.Notes, func(n string) bool { return strings.Contains(n, "chmod 600") }) {
		if info, err := os.Stat(official("hashed")); err == nil && info.Mode().Perm()&4 != 0 {
			t.Errorf("an account that everyone can read: notes %q", c.Notes)
		}
	}
}

func TestWhatAnAccountLeavesOutIsSaid(t *testing.T) {
	a := account.Account{
		Host: "h", Hint: "NAT-hint", Port: 443, Hub: "VPN", User: "u", NoEncrypt: true, CheckServer: true,
		BindAddress: netip.MustParseAddr("192.0.2.1"), Headers: "X-A: b\r\nX-C: d\r\n",
		Proxy: account.Proxy{Kind: account.ProxyHTTP, Host: "2001:db8::1"},
	}
	words, left := AccountWords(a)
	for _, want := range []Word{{"proxy", "http://[2001:db8::1]:80", false}, {"proxy-header", "X-C: d", true}, {"bind-address", "192.0.2.1", false}} {
		if !slices.Contains(words, want) {
			t.Errorf("%v is not in %v", want, words)
		}
	}
	for _, want := range []string{"NAT traversal", "without encryption", "list of authorities"} {
		if !strings.Contains(strings.Join(left, "; "), want) {
			t.Errorf("%q is not in %q", want, left)
		}
	}
}

// monitoring is an account file that asks for monitoring mode.
func monitoring(t *testing.T) string {
	t.Helper()
	a := account.Account{Name: "watch", Host: "vpn", Port: 443, Hub: "VPN", User: "u", Auth: account.AuthAnonymous, Monitor: true}
	return write(t, "watch.vpn", string(a.Bytes()))
}

func TestAnAccountInMonitoringModeMonitorsWhereNothingIsSent(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for _, row := range []struct {
		setup    setup
		args     string
		monitors bool
		noted    bool
	}{
		{args: "", monitors: true},
		{args: "-tap vpn0", monitors: true},
		{args: "-mode tap", monitors: true},
		{args: "-mode auto", monitors: true},
		{args: "-monitor=false"},
		{args: "-listen 127.0.0.1:1080", noted: true},
		{args: "-L 8080:web:80", noted: true},
		{args: "-mode netstack -http 127.0.0.1:8080", noted: true},
		{args: "-bridge br0", noted: true},
		{setup: setup{file: "listen 127.0.0.1:1080\n"}, noted: true},
		{setup: setup{env: map[string]string{"SOFTETHER_SOCKS5": "127.0.0.1:1080"}}, noted: true},
	} {
		c := mustLoad(t, row.setup, append(strings.Fields(row.args), "-account", monitoring(t))...)
		if c.TAP.Monitor != row.monitors {
			t.Errorf("%q: monitoring %t, want %t", row.args, c.TAP.Monitor, row.monitors)
		}
		if noted := strings.Contains(strings.Join(c.Notes, "\n"), "left out: monitoring mode"); noted != row.noted {
			t.Errorf("%q: notes %q", row.args, c.Notes)
		}
	}
	for name, src := range map[string]Source{"a command with a network": {Run: true}, "a command that uses the VPN": {Tool: true}} {
		src.LookupEnv = func(string) (string, bool) { return "", false }
		c, err := Load([]string{"-account", monitoring(t)}, src)
		if err != nil || c.TAP.Monitor {
			t.Errorf("%s: monitoring %t, %v", name, c.TAP.Monitor, err)
		}
	}
}
