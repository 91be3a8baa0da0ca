package config

import (
	"strings"
	"testing"
)

func TestForwardsAreReadAndWritten(t *testing.T) {
	for _, row := range []struct {
		in, text string // text is how we write it; empty if as in
		want     Forward
	}{
		{"8080:web.corp:80", "127.0.0.1:8080:web.corp:80", Forward{Network: "tcp", Listen: "127.0.0.1:8080", Target: "web.corp:80"}},
		{"tcp/localhost:8080:web:80", "127.0.0.1:8080:web:80", Forward{Network: "tcp", Listen: "127.0.0.1:8080", Target: "web:80"}},
		{"udp/0.0.0.0:53:10.0.0.1:53", "", Forward{Network: "udp", Listen: "0.0.0.0:53", Target: "10.0.0.1:53"}},
		{":8080:web:80", "[::]:8080:web:80", Forward{Network: "tcp", Listen: "[::]:8080", Target: "web:80"}},
		{"[::1]:80:[fd00::1]:80", "", Forward{Network: "tcp", Listen: "[::1]:80", Target: "[fd00::1]:80"}},
		{"80:[fd00::1]:80", "127.0.0.1:80:[fd00::1]:80", Forward{Network: "tcp", Listen: "127.0.0.1:80", Target: "[fd00::1]:80"}},
		{"proxyv2/udp/53:dns:53", "udp/proxyv2/127.0.0.1:53:dns:53", Forward{Network: "udp", ProxyHeader: true, Listen: "127.0.0.1:53", Target: "dns:53"}},
		{"/run/db.sock:db.corp:5432", "", Forward{Network: "tcp", Listen: "/run/db.sock", Target: "db.corp:5432"}},
		{"proxyv2/./s:db:1", "", Forward{Network: "tcp", ProxyHeader: true, Listen: "./s", Target: "db:1"}},
	} {
		got, err := parseLocalForward(row.in)
		if err != nil || got.Forward != row.want {
			t.Errorf("-L %s: got %+v, %v; want %+v", row.in, got.Forward, err, row.want)
			continue
		}
		if row.text == "" {
			row.text = row.in
		}
		if got.String() != row.text {
			t.Errorf("-L %s: written as %s, want %s", row.in, got, row.text)
		}
	}
	for _, row := range []struct {
		in, text string
		want     Forward
	}{
		{"8080:localhost:80", "", Forward{Network: "tcp", Listen: ":8080", Target: "localhost:80"}},
		{"udp/53:127.0.0.1:5353", "", Forward{Network: "udp", Listen: ":53", Target: "127.0.0.1:5353"}},
		{"proxyv2/80:[::1]:80", "", Forward{Network: "tcp", ProxyHeader: true, Listen: ":80", Target: "[::1]:80"}},
		{"5432:/run/db.sock", "", Forward{Network: "tcp", Listen: ":5432", Target: "/run/db.sock"}},
	} {
		got, err := parseRemoteForward(row.in)
		if err != nil || got.Forward != row.want || got.String() != row.in {
			t.Errorf("-R %s: got %+v (%s), %v; want %+v", row.in, got.Forward, got, err, row.want)
		}
	}
}

func TestBadForwardsSayHow(t *testing.T) {
	for _, row := range []struct{ flag, in, want string }{
		{"L", "8080", "from where to where"},
		{"L", "web:80", "from where to where"},
		{"L", "8080:web", "from where to where"},
		{"L", "8080:web:http", "not a port"},
		{"L", "8080:we b:80", "no host"},
		{"L", "8080:localhost:80", "this machine"},
		{"L", "8080:127.0.0.1:80", "this machine"},
		{"L", "8080:[::]:80", "this machine"},
		{"L", "8080:[10.0.0.1]:80", "from where to where"},
		{"L", "8080:[fe80::1%eth0]:80", "zone"},
		{"L", "web:8080:web:80", "no address and port"},
		{"L", "99999:web:80", "no address and port"},
		{"L", "224.0.0.1:80:web:80", "no address and port"},
		{"L", "udp//run/s:web:80", "no address and port"},
		{"R", "80", "port of ours"},
		{"R", "0:localhost:80", "port of ours"},
		{"R", "0.0.0.0:80:localhost:80", "port of ours"},
		{"R", "80:localhost", "host and port"},
		{"R", "80:a:localhost:80", "host and port"},
		{"R", "udp/80:/run/s", "host and port"},
		{"dns-listen", "dns:53", "no address and port"},
		{"dns-listen", "localhost:53x", `-dns-listen: "localhost:53x" is no address and port: give one like`},
		{"L", "localhost:8x:web:80", `"localhost:8x:web:80" begins with "localhost:8x", which is no address and port: give one like`},
	} {
		_, err := loadWords("-host", "h", "-user", "u", "-pass", "p", "-"+row.flag, row.in)
		if err == nil || !strings.Contains(err.Error(), "-"+row.flag+": ") || !strings.Contains(err.Error(), row.want) {
			t.Errorf("-%s %s: got %v, want %q", row.flag, row.in, err, row.want)
		}
	}
}

