package resolv

// The tests of mounts need root for a mount namespace of their own, those of
// systemd-resolved need dbus-daemon. Without them they are skipped, unless CI=true
// says that they must run.

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func need(t *testing.T, ok bool, remedy string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(remedy)
	}
	t.Skip(remedy)
}

const inChild = "SOFTETHER_RESOLV_TEST_CHILD"

// inMounts runs the body in a process with mounts of its own.
func inMounts(t *testing.T, body func(e etc)) {
	t.Helper()
	need(t, os.Geteuid() == 0, "needs root for a mount namespace: run as root, as with sudo -E go test")
	if os.Getenv(inChild) != "" {
		body(newEtc(t))
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), inChild+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
}

// mount puts a file over resolv.conf, as containers do.
func (e etc) mount(flags uintptr) {
	e.t.Helper()
	e.write("")
	file := filepath.Join(e.root, "mounted")
	e.must(os.WriteFile(file, []byte("nameserver 192.0.2.1\noptions ndots:0\n"), 0o644))
	e.must(unix.Mount(file, e.path("resolv.conf"), "", unix.MS_BIND, ""))
	if flags != 0 {
		e.must(unix.Mount("", e.path("resolv.conf"), "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""))
	}
	e.t.Cleanup(func() { unix.Unmount(e.path("resolv.conf"), unix.MNT_DETACH) })
}

// untimed is facts without the time of writing: in a file that only its text
// distinguishes, that is not put back.
func (e etc) untimed() string {
	var lines []string
	for line := range strings.Lines(e.facts()) {
		head, tail, _ := strings.Cut(line, " +0000 UTC")
		lines = append(lines, strings.Join(strings.Fields(head)[:5], " ")+tail)
	}
	return strings.Join(lines, "")
}

func TestMountedFile(t *testing.T) {
	inMounts(t, func(e etc) {
		e.mount(0)
		before := e.untimed()
		m := e.manager("vpn0")
		e.set(m, "10.77.0.1")
		if !strings.Contains(e.read(), "options ndots:0") {
			t.Errorf("the options are lost:\n%s", e.read())
		}
		e.set(m, "10.77.0.2")
		e.restore(m)
		if d := cmp.Diff(before, e.untimed()); d != "" {
			t.Errorf("not as before (-before +after):\n%s", d)
		}
		e.set(e.manager("vpn0"), "10.77.0.1")
		e.must(Bury(t.Context(), e.config("vpn0")))
		if d := cmp.Diff(before, e.untimed()); d != "" {
			t.Errorf("after a kill not as before (-before +after):\n%s", d)
		}
	})
}

func TestMountedFileWithTwoInstances(t *testing.T) {
	inMounts(t, func(e etc) {
		e.mount(0)
		before := e.untimed()
		first, second := e.manager("vpn0"), e.manager("vpn1")
		e.set(first, "10.77.0.1")
		e.set(second, "10.88.0.1")
		e.set(first, "10.77.0.2") // a renewal with another server
		e.restore(first)
		if !strings.Contains(e.read(), "10.88.0.1") {
			t.Errorf("the second is not asked any more:\n%s", e.read())
		}
		e.restore(second)
		if d := cmp.Diff(before, e.untimed()); d != "" {
			t.Errorf("not as before (-before +after):\n%s", d)
		}
	})
}

func TestMountedFileInReadOnlyEtc(t *testing.T) {
	inMounts(t, func(e etc) {
		e.mount(0)
		dir := filepath.Join(e.root, "etc")
		e.must(unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""))
		e.must(unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		before := e.untimed()
		m := e.manager("vpn0")
		e.set(m, "10.77.0.1")
		e.restore(m)
		if d := cmp.Diff(before, e.untimed()); d != "" {
			t.Errorf("not as before (-before +after):\n%s", d)
		}
	})
}

// The file is that of a pod, or of the container whose network another one joins: it
// outlives the container of a killed instance, and all else that was in there.
func TestMountedFileOutlivesContainer(t *testing.T) {
	inMounts(t, func(e etc) {
		e.mount(0)
		before := e.read()
		killed, next := newEtc(t), newEtc(t)
		for _, container := range []etc{killed, next} {
			container.write("")
			e.must(unix.Mount(e.path("resolv.conf"), container.path("resolv.conf"), "", unix.MS_BIND, ""))
			t.Cleanup(func() { unix.Unmount(container.path("resolv.conf"), unix.MNT_DETACH) })
		}
		e.set(killed.manager("vpn1"), "10.88.0.1")
		e.set(killed.manager("vpn0"), "10.77.0.1")
		if got := Left(next.root); len(got) != 2 {
			t.Errorf("left by %q, want two", got)
		}
		e.must(Bury(t.Context(), next.config("vpn1")))
		if !strings.Contains(e.read(), "10.77.0.1") || strings.Contains(e.read(), "10.88.0.1") {
			t.Errorf("not the other's alone:\n%s", e.read())
		}
		m := next.manager("vpn0")
		next.set(m, "10.77.0.2")
		next.restore(m)
		if got := e.read(); got != before {
			t.Errorf("got %q, want %q", got, before)
		}
	})
}

func TestReadOnlyFile(t *testing.T) {
	inMounts(t, func(e etc) {
		e.mount(unix.MS_RDONLY)
		before := e.facts()
		err := e.manager("vpn0").Set(t.Context(), names("10.77.0.1"))
		if err == nil || !strings.Contains(err.Error(), "leave out -accept-dns") {
			t.Errorf("got %v, want an error with the remedy", err)
		}
		e.same(before)
	})
}

// A fakeResolved is the service on a bus of its own, which writes down its calls.
type fakeResolved struct {
	mu    sync.Mutex
	calls []string
}

func (f *fakeResolved) note(call string, args ...any) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call+fmt.Sprint(args...))
	return nil
}

