//go:build unix

package main

import (
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// pass opens sockets as a service manager passes them, with these names.
func pass(t *testing.T, names ...string) (sockets []passed) {
	t.Helper()
	for _, name := range names {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		fd, err := syscall.Dup(int(f.Fd())) // which only the number owns
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		ln.Close()
		sockets = append(sockets, passed{name: name, fd: fd})
	}
	return sockets
}

func TestInheritedSocketsGoByTheirNames(t *testing.T) {
	sockets := pass(t, "socks", "web", "web", "rest", "rest")
	fd := sockets[3].fd
	in := newInherited(sockets, []string{"systemd:", "systemd:web", "fd:" + strconv.Itoa(fd)})
	count := func(name string, want int) {
		t.Helper()
		lns, err := in.byName(name)
		if err != nil || len(lns) != want {
			t.Errorf("systemd:%s: got %d listeners, %v, want %d", name, len(lns), err, want)
		}
		closeAll(lns)
	}
	count("", 2) // though it comes first
	count("web", 2)
	if ln, err := in.byNumber(fd); err != nil {
		t.Error(err)
	} else {
		ln.Close()
	}
	if unused := in.unused(); len(unused) > 0 {
		t.Errorf("unused: got %v, want none", unused)
	}
	for name, want := range map[string]string{"web": `no socket called "web" that is not used yet; there are: rest, socks, web`, "other": `"other"`} {
		if _, err := in.byName(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("systemd:%s: got %v, want %q", name, err, want)
		}
	}
	if _, err := new(inherited).byName(""); err == nil || !strings.Contains(err.Error(), ".socket unit") {
		t.Errorf("without any: got %v", err)
	}
	null, err := syscall.Open(os.DevNull, syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.byNumber(null); err == nil || !strings.Contains(err.Error(), "no socket that listens") {
		t.Errorf("a file: got %v", err)
	}
}

func TestPassedSocketsAreForOneProcess(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		pid, fds, names, want string
	}{
		{own, "2", "a:b", "3 a, 4 b"},
		{own, "2", "a", "3 a, 4 unknown"},
		{own, "1", "", "3 unknown"},
		{own, "0", "", ""},
		{"1", "2", "a:b", ""},
		{"", "2", "a:b", ""},
		{own, "x", "", ""},
		{own, "", "", ""},
	} {
		t.Setenv("LISTEN_PID", tt.pid)
		t.Setenv("LISTEN_FDS", tt.fds)
		t.Setenv("LISTEN_FDNAMES", tt.names)
		var got []string
		for _, p := range passedSockets() {
			got = append(got, strconv.Itoa(p.fd)+" "+p.name)
		}
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%+v: got %s", tt, s)
		}
		if v, there := os.LookupEnv("LISTEN_FDS"); there {
			t.Errorf("LISTEN_FDS=%s is left for programs that we start", v)
		}
	}
}
