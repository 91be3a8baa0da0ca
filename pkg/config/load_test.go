package config

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// whole is what is needed at least.
var whole = []string{"-host", "vpn.example.com", "-user", "ann", "-pass", "pw", "-socks5", "127.0.0.1:1080"}

// setup is what surrounds the command line.
type setup struct {
	env  map[string]string
	file string // contents of the -config file, if not empty
	ask  func(string) (string, error)
}

// load runs Load in a setup and nothing else.
func load(t testing.TB, s setup, args ...string) (Config, error) {
	t.Helper()
	if s.file != "" {
		args = append([]string{"-config", write(t, "vpn.conf", s.file)}, args...)
	}
	return Load(args, Source{
		LookupEnv: func(name string) (string, bool) { v, ok := s.env[name]; return v, ok },
		Prompt:    s.ask,
	})
}

func mustLoad(t testing.TB, s setup, args ...string) Config {
	t.Helper()
	c, err := load(t, s, args...)
	if err != nil {
		t.Fatalf("Load(%q): %v", args, err)
	}
	return c
}

func with(args ...string) []string { return append(append([]string{}, whole...), args...) }

// write makes a private file and returns its path.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var compareConfig = cmp.Options{
	cmpopts.IgnoreFields(Config{}, "Settings"),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestTheLeastThatIsNeeded(t *testing.T) {
	want := Config{
		Server: Server{Host: "vpn.example.com", Port: 443, Hub: "DEFAULT"},
		Auth:   Auth{User: "ann", Password: NewSecret("pw")},
		Proxy:  Proxy{SOCKS5: []string{"127.0.0.1:1080"}},
		Links:  Links{Count: 1},
		Retry:  Retry{Delay: 5 * time.Second, MaxDelay: time.Minute},

		Service: Service{Drain: 2 * time.Second},
		Mode:    ModeNetstack,
	}
	if diff := cmp.Diff(mustLoad(t, setup{}, whole...), want, compareConfig); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
}

// everything is a config file with every setting of netstack mode that goes
// together; everythingTAP is one of TAP mode.
const everything = `
# The office.
host vpn.example.com/tcp:992
hub  OFFICE	# indented by hand
user CORP\ann
plain-password
pin sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
proxy socks5h://me@proxy.example
host vpn2.example.com, 192.0.2.7:443
host-order fastest
bind-address 192.0.2.8
bind-interface eth0
fwmark 0x10
mac 5e:00:53:00:00:01
hostname laptop
client-id hex:015e0053000001
no-dhcp true
address 10.0.0.5/24
gateway 10.0.0.1
dns 10.0.0.1, 10.0.0.2
-search corp.example
search example.com.
mode netstack
listen 127.0.0.1:3128, unix:/run/vpn.sock, systemd:vpn, fd:3
socket-mode 0660
socks5 127.0.0.1:1080
socks5 [::1]:1080
http :8080
proxy-user me
proxy-pass proxy pw
proxy-open false
connections 8
half-duplex
connection-ttl 10m
qos
compress true
insecure-no-encryption false
reconnect-delay 2s
reconnect-max-delay 30s
health unix:@vpn, :9090
health-target 10.0.0.9
drain 0s
log-level debug
log-json
`

func wantEverything(t *testing.T) Config {
	return Config{
		Server: Server{Host: "vpn.example.com", Port: 992, Hub: "OFFICE", Fastest: true,
			Others: []Address{{"vpn2.example.com", 443}, {"192.0.2.7", 443}}},
		Way: Way{
			Proxy:       ProxyURL{Scheme: "socks5h", Host: "proxy.example", Port: 1080, User: "me", Password: NewSecret("url pw")},
			BindAddress: netip.MustParseAddr("192.0.2.8"), BindInterface: "eth0", Mark: 16,
		},
		Auth:  Auth{Method: PlainPassword, User: `CORP\ann`, Password: NewSecret("pw")},
		Trust: Trust{Pins: []Pin{hash(t)}},
		Address: Addressing{
			NoDHCP:   true,
			Address:  netip.MustParsePrefix("10.0.0.5/24"),
			Gateway:  netip.MustParseAddr("10.0.0.1"),
			DNS:      []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")},
			Search:   []string{"corp.example", "example.com"},
			Hostname: "laptop",
			ClientID: ClientID{1, 0x5e, 0, 0x53, 0, 0, 1},
			MAC:      net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 1},
		},
		Proxy: Proxy{
			Mixed: []string{"127.0.0.1:3128", "unix:/run/vpn.sock", "systemd:vpn", "fd:3"}, SocketMode: 0o660,
			SOCKS5: []string{"127.0.0.1:1080", "[::1]:1080"}, HTTP: []string{":8080"},
			User: "me", Password: NewSecret("proxy pw"),
		},
		Links: Links{Count: 8, HalfDuplex: true, TTL: 10 * time.Minute, QoS: true, Compress: true},
		Retry: Retry{Delay: 2 * time.Second, MaxDelay: 30 * time.Second},

		Service: Service{Health: []string{"unix:@vpn", ":9090"}, HealthTarget: "10.0.0.9"},

		Log:  Log{Level: slog.LevelDebug, JSON: true},
		Mode: ModeNetstack,
	}
}

