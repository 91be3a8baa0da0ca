package unixsock

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func listen(t *testing.T, path string, mode fs.FileMode) net.Listener {
	t.Helper()
	ln, err := Listen(path, mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestListenFileAppearsAndGoes(t *testing.T) {
	for _, mode := range []fs.FileMode{Private, 0o660} {
		path := filepath.Join(t.TempDir(), "sock")
		ln := listen(t, path, mode)
		info, err := os.Stat(path)
		if err != nil || info.Mode() != fs.ModeSocket|mode {
			t.Errorf("the file: got %v, %v, want a socket with %v", info.Mode(), err, mode)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		ln.Close()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Close: got %v, want no file", err)
		}
	}
}

func TestListenInPlaceOfWhatAKilledProgramLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	dead := listen(t, path, Private)
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	if !isSocket(path) {
		t.Fatal("nothing was left, so nothing is tested")
	}
	listen(t, path, Private)
	if c, err := net.Dial("unix", path); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	first := listen(t, taken, Private)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, want string
		cause      error
	}{
		{taken, "another program listens there", syscall.EADDRINUSE},
		{file, "no socket", syscall.EADDRINUSE},
		{filepath.Join(dir, "none", "sock"), "directory does not exist", syscall.ENOENT},
		{filepath.Join(dir, strings.Repeat("x", 104)), "at most 103 bytes", nil},
	} {
		_, err := Listen(tt.path, Private)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") || tt.cause != nil && !errors.Is(err, tt.cause) {
			t.Errorf("%s: got %v, want %q", tt.path, err, tt.want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
	c, err := net.Dial("unix", taken)
	if err != nil {
		t.Fatalf("the first program is cut off: %v", err)
	}
	c.Close()
	first.Close()
}

func TestListenAtANameWithoutAFile(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the abstract namespace is Linux's")
	}
	name := "@softether-go-" + filepath.Base(t.TempDir()) + t.Name()
	listen(t, name, Private)
	if _, err := Listen(name, Private); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second time: got %v, want EADDRINUSE", err)
	}
}
