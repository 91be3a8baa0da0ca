package config

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// stored64 and storedHex are the stored hash of user Bob with the password secret.
const (
	stored64  = "AFNL2tupeMRQM0to84WItMnMun8="
	storedHex = "00534bdadba978c450334b68f38588b4c9ccba7f"
)

func TestWhereThePasswordsHashComesFrom(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "softether-pass-hash"), []byte(stored64+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := write(t, "hash", stored64+"\n")
	credentials := map[string]string{"CREDENTIALS_DIRECTORY": dir}
	for _, tt := range []struct {
		name     string
		s        setup
		args     []string
		password string // instead of the hash
	}{
		{"flag", setup{}, []string{"-pass-hash", stored64}, ""},
		{"flag, in hexadecimal", setup{}, []string{"-pass-hash", strings.ToUpper(storedHex)}, ""},
		{"file", setup{}, []string{"-pass-hash-file", file}, ""},
		{"variable", setup{env: map[string]string{"SOFTETHER_PASS_HASH": storedHex}}, nil, ""},
		{"config file", setup{file: "pass-hash " + stored64}, nil, ""},
		{"credential", setup{env: credentials}, nil, ""},
		{"flag over a password's variable", setup{env: map[string]string{"SOFTETHER_PASS": "pw"}}, []string{"-pass-hash", stored64}, ""},
		{"flag over a password's file in the config file", setup{file: "pass-file /nowhere"}, []string{"-pass-hash-file", file}, ""},
		{"password over the hash's variable", setup{env: map[string]string{"SOFTETHER_PASS_HASH": storedHex}}, []string{"-pass", "pw"}, "pw"},
		{"plain password beside a credential", setup{env: credentials}, []string{"-pass", "pw", "-plain-password"}, "pw"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.s.ask = func(string) (string, error) { t.Error("asked"); return "", nil }
			c := mustLoad(t, tt.s, append(tt.args, noPass...)...)
			want := storedHex
			if tt.password != "" {
				want = ""
			}
			if got := c.Auth.Hash.Reveal(); got != want || c.Auth.Password.Reveal() != tt.password || c.Auth.Password.IsSet() != (tt.password != "") {
				t.Errorf("got hash %q and password %q, want %q and %q", got, c.Auth.Password.Reveal(), want, tt.password)
			}
			if strings.Contains(c.Lines(), want) && want != "" || strings.Contains(c.Lines(), stored64) {
				t.Errorf("the hash is printed:\n%s", c.Lines())
			}
		})
	}
}