func TestEverySettingFromAFile(t *testing.T) {
	got := mustLoad(t, setup{file: everything, env: map[string]string{"SOFTETHER_PASS": "pw", "SOFTETHER_PROXY_URL_PASS": "url pw"}})
	if diff := cmp.Diff(got, wantEverything(t), compareConfig); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
}

func TestASessionInTheClearIsWarnedOf(t *testing.T) {
	got := mustLoad(t, setup{file: everything + "insecure-no-encryption true\n", env: map[string]string{"SOFTETHER_PASS": "pw", "SOFTETHER_PROXY_URL_PASS": "url pw"}})
	if !got.Links.Cleartext || len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "everybody") {
		t.Errorf("got %+v with notes %q", got.Links, got.Notes)
	}
}

func TestLinesAreAFileThatGivesTheSame(t *testing.T) {
	secrets := map[string]string{"SOFTETHER_PASS": "pw", "SOFTETHER_PROXY_PASS": "proxy pw", "SOFTETHER_PROXY_URL_PASS": "url pw"}
	first := mustLoad(t, setup{file: everything, env: secrets})
	second := mustLoad(t, setup{file: first.Lines(), env: secrets})
	if diff := cmp.Diff(second, first, compareConfig); diff != "" {
		t.Errorf("read back -got +want:\n%s\nfrom:\n%s", diff, first.Lines())
	}
}

func TestPrecedence(t *testing.T) {
	const file = "hub FILE\ndns 10.0.0.3\ninsecure true\nreconnect-delay 3s\n"
	env := map[string]string{"SOFTETHER_HUB": "ENV", "SOFTETHER_DNS": "10.0.0.2,10.0.0.22", "SOFTETHER_INSECURE": "true"}
	for _, tt := range []struct {
		name string
		s    setup
		args []string
		hub  string
		from Origin
		dns  string
		safe bool
	}{
		{"default", setup{}, nil, "DEFAULT", FromDefault, "[]", true},
		{"file over default", setup{file: file}, nil, "FILE", FromFile, "[10.0.0.3]", false},
		{"environment over default", setup{env: env}, nil, "ENV", FromEnv, "[10.0.0.2 10.0.0.22]", false},
		{"environment over file", setup{file: file, env: env}, nil, "ENV", FromEnv, "[10.0.0.2 10.0.0.22]", false},
		{"flag over all", setup{file: file, env: env},
			[]string{"-hub", "FLAG", "--dns=10.0.0.1", "-insecure=false"}, "FLAG", FromFlag, "[10.0.0.1]", true},
		{"flag over file", setup{file: file},
			[]string{"-hub", "FLAG", "-dns", "10.0.0.1", "-dns", "10.0.0.11", "-insecure=0"}, "FLAG", FromFlag, "[10.0.0.1 10.0.0.11]", true},
		{"an empty variable is none", setup{file: file, env: map[string]string{"SOFTETHER_HUB": "", "SOFTETHER_DNS": ""}}, nil,
			"FILE", FromFile, "[10.0.0.3]", false},
		{"the last of two flags", setup{}, []string{"-hub", "A", "-hub", "B"}, "B", FromFlag, "[]", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := mustLoad(t, tt.s, with(tt.args...)...)
			got := []any{c.Server.Hub, setting(t, c, "hub").Origin, stringsOf(c.Address.DNS), !c.Trust.Insecure}
			if diff := cmp.Diff(got, []any{tt.hub, tt.from, tt.dns, tt.safe}); diff != "" {
				t.Errorf("hub, its origin, DNS, secure: -got +want:\n%s", diff)
			}
		})
	}
}

func stringsOf(addrs []netip.Addr) string {
	words := []string{}
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return "[" + strings.Join(words, " ") + "]"
}

