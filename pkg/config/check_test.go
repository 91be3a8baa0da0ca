package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEveryProblemIsALineThatNamesTheRemedy(t *testing.T) {
	pin := "sha256:" + hashHex
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing at all", nil, lines(
			"-host: required: give the server's name or address",
			"-user: required, also with -anonymous: the server finds the account by it",
			"-pass: "+noPassword)},
		{"an empty hub", with("-hub", ""), "-hub: is empty: give the virtual hub's name, or leave it out for DEFAULT"},
		{"anonymous with a password", with("-anonymous"),
			"-anonymous: sends no password, but there is one: drop -pass, -pass-file or their variables"},
		{"anonymous and plain", with("-anonymous", "-plain-password"),
			"-anonymous: sends no password, but -plain-password asks for a way to send one: drop one"},
		{"two passwords", with("-pass-file", "x"), "-pass-file: -pass is given too: drop one of the two"},
		{"a password file that is not there", append([]string{"-pass-file", "/nowhere/pw"}, noPass...),
			"-pass-file: open /nowhere/pw: no such file or directory"},

		{"any server and a pin", with("-insecure", "-pin", pin),
			"-insecure: accepts any server, but -pin or -ca asks for a certain one: drop one"},
		{"any server and an authority", with("-insecure", "-ca", "x"),
			"-insecure: accepts any server, but -pin or -ca asks for a certain one: drop one"},
		{"a pin and an authority", with("-pin", pin, "-ca", "x"),
			"-ca: has no say beside -pin, which accepts certain certificates whoever signed them: drop one"},
		{"two bad pins of three", with("-pin", "a,"+pin, "-pin", "b"), lines(
			`-pin: "a" does not begin with sha256: give "sha256:" and 64 hex digits, or the same 32 bytes in base64`,
			`-pin: "b" does not begin with sha256: give "sha256:" and 64 hex digits, or the same 32 bytes in base64`)},

		{"an address beside DHCP", with("-address", "10.0.0.5/24", "-gateway", "10.0.0.1"), lines(
			"-address: is for static addressing: add -no-dhcp",
			"-gateway: is for static addressing: add -no-dhcp and -address")},
		{"no address at all", with("-no-dhcp"), "-no-dhcp: leaves us without an address: add -address, such as 10.0.0.5/24"},
		{"a gateway elsewhere", with("-no-dhcp", "-address", "10.0.0.5/24", "-gateway", "10.0.1.1"),
			"-gateway: 10.0.1.1 is not in 10.0.0.0/24, so it cannot be reached: correct one of them"},
		{"a gateway that is us", with("-no-dhcp", "-address", "10.0.0.5/24", "-gateway", "10.0.0.5"),
			"-gateway: is our own -address: give the router's"},
		{"a gateway that is everyone", with("-no-dhcp", "-address", "10.0.0.5/24", "-gateway", "10.0.0.255"),
			"-gateway: 10.0.0.255 is the network or broadcast address of 10.0.0.0/24: give the router's"},
		{"a socket without its kind", with("-health", "/run/vpn.sock"),
			`-health: "/run/vpn.sock" is not an address and a port: for a Unix socket give "unix:/run/vpn.sock"`},
		{"a socket without a name", with("-health", "unix:@"), "-health: unix: wants a path, or @ and a name, behind it"},
		{"a target that is many", with("-health-target", "ff02::1"), `-health-target: "ff02::1" is not an IPv4 address of a host: give one like 10.0.0.1`},
		{"an endless end", with("-drain", "-1s"), `-drain: "-1s" is not a duration: give one like 10s, or 0s for none`},

		{"an item missing in a list", with("-dns", "10.0.0.1,,10.0.0.2"), `-dns: "" is not an IP address`},

		{"the same listener twice", with("-http", "127.0.0.1:1080"),
			"-http: 127.0.0.1:1080 is taken by -socks5 127.0.0.1:1080: give another port"},
		{"the same Unix socket twice", with("-http", "unix:/run/a", "-listen", "unix:/run/a"), "-http: unix:/run/a is taken by -listen unix:/run/a: give another port"},
		{"a path for a listener", with("-listen", "/run/vpn.sock"), `-listen: "/run/vpn.sock" is not an address and a port: for a Unix socket give "unix:/run/vpn.sock"`},
		{"a Unix socket without a path", with("-socks5", "unix:"), "-socks5: unix: wants a path, or @ and a name, behind it"},
		{"a descriptor of another purpose", with("-listen", "fd:2"), `-listen: "fd:2" is not the number of a descriptor that is passed: give one like fd:3`},
		{"a name that no socket unit gives", with("-listen", "systemd:a:b"), `-listen: "a:b" is not a name that a socket unit can give (FileDescriptorName=)`},
		{"permissions that keep us out", with("-socket-mode", "0060"), `-socket-mode: "0060" are not permissions that let us in: give octal digits such as 0600 or 0660`},
		{"health by systemd", with("-health", "systemd:"), `-health: "systemd:" is for the proxies alone: give an address and a port, or a Unix socket`},
		{"a listener within another", with("-socks5", ":1080", "-proxy-open"),
			"-socks5: :1080 is taken by -socks5 127.0.0.1:1080: give another port"},
		{"an open proxy", with("-http", ":8080"),
			"-http: others can reach :8080 and nobody has to log in: listen on 127.0.0.1, add -proxy-user and -proxy-pass-file or -proxy-users, or allow it with -proxy-open"},
		{"a file of users beside a user", with("-proxy-users", "f", "-proxy-user", "me", "-proxy-pass", "x"),
			"-proxy-users: has all users with their passwords, but -proxy-user or -proxy-pass names one: drop one of the two"},
		{"isolated users without a file", with("-isolate-users"),
			"-isolate-users: makes each user a host: add -proxy-users, which tells users apart"},
		{"isolated users with one address", with("-isolate-users", "-proxy-users", "f", "-no-dhcp", "-address", "10.0.0.5/24"),
			"-no-dhcp: gives one address, but with -isolate-users each user needs one: drop one of the two"},
		{"isolated users with one IPv6 address", with("-isolate-users", "-proxy-users", "f", "-address6", "2001:db8::5/64"),
			"-address6: gives one address, but with -isolate-users each user needs one: drop one of the two"},
		{"isolated users beside a forward", with("-isolate-users", "-proxy-users", "f", "-L", "8000:a:80"),
			"-L: is of no user, but with -isolate-users there is no host for others: run a second softether-go for it"},
		{"HTTPS without a certificate", with("-https", "127.0.0.1:8443"),
			"-https: needs a certificate to show its clients: add -proxy-tls-cert and -proxy-tls-key"},
		{"a proxy's certificate without its key", with("-https", "127.0.0.1:8443", "-proxy-tls-cert", "c"),
			"-proxy-tls-key: missing: -proxy-tls-cert needs its private key"},
		{"a proxy's key without its certificate", with("-https", "127.0.0.1:8443", "-proxy-tls-key", "k"),
			"-proxy-tls-cert: missing: -proxy-tls-key needs its certificate"},
		{"a proxy's certificate for nobody", with("-http", "127.0.0.1:8080", "-proxy-tls-cert", "c", "-proxy-tls-key", "k"),
			"-proxy-tls-cert: is for clients that speak TLS, and no port is for them: add -https or -listen"},
		{"a proxy user without password", with("-proxy-user", "me"),
			"-proxy-pass: no password for -proxy-user: give -proxy-pass-file FILE or SOFTETHER_PROXY_PASS"},
		{"a proxy user with an empty password", with("-proxy-user", "me", "-proxy-pass", ""),
			"-proxy-pass: no password for -proxy-user: give -proxy-pass-file FILE or SOFTETHER_PROXY_PASS"},
		{"a proxy password without user", with("-proxy-pass", "x"), "-proxy-user: missing: the proxies' password needs a user name"},

		{"a limit below the base", with("-reconnect-delay", "1m", "-reconnect-max-delay", "30s"),
			"-reconnect-max-delay: 30s is below -reconnect-delay 1m0s: raise it"},
		{"a stack that serves nothing", []string{"-host", "h", "-user", "u", "-pass", "p", "-mode", "netstack"},
			"-mode: netstack has nothing to serve: give -listen 127.0.0.1:1080"},
		{"no switch", with("-insecure=maybe"), "-insecure: is a switch: give it alone, or =true or =false"},
		{"no config file", with("-config", "/nowhere/vpn.conf"), "-config: open /nowhere/vpn.conf: no such file or directory"},
		{"a directory for a config file", with("-config", "/"), "-config: read /: is a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := load(t, setup{}, tt.args...)
			if diff := cmp.Diff(message(err), tt.want); diff != "" {
				t.Errorf("-got +want:\n%s", diff)
			}
			if diff := cmp.Diff(c, Config{}, compareConfig); diff != "" {
				t.Errorf("a Config beside an error: %s", diff)
			}
		})
	}
}

