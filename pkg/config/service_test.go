package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWhereHealthIsTold(t *testing.T) {
	c := mustLoad(t, setup{}, with("-health", "unix:@softether-go,:9090", "-health", "unix:/run/vpn.sock", "-health-target", "files.corp", "-drain", "0s")...)
	if got := strings.Join(c.Service.Health, " "); got != "unix:@softether-go :9090 unix:/run/vpn.sock" {
		t.Errorf("got %q", got)
	}
	if c.Service.HealthTarget != "files.corp" || c.Service.Drain != 0 {
		t.Errorf("got %+v", c.Service)
	}
	if c := mustLoad(t, setup{}, with()...); c.Service.Drain != 2*time.Second || len(c.Service.Health) != 0 {
		t.Errorf("by default: got %+v", c.Service)
	}
}

func TestASecretIsReadAgainFromItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pw")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again := func(a Auth) Auth {
		t.Helper()
		b, err := a.ReadAgain()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write("first\n")
	a := mustLoad(t, setup{}, append([]string{"-pass-file", file}, noPass...)...).Auth
	write("second\n")
	if got := again(a).Password.Reveal(); got != "second" {
		t.Errorf("got %q", got)
	}
	write("")
	if b, err := a.ReadAgain(); err == nil || b.Password.Reveal() != "first" {
		t.Errorf("an empty file: got %q, %v, want the old one and an error", b.Password.Reveal(), err)
	}
	write("X7fZ0nq3WcZ2nQ0QxQ6v6r0Hj5I=\n")
	h := mustLoad(t, setup{}, append([]string{"-pass-hash-file", file}, noPass...)...).Auth
	write(strings.Repeat("ab", 20))
	if got := again(h).Hash.Reveal(); got != strings.Repeat("ab", 20) {
		t.Errorf("hash: got %q", got)
	}
	if p := mustLoad(t, setup{}, with()...).Auth; again(p).Password.Reveal() != p.Password.Reveal() {
		t.Error("a password from elsewhere has changed")
	}
}