func setting(t *testing.T, c Config, name string) Setting {
	t.Helper()
	for _, s := range c.Settings {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no setting %s", name)
	return Setting{}
}

func TestEveryFlagHasItsVariable(t *testing.T) {
	env := map[string]string{}
	for _, line := range strings.Split(mustLoad(t, setup{file: everything}, "-pass", "pw", "-proxy-url-pass", "url pw").Lines(), "\n") {
		name, value, err := parseLine(line)
		if err == nil && name != "" {
			env[envName(name)] = value
		}
	}
	env["SOFTETHER_PASS"], env["SOFTETHER_PROXY_PASS"], env["SOFTETHER_PROXY_URL_PASS"] = "pw", "proxy pw", "url pw"
	if diff := cmp.Diff(mustLoad(t, setup{env: env}), wantEverything(t), compareConfig); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
}

func TestTheConfigFileMayBeNamedByTheEnvironment(t *testing.T) {
	path := write(t, "x.conf", "hub OFFICE\n")
	c := mustLoad(t, setup{env: map[string]string{"SOFTETHER_CONFIG": path}}, whole...)
	if got, want := c.Server.Hub, "OFFICE"; got != want {
		t.Errorf("hub: got %s, want %s", got, want)
	}
	if got, want := setting(t, c, "hub").Where, path+":1"; got != want {
		t.Errorf("where the hub comes from: got %s, want %s", got, want)
	}
}

func TestThePortInTheHost(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		args       []string
		port       uint16
		wantErr    string
	}{
		{name: "stands in for -port", args: []string{"-host", "vpn:992"}, port: 992},
		{name: "may agree with it", args: []string{"-host", "vpn:992", "-port", "992"}, port: 992},
		{name: "must not contradict it", args: []string{"-host", "vpn:992", "-port", "443"}, wantErr: "-port: says 443, but -host says 992: drop one"},
		{name: "wins from a higher place", file: "port 5555", args: []string{"-host", "vpn:992"}, port: 992},
		{name: "loses from a lower one", file: "host vpn:992", args: []string{"-port", "5555"}, port: 5555},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"-user", "ann", "-pass", "pw", "-http", "127.0.0.1:8080"}, tt.args...)
			c, err := load(t, setup{file: tt.file}, args...)
			if got := message(err); got != tt.wantErr || c.Server.Port != tt.port {
				t.Errorf("got port %d, error %q, want %d, %q", c.Server.Port, got, tt.port, tt.wantErr)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestALongDelayRaisesALimitThatNobodyChose(t *testing.T) {
	c := mustLoad(t, setup{}, with("-reconnect-delay", "10m")...)
	if got, want := c.Retry, (Retry{10 * time.Minute, 10 * time.Minute}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestHelpIsNoOrdinaryError(t *testing.T) {
	for _, flag := range []string{"-h", "--help"} {
		if _, err := load(t, setup{}, "-port", "none", flag); !errors.Is(err, ErrHelp) {
			t.Errorf("%s: got %v, want ErrHelp", flag, err)
		}
	}
}

func TestCommandLinesThatAreNone(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"an unknown flag", []string{"-hots", "vpn"}, "-hots: no such flag; did you mean -host?"},
		{"an unknown flag with a value", []string{"--usr=ann"}, "-usr: no such flag; did you mean -user?"},
		{"a flag without its value", []string{"-user", "ann", "-host"}, "-host: needs a value"},
		{"a word too many", []string{"-host", "vpn", "ann"}, "argument 3 is not a flag: write -NAME VALUE, or -NAME=VALUE"},
		{"a word to begin with", []string{"vpn"}, "argument 1 is not a flag: write -NAME VALUE, or -NAME=VALUE"},
		{"too many dashes", []string{"---host=vpn"}, "argument 1 is not a flag: write -NAME VALUE, or -NAME=VALUE"},
		{"no name", []string{"-host", "vpn", "-=x"}, "argument 3 is not a flag: write -NAME VALUE, or -NAME=VALUE"},
		{"words after the end of flags", []string{"--", "vpn"}, "argument 2 is not a flag: write -NAME VALUE, or -NAME=VALUE"},
		{"a switch with a word", []string{"-insecure", "false"}, "-insecure: is a switch and takes no word after it: give -insecure or -insecure=false"},
	} {
		if _, err := load(t, setup{}, tt.args...); message(err) != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, message(err), tt.want)
		}
	}
}