func lines(s ...string) string { return strings.Join(s, "\n") }

// What follows from a problem already reported is not reported again.
func TestOneMistakeIsOneProblem(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"a bad host is not a missing one", with("-host", "a b"), "-host:"},
		{"a bad user is not a missing one", with("-user", "a\x00"), "-user:"},
		{"a bad password is not a missing one", with("-pass", "a\nb"), "-pass:"},
		{"an unreadable password is not a missing one", append([]string{"-pass-file", "/nowhere"}, noPass...), "-pass-file:"},
		{"a bad address is not a missing one", with("-no-dhcp", "-address", "10.0.0.5"), "-address:"},
		{"a bad listener is not a missing one", []string{"-host", "h", "-user", "u", "-pass", "p", "-mode", "netstack", "-http", "x"}, "-http:"},
		{"a bad listener does not mean TAP", []string{"-host", "h", "-user", "u", "-pass", "p", "-socks5", "x"}, "-socks5:"},
		{"a bad proxy login is not a missing one", with("-http", ":8080", "-proxy-user", "a:b", "-proxy-pass", "x"), "-proxy-user:"},
		{"a bad port contradicts nothing", with("-host", "h:1", "-port", "x"), "-port:"},
		{"a bad delay is below nothing", with("-reconnect-max-delay", "1s", "-reconnect-delay", "x"), "-reconnect-delay:"},
		{"a bad switch decides nothing", []string{"-host", "h", "-user", "u", "-http", "127.0.0.1:1", "-anonymous=x"}, "-anonymous:"},
		{"a bad -no-dhcp decides nothing", with("-no-dhcp=x", "-address", "10.0.0.5/24", "-gateway", "10.0.0.1"), "-no-dhcp:"},
	} {
		_, err := load(t, setup{}, tt.args...)
		if got := message(err); !strings.HasPrefix(got, tt.want) || strings.Contains(got, "\n") {
			t.Errorf("%s: got %s, want one line about %s", tt.name, got, tt.want)
		}
	}
}

