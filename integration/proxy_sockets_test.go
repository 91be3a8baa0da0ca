//go:build linux

package integration

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A Unix socket is a proxy for its owner alone, is left by no one but the killed, whom the
// next replaces, and is taken from nobody who lives.
func TestProxyUnixSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir, err := os.MkdirTemp(run.dir, "sockets")
	if err == nil {
		err = os.Chmod(dir, 0o777) // the client is nobody
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "proxy")
	f := usualFlags.with(flags{"listen": "unix:" + path})
	page := func(t *testing.T) {
		t.Helper()
		// As curl takes a SOCKS proxy at a Unix socket since 7.84.
		w.in(t).checkPage(t, "socks5h://localhost"+path, "http://"+siteName+"/")
	}

	first := w.StartClient(f)
	first.WaitUp()
	page(t)
	if info, err := os.Stat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket: got %v, %v, want it for its owner alone", info.Mode(), err)
	}
	t.Run("HTTP and SOCKS4a over it too", func(t *testing.T) {
		needTool(t, "ncat", "ncat")
		w := w.in(t)
		out := w.inside("ncat", "--no-shutdown", "-U", path, stdin("GET http://"+siteName+"/ HTTP/1.1\r\nHost: "+siteName+"\r\nConnection: close\r\n\r\n"))
		if !strings.HasSuffix(out, sitePage) {
			t.Errorf("HTTP: got %q", out)
		}
		page, err := w.Curl("--proxy", "socks4a://localhost"+path, "--max-time", "10", "http://"+siteName+"/")
		if err != nil || page != sitePage {
			t.Errorf("SOCKS4a: got %q, %v", page, err)
		}
	})
	t.Run("UDP is refused", func(t *testing.T) {
		w := w.in(t)
		out := w.inside("ncat", "-U", path, stdin("\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"))
		if out != "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00" {
			t.Errorf("got %q, want reply 7", out)
		}
	})
	t.Run("a second instance is told", func(t *testing.T) {
		second := w.in(t).StartClient(usualFlags.with(flags{"listen": "unix:" + path, "socks5": absent, "http": absent}))
		if code := second.ExitCode(promptly); code != 1 || !strings.Contains(second.Log(), "another program listens there") {
			t.Errorf("got exit code %d and\n%s", code, second.Log())
		}
		page(t)
	})
	first.Kill()
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the killed program left no socket, so there is nothing to replace: %v", err)
	}
	next := w.StartClient(f.with(flags{"socket-mode": "0660"}))
	next.WaitUp()
	page(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: got %v, %v, want 0660 as asked", info.Mode(), err)
	}
	next.Terminate()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket after the end: got %v, want none", err)
	}
}

// Sockets that systemd opened are served by their names, and by numbers.
func TestProxySocketActivation(t *testing.T) {
	t.Parallel()
	needTool(t, "systemd-socket-activate", "systemd")
	w := newWorld(t)
	path := filepath.Join(run.dir, w.cli.name, "activated")
	f := usualFlags.with(flags{"socks5": "systemd:socks", "http": "fd:4", "listen": "systemd:", "proxy-open": "true"})
	needTool(t, "setpriv", "util-linux")
	program, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	dir := w.clientFiles()
	argv := append([]string{"systemd-socket-activate", "--fdname=socks:web:local:extra",
		"-l", socksProxy, "-l", httpProxy, "-l", path, "-l", "127.0.0.1:1090", "-E", "PATH", "--",
		"sh", "-c", unprivileged, "sh", dir, program}, f.args()...)
	c := &client{process: start(t, "softether-go", w.cli.Command(argv...)), w: w}
	// The first connection starts the program.
	eventually(t, 10*time.Second, "systemd-socket-activate listens", func() error {
		_, err := w.Curl("--max-time", "1", "--proxy", "http://"+httpProxy, "http://"+lanGateway+"/")
		if err == nil || strings.Contains(err.Error(), "timed out") || strings.Contains(err.Error(), "503") || strings.Contains(err.Error(), "502") {
			return nil
		}
		return err
	})
	c.WaitUp()
	for _, proxy := range []string{"socks5h://" + socksProxy, "http://" + httpProxy, "socks5h://localhost" + path, "socks4a://127.0.0.1:1090"} {
		w.checkPage(t, proxy, "http://"+siteName+"/")
	}
	c.Terminate()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket is systemd's to remove: %v", err)
	}
}