func TestLines(t *testing.T) {
	s := setup{env: map[string]string{"SOFTETHER_USER": "ann #2"}}
	path := write(t, "vpn.conf", "host vpn:992\nhttp 127.0.0.1:8080\n")
	got := mustLoad(t, s, "-config", path, "-pass", "pw", "-dns", "10.0.0.1", "-dns", "10.0.0.2").Lines()
	got = strings.ReplaceAll(got, path, "vpn.conf")
	// A user name with what begins a comment cannot be said in a file.
	want := `host vpn # vpn.conf:1
port 992 # vpn.conf:1
hub DEFAULT # default
mode netstack # default
# config vpn.conf # flag
connections 1 # default
half-duplex false # default
connection-ttl 0s # default
qos false # default
compress false # default
insecure-no-encryption false # default
udp auto # default
# user ann #2 # SOFTETHER_USER
# pass [redacted] # flag
plain-password false # default
anonymous false # default
trust-on-first-use false # default
insecure false # default
proxy-from-env false # default
transport tcp # default
host-order listed # default
mac random # default
dns 10.0.0.1,10.0.0.2 # flag
no-dhcp false # default
no-ipv6 false # default
http 127.0.0.1:8080 # vpn.conf:2
http-announce nothing # default
isolate-users false # default
proxy-open false # default
accept-default-gateway false # default
accept-static-routes false # default
accept-dns false # default
policy-route-table 0 # default
connmark false # default
block-ipv6 false # default
ipv6-autoconf false # default
monitor false # default
pid 0 # default
proxy-env false # default
capture false # default
reconnect-delay 5s # default
reconnect-max-delay 1m0s # default
drain 2s # default
log-level info # default
log-json false # default
`
	if diff := cmp.Diff(regexp.MustCompile(` +#`).ReplaceAllString(got, " #"), want); diff != "" {
		t.Errorf("spaces aside, -got +want:\n%s", diff)
	}
}

// sayable reports whether a config file can hold all of c but the passwords.
func sayable(c Config) bool {
	for _, s := range c.Settings {
		name, value, err := parseLine(s.Name + " " + s.Value)
		ok := err == nil && name == s.Name && value == s.Value
		if s.Value != "" && s.Value != redacted && s.Name != "config" && !ok {
			return false
		}
	}
	return true
}

func FuzzLoad(f *testing.F) {
	f.Add("-host\nvpn:992/tcp\n-user\nann\n-anonymous\n-socks5\n:1080\n-proxy-open", "hub X\n")
	f.Add("-pass\nx\n-pin\nsha256:AA\n-no-dhcp\n-address\n10.0.0.5/24", "dns 10.0.0.1,\nmode tap\n")
	f.Add("-tap\nvpn0\n-accept-default-gateway\n-connmark", everythingTAP+"pass pw\n")
	f.Add("-host\nh\n-user\nu\n-anonymous\n-policy-route-table\n254\n-block-ipv6", "accept-dns\nproxy-user x\n")
	f.Add("---x\n-", "\ufeffhost vpn # x\n-user=ann\nconfig x\n")
	f.Add("-pass=\n-http\n[::1]:0", strings.ReplaceAll(everything, "http :8080", ""))
	f.Add("-h", "")
	f.Add("-host\nh\n-user\nu\n-pass-hash\nAFNL2tupeMRQM0to84WItMnMun8=\n-trust-on-first-use", "known-servers k\nsocks5 :1\nproxy-open\n")
	f.Add("-host\nh\n-user\nu\n-cert\na\n-key\nb\n-key-password\nc", "trust-on-first-use false\n")
	f.Add("-host\na:1,b\n-user\nu\n-anonymous\n-proxy\nhttp://me@p:8080\n-fwmark\n7", "proxy-url-pass x\nhost-order fastest\n")
	f.Add("-host\na\n-user\nu\n-anonymous\n-proxy\nhttps://u:p@[2001:db8::1]\n-bind-address\n::1", "port 992\nhost b:443,c:1\n")
	f.Fuzz(func(t *testing.T, args, file string) {
		if strings.Contains(args, "-config") || strings.Contains(args+file, "-file") || strings.Contains(args+file, "account") {
			t.Skip() // not to read arbitrary files
		}
		c, err := load(t, setup{file: file}, strings.Split(args, "\n")...)
		if err != nil {
			return
		}
		if err := c.Validate(); err != nil {
			t.Errorf("Load accepts what Validate refuses: %v", err)
		}
		if !sayable(c) {
			return
		}
		again := mustLoad(t, setup{file: c.Lines()}, c.SecretFlags()...)
		if diff := cmp.Diff(again, c, compareConfig, cmpopts.IgnoreFields(Config{}, "Notes")); diff != "" {
			t.Errorf("read back -got +want:\n%s\nfrom:\n%s", diff, c.Lines())
		}
	})
}