func TestAllProblemsAtOnceWithTheirOrigin(t *testing.T) {
	s := setup{
		env:  map[string]string{"SOFTETHER_PORT": "tcp://10.0.0.1:443", "SOFTETHER_MAC": "x"},
		file: "user ann\nhots vpn\ndns 127.0.0.53\n",
	}
	_, err := load(t, s, "-host", "https://vpn/", "-mac", "01:00:5e:00:00:01", "-pass", "p", "-http", ":80")
	got := []string{}
	for _, line := range strings.Split(message(err), "\n") {
		before, after, _ := strings.Cut(line, " (from ")
		got = append(got, before[:strings.Index(before, " ")]+" "+after[strings.LastIndexByte(after, '/')+1:])
	}
	want := []string{"-config: ", "-host: ", "-port: SOFTETHER_PORT)", "-mac: ", "-dns: vpn.conf:3)", "-http: "}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("flags and origins -got +want:\n%s\nin:\n%v", diff, err)
	}
}

func TestValidateOfAConfigMadeByHand(t *testing.T) {
	if got, want := (Config{}).Validate(), "-host: required"; got == nil || !strings.HasPrefix(got.Error(), want) {
		t.Errorf("got %v, want %s …", got, want)
	}
	if err := mustLoad(t, setup{}, whole...).Validate(); err != nil {
		t.Errorf("a loaded Config: %v", err)
	}
}