func TestWaysOfLoggingInThatDoNotFit(t *testing.T) {
	cert := []string{"-cert", "c.pem", "-key", "k.pem"}
	add := func(args ...string) []string { return append(args, noPass...) }
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"password and hash", add("-pass", "pw", "-pass-hash", stored64), "-pass-hash: -pass is given too: drop one of the two"},
		{"their files", add("-pass-file", "x", "-pass-hash-file", "y"), "-pass-hash-file: -pass-file is given too: drop one of the two"},
		{"what is no hash", add("-pass-hash", marker), "-pass-hash: is no password's hash: give what softether-go hash prints"},
		{"a hash too short", add("-pass-hash", storedHex[2:]), "-pass-hash: is no password's hash: give what softether-go hash prints"},
		{"a file without a hash", add("-pass-hash-file", write(t, "h", marker)), "-pass-hash-file: is no password's hash: give what softether-go hash prints"},
		{"a hash for a plain password", add("-pass-hash", stored64, "-plain-password"), "-plain-password: sends the password itself, which -pass-hash does not tell: give -pass-file, or drop it"},
		{"a hash and anonymous", add("-pass-hash", stored64, "-anonymous"), "-anonymous: sends no password, but there is one: drop -pass, -pass-file or their variables"},
		{"a certificate without its key", add("-cert", "c.pem"), "-key: missing: -cert needs its private key"},
		{"a key without its certificate", add("-key", "k.pem"), "-cert: missing: -key needs its certificate"},
		{"two certificates", add(append(cert, "-p12", "x.p12")...), "-p12: holds a certificate and its key, but -cert or -key names another: drop one"},
		{"a certificate and a password", add(append(cert, "-pass", "pw")...), "-pass: is not sent by who logs in by a certificate: drop one of the two (a key's passphrase is -key-password-file)"},
		{"a certificate and anonymous", add(append(cert, "-anonymous")...), "-anonymous: proves nothing, but -cert is there to: drop one"},
		{"a token without its label", add("-pkcs11-module", "x.so"), "-pkcs11-token: missing: -pkcs11-module needs the token's label (pkcs11-tool --list-token-slots)"},
		{"a token without its library", add("-pkcs11-token", "x"), "-pkcs11-module: missing: -pkcs11-token needs the library of its maker, such as /usr/lib/softhsm/libsofthsm2.so"},
		{"a token and a file", add(append(cert, "-pkcs11-module", "x.so", "-pkcs11-token", "x")...), "-pkcs11-module: says that the key is on a token, but -key or -p12 names another: drop one"},
		{"a key on no token", with("-pkcs11-label", "x"), "-pkcs11-label: is for a key on a token: add -pkcs11-module and -pkcs11-token"},
		{"a certificate and a plain password", add("-p12", "x.p12", "-plain-password"), "-plain-password: sends a password, but -p12 logs in by a certificate: drop one"},
		{"a passphrase for nothing", with("-key-password", "x"), "-key-password: is for a private key, and there is none: add -key and -cert, or -p12"},
		{"two passphrases", add("-p12", "x", "-key-password", "x", "-key-password-file", "y"), "-key-password-file: -key-password is given too: drop one of the two"},
		{"known servers for nothing", with("-known-servers", "x"), "-known-servers: is for -trust-on-first-use: add that, or drop this"},
		{"first use and any", with("-trust-on-first-use", "-insecure"), "-insecure: accepts any server, but -trust-on-first-use only the one that was there at first: drop one"},
		{"first use and a pin", with("-trust-on-first-use", "-ca", "x"), "-trust-on-first-use: is for servers that nothing else vouches for, but -pin or -ca does: drop one"},
	} {
		_, err := load(t, setup{}, tt.args...)
		if got := message(err); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestACertificateAsksForNoPassword(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"softether-pass", "softether-pass-hash", "softether-key-password"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(stored64), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := setup{env: map[string]string{"CREDENTIALS_DIRECTORY": dir}, ask: func(string) (string, error) { t.Error("asked"); return "", nil }}
	c := mustLoad(t, s, append([]string{"-p12", "x.p12"}, noPass...)...)
	if a := c.Auth; a.Method != ByCertificate || a.PKCS12File != "x.p12" || a.KeyPassword.Reveal() != stored64 || a.Password.IsSet() || a.Hash.IsSet() {
		t.Errorf("got %+v", a)
	}
}

func TestAKeyThatEveryoneCanReadIsNoted(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("permissions are elsewhere on Windows")
	}
	path := write(t, "key", "x")
	for mode, want := range map[os.FileMode]int{0o600: 0, 0o640: 0, 0o644: 1} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"-cert", "c", "-key", path}, {"-p12", path}} {
			notes := mustLoad(t, setup{}, append(args, noPass...)...).Notes
			if len(notes) != want || want == 1 && !strings.Contains(notes[0], path+" holds a private key") {
				t.Errorf("%v %v: notes %q, want %d", args, mode, notes, want)
			}
		}
	}
}

func TestKnownServersHaveAPlace(t *testing.T) {
	home := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "AppData"} {
		t.Setenv(name, home)
	}
	if got := mustLoad(t, setup{}, with("-trust-on-first-use")...).Trust.KnownServers; !strings.HasPrefix(got, home) || filepath.Base(got) != "known_servers" {
		t.Errorf("got %s, want known_servers below %s", got, home)
	}
	if got := mustLoad(t, setup{}, with("-trust-on-first-use", "-known-servers", "/etc/k")...).Trust.KnownServers; got != "/etc/k" {
		t.Errorf("got %s, want /etc/k", got)
	}
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "AppData"} {
		t.Setenv(name, "")
	}
	_, err := load(t, setup{}, with("-trust-on-first-use")...)
	if want := "-trust-on-first-use: this user has no directory of settings: give -known-servers FILE"; message(err) != want {
		t.Errorf("without a home: got %s, want %s", message(err), want)
	}
}