func loadWords(args ...string) (Config, error) {
	return Load(args, Source{LookupEnv: func(string) (string, bool) { return "", false }})
}

func TestForwardsMeanNetstackMode(t *testing.T) {
	for _, args := range [][]string{{"-L", "80:web:80,udp/53:dns:53"}, {"-R", "80:localhost:80"}, {"-dns-listen", "5353"}} {
		c, err := loadWords(append([]string{"-host", "h", "-user", "u", "-pass", "p"}, args...)...)
		if err != nil || c.Mode != ModeNetstack {
			t.Errorf("%v: mode %v, %v", args, c.Mode, err)
		}
	}
	for _, row := range []struct {
		want string
		args []string
	}{
		{"-L: is of netstack mode", []string{"-mode", "tap", "-L", "80:web:80"}},
		{"-tap: is of TAP mode, but -R", []string{"-tap", "vpn0", "-R", "80:localhost:80"}},
		{"-proxy-open: is for proxies, but none", []string{"-proxy-open", "-L", "80:web:80"}},
		{"-L: wants 127.0.0.1:80, which -listen has", []string{"-listen", "127.0.0.1:80", "-L", "80:web:80"}},
		{"-dns-listen: wants 127.0.0.1:53, which -L has", []string{"-L", "udp/0.0.0.0:53:dns:53", "-dns-listen", "53"}},
		{"-L: wants /s, which -L has", []string{"-L", "/s:a:1,/s:b:1"}},
		{"-L: 127.0.0.1:8500:10.0.0.5:8600 leads to our own", []string{"-no-dhcp", "-address", "10.0.0.5/24", "-L", "8500:10.0.0.5:8600", "-R", "8600:localhost:8500"}},
		{"-L: 127.0.0.1:85:[fd00::5]:86 leads to our own", []string{"-address6", "fd00::5/64", "-L", "85:[fd00::5]:86"}},
		{"want the same port in the VPN", []string{"-R", "80:localhost:80,80:localhost:81"}},
	} {
		_, err := loadWords(append([]string{"-host", "h", "-user", "u", "-pass", "p"}, row.args...)...)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%v: got %v, want %q", row.args, err, row.want)
		}
	}
	if _, err := loadWords("-host", "h", "-user", "u", "-pass", "p", "-L", "80:a:1,udp/80:a:1,127.0.0.2:80:a:1", "-R", "80:a:1,udp/80:a:1"); err != nil {
		t.Errorf("ports of different kinds: %v", err)
	}
}

func TestPortsThatOthersReachAreTold(t *testing.T) {
	c, err := loadWords("-host", "h", "-user", "u", "-pass", "p", "-L", "1:a:1,/s:a:1,0.0.0.0:2:b:2", "-dns-listen", "53,[::]:54")
	if err != nil || len(c.Notes) != 2 || !strings.Contains(c.Notes[0], "0.0.0.0:2") || !strings.Contains(c.Notes[1], "[::]:54") {
		t.Errorf("got %q, %v", c.Notes, err)
	}
}

// A config file made for the proxies is good for nc too, but who says it there is told.
func TestAToolTakesWhatConcernsIt(t *testing.T) {
	env := map[string]string{"SOFTETHER_LISTEN": "127.0.0.1:1080", "SOFTETHER_L": "80:web:80", "SOFTETHER_TAP": "vpn0"}
	src := Source{Tool: true, LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok }}
	c, err := Load([]string{"-host", "h", "-user", "u", "-pass", "p"}, src)
	if err != nil || c.Mode != ModeTool || c.serves() || c.TAP.Name != "" {
		t.Errorf("got %v, %+v, %v", c.Mode, c.Proxy, err)
	}
	if _, err := Load([]string{"-host", "h", "-user", "u", "-pass", "p", "-L", "80:web:80"}, src); err == nil || !strings.Contains(err.Error(), "-L: is not for") {
		t.Errorf("got %v", err)
	}
}

func FuzzForwards(f *testing.F) {
	for _, s := range []string{"8080:web.corp:80", "udp/0.0.0.0:53:10.0.0.1:53", "[::1]:80:[fd00::1]:80", "/run/s:db:1", "5432:/run/s", "proxyv2/80:[::1]:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := parseLocalForward(s); err == nil {
			if again, err := parseLocalForward(got.String()); err != nil || again != got {
				t.Errorf("-L %q: %v becomes %v, %v", s, got, again, err)
			}
		}
		if got, err := parseRemoteForward(s); err == nil {
			if again, err := parseRemoteForward(got.String()); err != nil || again != got {
				t.Errorf("-R %q: %v becomes %v, %v", s, got, again, err)
			}
		}
	})
}
