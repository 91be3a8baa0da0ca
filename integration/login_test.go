//go:build linux

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Exit codes are part of the interface; README.md of the project lists them.
const (
	exitStopped   = 0
	exitLocal     = 1
	exitUsage     = 2
	exitRefused   = 3
	exitUntrusted = 4
	exitForced    = 130
)

// Proves that each kind of account gets in, and that what the tunnel then carries
// is the real thing: names and literal addresses through both proxies.
func TestEveryAuthenticationGetsIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, row := range []struct {
		name  string
		flags flags
	}{
		{"hashed password", nil},
		{"plain password", flags{"plain-password": "true"}},
		{"anonymous", flags{"anonymous": "true", "user": guestName, "pass": absent}},
		{"password from a file", flags{"pass": absent, "pass-file": passwordFile(t)}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			c := w.StartClient(usualFlags.with(row.flags))
			c.WaitUp()
			for _, proxy := range []string{"socks5h://" + socksProxy, "http://" + httpProxy} {
				w.checkPage(t, proxy, "http://"+siteName+"/")
			}
			c.Signal(os.Interrupt)
			if got := c.ExitCode(10 * time.Second); got != exitStopped {
				t.Errorf("exit code: got %d, want %d", got, exitStopped)
			}
		})
	}
}

func passwordFile(t *testing.T) string {
	t.Helper()
	// Not in t.TempDir, which an unprivileged user cannot enter.
	path := filepath.Join(run.dir, "password")
	if err := os.WriteFile(path, []byte(userPassword+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Proves that what no retry can mend ends the program with a code of its own and
// one line that a person understands, and no secret in it.
func TestWhatCannotWorkEndsTheProgram(t *testing.T) {
	t.Parallel()
	w := newBareWorld(t)
	taken := w.cli.Listen("127.0.0.1:0")
	const wrongPin = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, row := range []struct {
		name     string
		flags    flags
		wantCode int
		wantText []string
	}{
		{"wrong password", flags{"pass": "wrong-pass"}, exitRefused, []string{"password"}},
		{"wrong plain password", flags{"pass": "wrong-pass", "plain-password": "true"}, exitRefused, []string{"password"}},
		{"anonymous where a password is wanted", flags{"anonymous": "true", "pass": absent}, exitRefused, []string{"password"}},
		{"unknown user", flags{"user": "nobody-here"}, exitRefused, []string{"user"}},
		{"unknown hub", flags{"hub": "NOHUB"}, exitRefused, []string{"hub"}},
		{"untrusted certificate", flags{"insecure": absent}, exitUntrusted, []string{"-pin", "sha256:" + w.srv.Pin()}},
		{"wrong pin", flags{"insecure": absent, "pin": wrongPin}, exitUntrusted, []string{"pin"}},
		{"no proxy and no privilege", flags{"socks5": absent, "http": absent}, exitLocal, []string{"run as root", "-socks5"}},
		{"no host", flags{"host": absent}, exitUsage, []string{"host"}},
		{"open proxy by accident", flags{"socks5": "0.0.0.0:1080"}, exitUsage, []string{"-proxy-open"}},
		{"address in use", flags{"http": taken.Addr().String()}, exitLocal, []string{taken.Addr().String(), "in use"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).StartClient(usualFlags.with(row.flags))
			if got := c.ExitCode(15 * time.Second); got != row.wantCode {
				t.Errorf("exit code: got %d, want %d", got, row.wantCode)
			}
			checkLastWords(t, c.Log(), row.wantText)
		})
	}
}

// checkLastWords wants the program's own last line to say all of want, in any
// case of letters, and no password anywhere.
func checkLastWords(t *testing.T, log string, want []string) {
	t.Helper()
	at := strings.LastIndex("\n"+log, "\nsoftether-go: ")
	if at < 0 {
		t.Fatalf("no line that begins with the program's name in:\n%s", log)
	}
	last := log[at:]
	for _, text := range want {
		if !strings.Contains(strings.ToLower(last), strings.ToLower(text)) {
			t.Errorf("last words: got %q, want %q in it", last, text)
		}
	}
	for _, secret := range []string{userPassword, "wrong-pass"} {
		if strings.Contains(log, secret) {
			t.Errorf("the output shows the password %q:\n%s", secret, log)
		}
	}
}

// Proves the three ways to trust a server, each by a page that came through.
func TestTrustedServersGetIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := makeCA(t)
	cert, key := ca.issue(t, serverHost)
	w.srv.SetCertificate(cert, key)
	for _, row := range []struct {
		name  string
		flags flags
	}{
		{"pinned certificate", flags{"pin": "sha256:" + w.srv.Pin()}},
		{"one of two pins", flags{"pin": "sha256:" + strings.Repeat("00", 32) + ",sha256:" + w.srv.Pin()}},
		{"our own authority and the server's name", flags{"host": serverHost, "ca": ca.file}},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).StartClient(usualFlags.with(flags{"insecure": absent}).with(row.flags))
			c.WaitUp()
			c.Signal(os.Interrupt)
			c.ExitCode(10 * time.Second)
		})
	}
	for _, row := range []struct {
		name  string
		flags flags
	}{
		{"our own authority, but another name", flags{"host": serverAddress, "ca": ca.file}},
		{"somebody else's authority", flags{"host": serverHost, "ca": makeCA(t).file}},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).StartClient(usualFlags.with(flags{"insecure": absent}).with(row.flags))
			if got := c.ExitCode(15 * time.Second); got != exitUntrusted {
				t.Errorf("exit code: got %d, want %d", got, exitUntrusted)
			}
		})
	}
}
