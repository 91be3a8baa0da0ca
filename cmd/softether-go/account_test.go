package main

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"softether-go/pkg/account"
	"softether-go/pkg/config"
)

const officialAccounts = "../../pkg/account/testdata/"

// What was imported, exported and imported again is the same, with every secret, and
// shows none on the way.
func TestAccountsGoBothWays(t *testing.T) {
	for _, name := range []string{"hashed", "plain", "anonymous", "certificate", "umlaut"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HOME", t.TempDir())
			dir := t.TempDir()
			run := func(args ...string) {
				t.Helper()
				code, out, errs := call(t, args...)
				if code != exitOK {
					t.Fatalf("%v: exit %d with %q", args, code, errs)
				}
				for _, secret := range []string{"p4ss", "pr0xy", "grüße", "PRIVATE"} {
					if strings.Contains(out+errs, secret) {
						t.Errorf("%v shows a secret: %q %q", args, out, errs)
					}
				}
			}
			first, second, file := filepath.Join(dir, "a.conf"), filepath.Join(dir, "b.conf"), filepath.Join(dir, "b.vpn")
			run("import", officialAccounts+name+".vpn", first)
			run("export", file, "-config", first)
			run("import", file, second)
			want, got := loginOf(t, "-config", first), loginOf(t, "-config", second)
			if got.host != want.host || got.user != want.user || got.method != want.method || got.secret != want.secret || got.proxy != want.proxy || want.secret == "" {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if direct := loginOf(t, "-account", officialAccounts+name+".vpn"); direct.secret != want.secret || direct.proxy != want.proxy || direct.method != want.method {
				t.Errorf("-account: got %+v, want %+v", direct, want)
			}
			made, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil || len(made) < 3 {
				t.Fatalf("files %v, %v", made, err)
			}
			for _, path := range made {
				if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v, want 0600", path, info.Mode(), err)
				}
			}
		})
	}
}

func TestMonitoringModeGoesBothWays(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	dir := t.TempDir()
	vpn, conf, back := filepath.Join(dir, "watch.vpn"), filepath.Join(dir, "watch.conf"), filepath.Join(dir, "back.vpn")
	a := account.Account{Name: "watch", Host: "vpn", Port: 443, Hub: "VPN", User: "u", Auth: account.AuthAnonymous, Monitor: true}
	if err := os.WriteFile(vpn, a.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"import", vpn, conf}, {"export", back, "-config", conf}} {
		if code, _, errs := call(t, args...); code != exitOK || strings.Contains(errs, "monitor") {
			t.Fatalf("%v: exit %d with %q", args, code, errs)
		}
	}
	if text, err := os.ReadFile(conf); err != nil || !strings.Contains(string(text), "\nmonitor true\n") {
		t.Errorf("the config file: %q, %v, want monitor true", text, err)
	}
	if got, err := config.ReadAccount(back); err != nil || !got.Monitor {
		t.Errorf("exported again: monitoring %t, %v", got.Monitor, err)
	}
}

type loginParts struct {
	host, user, proxy, secret string
	method                    config.Method
}

func loginOf(t *testing.T, args ...string) loginParts {
	t.Helper()
	cfg, err := config.Load(args, config.Source{LookupEnv: func(string) (string, bool) { return "", false }})
	if err != nil {
		t.Fatal(err)
	}
	p := loginParts{host: cfg.Server.Host, user: cfg.Auth.User, method: cfg.Auth.Method,
		proxy: cfg.Way.Proxy.String() + " " + cfg.Way.Proxy.Password.Reveal()}
	switch cfg.Auth.Method {
	case config.ByCertificate:
		id, err := identity(cfg.Auth)
		if err != nil {
			t.Fatal(err)
		}
		p.secret = string(id.Certificate.Raw)
	case config.Anonymous:
		p.secret = "none"
	default:
		p.secret = cfg.Auth.Password.Reveal() + cfg.Auth.Hash.Reveal()
	}
	return p
}

