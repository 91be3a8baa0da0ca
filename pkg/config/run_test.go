package config

import (
	"strings"
	"testing"
)

func loadRun(args ...string) (Config, error) {
	return Load(args, Source{LookupEnv: func(string) (string, bool) { return "", false }, Run: true})
}

func TestRunIsAModeOfItsOwn(t *testing.T) {
	c, err := loadRun(loginWith("-publish", "8080:80,udp/[::1]:5353:53", "-publish", "0.0.0.0:0:22")...)
	if err != nil {
		t.Fatal(err)
	}
	if c.Mode != ModeRun || c.Log.Level.String() != "WARN" {
		t.Errorf("got mode %v and level %v, want run and WARN", c.Mode, c.Log.Level)
	}
	var got []string
	for _, p := range c.Run.Publish {
		got = append(got, p.String())
	}
	if want := "127.0.0.1:8080:80 udp/[::1]:5353:53 0.0.0.0:0:22"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if c, err := loadRun(loginWith("-log-level", "info")...); err != nil || c.Log.Level.String() != "INFO" {
		t.Errorf("a level that is asked for: got %v, %v", c.Log.Level, err)
	}
}

func TestRunTakesNoSettingsOfOtherModesNorTheyOfIt(t *testing.T) {
	for _, args := range [][]string{
		{"-socks5", "127.0.0.1:1080"}, {"-tap", "vpn0"}, {"-accept-dns"}, {"-mode", "tap"}, {"-proxy-open"},
	} {
		if _, err := loadRun(loginWith(args...)...); err == nil || !strings.Contains(err.Error(), args[0]+": ") ||
			!strings.Contains(err.Error(), "softether-go run") {
			t.Errorf("%v: got %v, want it refused by name", args, err)
		}
	}
	for _, args := range [][]string{
		{"-publish", "8080:80"}, {"-capture", "-socks5", "127.0.0.1:0"}, {"-no-ipv6", "-tap", "vpn0"},
	} {
		if _, err := Load(loginWith(args...), Source{}); err == nil || !strings.Contains(err.Error(), args[0]+": ") {
			t.Errorf("%v: got %v, want it refused by name", args, err)
		}
	}
}

func TestAttachNeedsNoServerAndNoLogin(t *testing.T) {
	c, err := loadRun("-attach", "office", "-publish", "8080:80")
	if err != nil || c.Run.Attach != "office" {
		t.Errorf("got %+v, %v", c.Run, err)
	}
	for _, args := range [][]string{
		loginWith("-proxy-env", "-publish", "8080:80"), loginWith("-proxy-env", "-share", "x"),
		{"-attach", "office", "-host", "h"}, {"-attach", "office", "-user", "u"}, {"-attach", "a/b"}, {"-attach", "office", "-share", "x"},
	} {
		if _, err := loadRun(args...); err == nil {
			t.Errorf("%v: want an error", args)
		}
	}
	if _, err := Load([]string{"-attach", "office"}, Source{}); err == nil || !strings.Contains(err.Error(), "-attach: ") {
		t.Errorf("in another mode: got %v", err)
	}
	if _, err := loadRun("-share", "office"); err == nil || !strings.Contains(err.Error(), "-host: ") {
		t.Errorf("-share without a server: got %v", err)
	}
}

func TestSecretVariablesAreThoseOfSecrets(t *testing.T) {
	names := strings.Join(SecretVariables(), " ") + " "
	for _, name := range []string{"SOFTETHER_PASS ", "SOFTETHER_PROXY_PASS "} {
		if !strings.Contains(names, name) {
			t.Errorf("got %s, want %s among them", names, name)
		}
	}
	if strings.Contains(names, "SOFTETHER_USER ") || strings.Contains(names, "_FILE ") {
		t.Errorf("got %s, among them what is no secret", names)
	}
}

func TestPublishSaysWhatIsWrong(t *testing.T) {
	for _, s := range []string{"", "80", "80:0", "a:80", "80:a", "host:80:80", "1.2.3.4:80", "224.0.0.1:80:80", "sctp/80:80",
		"::1:80:80", "[::1]:80", "-1:80", "70000:80", "80:70000", "/80:80"} {
		if p, err := parsePublish(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, p)
		}
	}
	if _, err := loadRun(loginWith("-publish", "8080:80,0.0.0.0:8080:81")...); err == nil || !strings.Contains(err.Error(), "the same port") {
		t.Errorf("one port twice: got %v", err)
	}
	if _, err := loadRun(loginWith("-publish", "8080:80,udp/8080:80")...); err != nil {
		t.Errorf("one number for TCP and UDP: got %v", err)
	}
}

// What is printed of a port is what gives it again.
func FuzzPublish(f *testing.F) {
	for _, s := range []string{"8080:80", "udp/[::1]:5353:53", "0.0.0.0:0:22", "tcp/1:1", "[fe80::1%eth0]:1:2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePublish(s)
		if err != nil {
			return
		}
		if q, err := parsePublish(p.String()); err != nil || q != p {
			t.Errorf("%q is %v, and that is %v, %v", s, p, q, err)
		}
	})
}