// said returns the calls so far.
func (f *fakeResolved) said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *fakeResolved) SetLinkDNS(index int32, servers []linkDNS) *dbus.Error {
	return f.note("DNS ", index, servers)
}

func (f *fakeResolved) SetLinkDomains(index int32, domains []linkDomain) *dbus.Error {
	return f.note("Domains ", index, domains)
}

func (f *fakeResolved) RevertLink(index int32) *dbus.Error { return f.note("Revert ", index) }
func (f *fakeResolved) FlushCaches() *dbus.Error           { return f.note("Flush") }

// startBus starts a bus under root and serves the fake on it.
func (e etc) startBus(service any) {
	e.t.Helper()
	_, err := exec.LookPath("dbus-daemon")
	need(e.t, err == nil, "needs dbus-daemon: install dbus")
	dir := filepath.Join(e.root, "run/dbus")
	e.must(os.Mkdir(dir, 0o755))
	address := "unix:path=" + filepath.Join(dir, "system_bus_socket")
	cmd := exec.Command("dbus-daemon", "--session", "--nofork", "--nopidfile", "--address="+address, "--print-address=1")
	out, err := cmd.StdoutPipe()
	e.must(err)
	e.must(cmd.Start())
	e.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		e.t.Fatalf("dbus-daemon does not start: %v", err)
	}
	conn, err := dbus.Connect(address)
	e.must(err)
	e.t.Cleanup(func() { conn.Close() })
	e.must(conn.Export(service, resolvedPath, strings.TrimSuffix(resolvedIface, ".")))
	_, err = conn.RequestName(resolvedName, 0)
	e.must(err)
}

// A newResolvedService also knows the method that came with systemd 240.
type newResolvedService struct{ fakeResolved }

func (f *newResolvedService) SetLinkDefaultRoute(index int32, on bool) *dbus.Error {
	return f.note("DefaultRoute ", index, " ", on)
}

func TestResolvedSince240(t *testing.T) {
	e := newEtc(t)
	f := &newResolvedService{}
	e.startBus(f)
	e.write("nameserver 127.0.0.53\n")
	e.must(e.manager("vpn0").Set(t.Context(), names("10.77.0.1")))
	want := []string{"DNS 7 [{2 [10 77 0 1]}]", "Domains 7 [{. true}]", "DefaultRoute 7 true", "Flush"}
	if d := cmp.Diff(want, f.said()); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
}

func TestResolvedBefore240(t *testing.T) {
	e := newEtc(t)
	f := &fakeResolved{}
	e.startBus(f)
	e.link("/run/systemd/resolve/stub-resolv.conf")
	before := e.facts()
	m := e.manager("vpn0")
	e.must(m.Set(t.Context(), names("10.77.0.1 2001:db8::53", "corp.example")))
	if !m.Held() {
		t.Error("not held")
	}
	e.restore(m)
	e.same(before)
	want := []string{
		"DNS 7 [{2 [10 77 0 1]} {10 [32 1 13 184 0 0 0 0 0 0 0 0 0 0 0 83]}]",
		"Domains 7 [{corp.example false} {. true}]", "Flush", "Revert 7", "Flush",
	}
	if d := cmp.Diff(want, f.said()); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
}

type brokenResolved struct{ fakeResolved }