func TestImportAndExportReplaceNothing(t *testing.T) {
	dir := t.TempDir()
	for name, what := range map[string]string{"a.conf": "config", "b.pass": "secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(what, err)
		}
	}
	for _, out := range []string{"a.conf", "b.conf"} {
		code, _, errs := call(t, "import", officialAccounts+"plain.vpn", filepath.Join(dir, out))
		if code != exitFailure || !strings.Contains(errs, "is there already: remove it") {
			t.Errorf("%s: exit %d with %q", out, code, errs)
		}
	}
	code, _, errs := call(t, "export", filepath.Join(dir, "a.conf"), "-host", "h", "-user", "u", "-anonymous")
	if code != exitFailure || !strings.Contains(errs, "is there already") {
		t.Errorf("export: exit %d with %q", code, errs)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("half of an import is left behind: %v, %v", left, err)
	}
}

func TestMistakesWithKeysAndAccounts(t *testing.T) {
	const keys = "../../pkg/credential/testdata/"
	corrupt := filepath.Join(t.TempDir(), "x.vpn")
	if err := os.WriteFile(corrupt, []byte("declare root\n{\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := []string{"-host", "127.0.0.1", "-user", "u", "-socks5", "127.0.0.1:0"}
	with := func(args ...string) []string { return append(args, base...) }
	for _, row := range []struct {
		name string
		args []string
		want string
	}{
		{"an encrypted key and nobody to ask", with("-cert", keys+"cert.pem", "-key", keys+"pbes2-aes256-sha256.pem"), "-key-password-file FILE"},
		{"a wrong passphrase", with("-cert", keys+"cert.pem", "-key", keys+"traditional-des3.pem", "-key-password", "falsch"), "passphrase is wrong"},
		{"an EC key", with("-cert", keys+"ec-cert.pem", "-key", keys+"ec.pem"), "no RSA key"},
		{"another key", with("-cert", keys+"cert.pem", "-key", keys+"other.pem"), "does not belong to the certificate"},
		{"a certificate that is not there", with("-cert", "/nonexistent", "-key", keys+"other.pem"), "-cert: stat /nonexistent"},
		{"a PKCS#12 file that is none", with("-p12", keys+"cert.pem"), "openssl pkcs12 -export"},
		{"an encrypted PKCS#12 file", with("-p12", keys+"modern.p12"), "-key-password-file FILE"},
		{"an endless key", with("-cert", keys+"cert.pem", "-key", endless(t)), "no certificate or key"},
		{"a corrupt account", []string{"-account", corrupt}, "its end is missing"},
		{"a corrupt account to import", []string{"import", corrupt}, "its end is missing"},
		{"nothing to import", []string{"import"}, "softether-go import office.vpn"},
		{"nowhere to export to", []string{"export", "-host", "h"}, "softether-go export office.vpn"},
		{"a key that cannot be exported", append([]string{"export", "/nonexistent/x.vpn"}, with("-p12", keys+"ec.p12", "-key-password", "geheim")...), "no RSA key"},
	} {
		t.Run(row.name, func(t *testing.T) {
			code, _, errs := call(t, row.args...)
			_, last, _ := strings.Cut("\n"+errs, "\nsoftether-go: ") // warnings may stand before it
			if code != exitUsage || !strings.Contains(last, row.want) || strings.Count(last, "\n") != 1 {
				t.Errorf("exit %d with %q, want %d and one line with %q", code, errs, exitUsage, row.want)
			}
			if strings.Contains(errs, "falsch") || strings.Contains(errs, "geheim") {
				t.Error("the passphrase is in the error")
			}
		})
	}
}

func TestDatesOfCertificatesAreSpokenOfInTime(t *testing.T) {
	c := &x509.Certificate{NotBefore: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)}
	for now, want := range map[time.Time]string{
		c.NotBefore.Add(-time.Second): "not valid yet",
		c.NotBefore.Add(time.Hour):    "",
		c.NotAfter.Add(-soon):         "",
		c.NotAfter.Add(-soon / 2):     "expires soon",
		c.NotAfter.Add(time.Second):   "has expired",
	} {
		var log bytes.Buffer
		warnOfDates(c, now, slog.New(slog.NewTextHandler(&log, nil)))
		if got := log.String(); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%v: got %q, want %q", now, got, want)
		}
	}
}

// endless is a file longer than any key, with next to nothing on the disk.
func endless(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "endless")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<30); err != nil {
		t.Fatal(err)
	}
	return path
}
