package proxy

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
)

func TestListenRefusesStrangers(t *testing.T) {
	tests := []struct {
		name, addr string
		auth       bool
		exposure   Exposure
		want       error
	}{
		{name: "loopback", addr: "127.0.0.1:0"},
		{name: "elsewhere in loopback", addr: "127.0.0.2:0"},
		{name: "localhost", addr: "localhost:0"},
		{name: "loopback in IPv6 form", addr: "[::ffff:127.0.0.1]:0"},
		{name: "all IPv4 addresses", addr: "0.0.0.0:0", want: ErrOpen},
		{name: "all IPv6 addresses", addr: "[::]:0", want: ErrOpen},
		{name: "no address", addr: ":0", want: ErrOpen},
		{name: "an address", addr: "192.0.2.1:0", want: ErrOpen},
		{name: "all addresses with a password", addr: "0.0.0.0:0", auth: true},
		{name: "all addresses allowed", addr: "0.0.0.0:0", exposure: AllowOpen},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var auth Auth
			if tt.auth {
				auth = newAuth(t)
			}
			ln, err := Listen(t.Context(), tt.addr, auth, tt.exposure)
			if err == nil {
				ln.Close()
			}
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), "-proxy-open") {
				t.Errorf("got %q, want it to name -proxy-open", err)
			}
		})
	}
}

func TestListenSaysWhatToDo(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	tests := []struct {
		name, addr, want string
	}{
		{"port in use", held.Addr().String(), "listen on " + held.Addr().String() + ": the port is in use: "},
		{"no such address", "192.0.2.1:1080", "listen on 192.0.2.1:1080: this machine has no such address: "},
		{"no address", "1080", `listen on "1080": give an address and a port, such as 127.0.0.1:1080`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := Listen(t.Context(), tt.addr, nil, AllowOpen)
			if err == nil {
				ln.Close()
				t.Fatal("got a listener")
			}
			if !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line beginning %q", err, tt.want)
			}
		})
	}
}

func TestNewAuth(t *testing.T) {
	long := strings.Repeat("x", 256)
	tests := []struct {
		name, user, password string
		ok                   bool
	}{
		{"usual", "alice", "secret", true},
		{"colon in the password", "alice", "a:b", true},
		{"longest", long[:255], long[:255], true},
		{"no user", "", "secret", false},
		{"no password", "alice", "", false},
		{"colon in the user", "al:ice", "secret", false},
		{"user too long", long, "secret", false},
		{"password too long", "alice", long, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := NewAuth(tt.user, tt.password)
			if (err == nil) != tt.ok {
				t.Fatalf("got %v, want success %v", err, tt.ok)
			}
			if err != nil && tt.password != "" && strings.Contains(err.Error(), tt.password) {
				t.Errorf("the error has the password: %v", err)
			}
			if tt.ok && a.Login(t.Context(), []byte(tt.user), []byte(tt.password)) == nil {
				t.Error("the right password is not accepted")
			}
		})
	}
}

func TestAuthPrintsNothing(t *testing.T) {
	a := newAuth(t)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, a); got != "[redacted]" {
			t.Errorf("%s: got %q, want %q", format, got, "[redacted]")
		}
	}
}

func TestAuthority(t *testing.T) {
	tests := []struct {
		name, in    string
		defaultPort int
		want        string // empty means an error
	}{
		{"name and port", "a.corp:81", 0, "a.corp:81"},
		{"name alone", "a.corp", 80, "a.corp:80"},
		{"empty port", "a.corp:", 80, "a.corp:80"},
		{"IPv4", "192.0.2.1", 80, "192.0.2.1:80"},
		{"IPv6", "[2001:db8::1]", 80, "[2001:db8::1]:80"},
		{"IPv6 and port", "[2001:db8::1]:81", 80, "[2001:db8::1]:81"},
		{"IPv4 in IPv6 form", "[::ffff:192.0.2.1]:81", 0, "192.0.2.1:81"},
		{"name beyond ASCII", "drücker.corp:80", 0, "drücker.corp:80"},
		{"name in brackets", "[a.corp]:80", 0, "a.corp:80"},
		{"empty", "", 80, ""},
		{"port alone", ":80", 0, ""},
		{"no port where one is needed", "a.corp", 0, ""},
		{"port with a sign", "a.corp:+80", 0, ""},
		{"port by name", "a.corp:http", 0, ""},
		{"port too large", "a.corp:65536", 0, ""},
		{"port 0", "a.corp:0", 0, ""},
		{"zone", "[fe80::1%eth0]:80", 0, ""},
		{"user", "u:p@a.corp:80", 0, ""},
		{"space", "a b:80", 0, ""},
		{"control", "a\x7fb:80", 0, ""},
		{"slash", "a/b:80", 0, ""},
		{"name too long", strings.Repeat("a", 256) + ":80", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := authority(tt.in, tt.defaultPort)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q and %v, want %q", got, err, tt.want)
			}
		})
	}
}

// A reason without words would be printed as nothing.
func TestReasonsAreComplete(t *testing.T) {
	seen := make(map[string]bool)
	for r := range numReasons {
		e := reasons[r]
		if r.String() == "" || seen[r.String()] || e.text == "" || e.reply == 0 || e.status < 400 {
			t.Errorf("reason %d: got %+v, want a name of its own, a text, a reply and a status", r, e)
		}
		seen[r.String()] = true
	}
}