func (*brokenResolved) SetLinkDomains(int32, []linkDomain) *dbus.Error {
	return dbus.MakeFailedError(fmt.Errorf("link is busy"))
}

func TestResolvedRefuses(t *testing.T) {
	e := newEtc(t)
	f := &brokenResolved{}
	e.startBus(f)
	e.write("nameserver 127.0.0.53\n")
	m := e.manager("vpn0")
	err := m.Set(t.Context(), names("10.77.0.1"))
	if err == nil || !strings.Contains(err.Error(), "SetLinkDomains of systemd-resolved: link is busy") {
		t.Errorf("got %v", err)
	}
	if m.Held() {
		t.Error("held")
	}
	if d := cmp.Diff([]string{"DNS 7 [{2 [10 77 0 1]}]", "Revert 7", "Flush"}, f.said()); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
}

type stubbornResolved struct{ fakeResolved }

func (*stubbornResolved) SetLinkDefaultRoute(int32, bool) *dbus.Error {
	return dbus.MakeFailedError(fmt.Errorf("link is managed"))
}

func TestResolvedRefusesInTheEnd(t *testing.T) {
	e := newEtc(t)
	f := &stubbornResolved{}
	e.startBus(f)
	e.write("nameserver 127.0.0.53\n")
	m := e.manager("vpn0")
	err := m.Set(t.Context(), names("10.77.0.1"))
	if err == nil || !strings.Contains(err.Error(), "SetLinkDefaultRoute of systemd-resolved: link is managed") || m.Held() {
		t.Errorf("got %v, held %t", err, m.Held())
	}
	if d := cmp.Diff([]string{"DNS 7 [{2 [10 77 0 1]}]", "Domains 7 [{. true}]", "Revert 7", "Flush"}, f.said()); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
}

func TestResolvconf(t *testing.T) {
	e := newEtc(t)
	e.must(os.MkdirAll(filepath.Join(e.root, "sbin"), 0o755))
	e.must(os.MkdirAll(filepath.Join(e.root, "run/resolvconf/interface"), 0o755))
	log := filepath.Join(e.root, "log")
	record := filepath.Join(e.root, "run/resolvconf/interface/tap.vpn0.softether")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%[1]s\ncase $1 in -a) cat >%[2]s;; -d) rm -f %[2]s;; esac\n", log, record)
	e.must(os.WriteFile(filepath.Join(e.root, "sbin/resolvconf"), []byte(script), 0o755))
	e.link("/run/resolvconf/resolv.conf")
	before := e.facts()
	m := e.manager("vpn0")
	e.must(m.Set(t.Context(), names("10.77.0.1", "corp.example")))
	text, _ := os.ReadFile(record)
	if want := "nameserver 10.77.0.1\nsearch corp.example\n"; !strings.HasSuffix(string(text), want) {
		t.Errorf("record %q, want %q", text, want)
	}
	e.restore(m)
	e.must(m.Set(t.Context(), names("10.77.0.1")))
	e.must(Bury(t.Context(), e.config("vpn0")))
	e.must(Bury(t.Context(), e.config("vpn0")))
	e.same(before)
	said, _ := os.ReadFile(log)
	add, del := "-a tap.vpn0.softether -m 0 -x\n", "-d tap.vpn0.softether\n"
	if want := add + del + add + del; string(said) != want {
		t.Errorf("called with\n%swant\n%s", said, want)
	}
}

func TestResolvconfFails(t *testing.T) {
	e := newEtc(t)
	e.must(os.MkdirAll(filepath.Join(e.root, "sbin"), 0o755))
	e.must(os.WriteFile(filepath.Join(e.root, "sbin/resolvconf"), []byte("#!/bin/sh\necho no room >&2\nexit 3\n"), 0o755))
	e.write("# Generated by resolvconf\nnameserver 192.0.2.1\n")
	before := e.facts()
	m := e.manager("vpn0")
	err := m.Set(t.Context(), names("10.77.0.1"))
	if err == nil || !strings.Contains(err.Error(), "exit status 3: no room") || m.Held() {
		t.Errorf("got %v, held %t", err, m.Held())
	}
	e.same(before)
}

func TestCancelled(t *testing.T) {
	e := newEtc(t)
	e.startBus(&fakeResolved{})
	e.write("nameserver 127.0.0.53\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := e.facts()
	m := e.manager("vpn0")
	if err := m.Set(ctx, names("10.77.0.1")); err == nil || m.Held() {
		t.Errorf("got %v, held %t", err, m.Held())
	}
	e.same(before)
}
