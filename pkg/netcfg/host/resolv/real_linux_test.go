package resolv

// Tests with the real programs. Debian's packages of them take over the
// /etc/resolv.conf of the machine that they are installed on, so they are not:
// integration/setup.sh only fetches them, and a test unpacks them into a copy of the
// machine's files, which is all that it sees, in namespaces of its own.

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fetched is where integration/setup.sh puts packages that are not to be installed.
const fetched = "/var/cache/softether-go"

// onMachine runs the body as on a machine of its own that has these packages: its /
// is a copy of ours, its network has nothing but vpn0, behind which, at 10.77.0.1, a
// name server knows intra.corp.example.
func onMachine(t *testing.T, packages string, body func(e etc)) {
	t.Helper()
	need(t, os.Geteuid() == 0, "needs root for namespaces: run as root, as with sudo -E go test")
	for _, tool := range []string{"ip", "dnsmasq", "dbus-daemon", "dpkg-deb"} {
		_, err := exec.LookPath(tool)
		need(t, err == nil, "needs "+tool+": run integration/setup.sh as root")
	}
	for _, p := range strings.Fields(packages) {
		found, _ := filepath.Glob(filepath.Join(fetched, p+"_*.deb"))
		need(t, len(found) > 0, "needs the package "+p+": run integration/setup.sh as root")
	}
	if os.Getenv(inChild) == "" {
		runOnMachine(t)
		return
	}
	e := etc{t, "/"}
	e.enterCopy(packages)
	e.startNetwork()
	body(e)
}

func runOnMachine(t *testing.T) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), inChild+"=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
}

// enterCopy makes the copy, unpacks the packages there and makes it our /. The mounts
// end with the process; no directory that a test removes may have them in it.
func (e etc) enterCopy(packages string) {
	e.t.Helper()
	e.sh(`mount -t tmpfs none /mnt; cd /mnt; mkdir root upper work
		mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
		for deb in ` + packages + `; do
			dpkg-deb --fsys-tarfile ` + fetched + `/${deb}_*.deb | tar -x --keep-directory-symlink -C root
		done
		for dir in proc dev sys; do mount --rbind /$dir root/$dir; done
		mount -t tmpfs none root/run; mount -t tmpfs none root/tmp; chmod 1777 root/tmp
		rm -f root/etc/resolv.conf`)
	e.must(os.Chdir("/mnt/root"))
	e.must(unix.Chroot("."))
}

func (e etc) startNetwork() {
	e.t.Helper()
	e.sh(`ip link set lo up; ip netns add vpn
		ip link add vpn0 index 7 type veth peer name hub netns vpn
		ip addr add 10.77.0.50/24 dev vpn0; ip link set vpn0 up
		ip -n vpn addr add 10.77.0.1/24 dev hub; ip -n vpn link set hub up`)
	e.start("ip", "netns", "exec", "vpn", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=",
		"--no-resolv", "--no-hosts", "--address=/intra.corp.example/10.77.0.9")
}

// sh runs lines of shell, up to the first that fails.
func (e etc) sh(lines string) string {
	e.t.Helper()
	out, err := exec.Command("sh", "-ec", lines).CombinedOutput()
	if err != nil {
		e.t.Fatalf("%s: %v\n%s", lines, err, out)
	}
	return string(out)
}

// start starts a program that runs until the test ends.
func (e etc) start(argv ...string) {
	e.t.Helper()
	var said bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	e.must(cmd.Start())
	e.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if e.t.Failed() {
			e.t.Logf("%s says:\n%s", argv[0], said.String())
		}
	})
}

// eventually waits until lines of shell succeed and say what is wanted.
func (e etc) eventually(what, lines, want string) {
	e.t.Helper()
	var out []byte
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var err error
		if out, err = exec.Command("sh", "-ec", lines).CombinedOutput(); err == nil && strings.Contains(string(out), want) {
			return
		}
	}
	e.t.Errorf("%s: %s says\n%swant %s", what, lines, out, want)
}

// wantNames checks that the C library finds the VPN's host by its name and, for the
// search domain, by its short name; or neither.
func (e etc) wantNames(found bool) {
	e.t.Helper()
	for _, name := range []string{"intra.corp.example", "intra"} {
		if found {
			e.eventually("the address of "+name, "timeout 20 getent ahostsv4 "+name, "10.77.0.9")
		} else if out, err := exec.Command("timeout", "20", "getent", "ahostsv4", name).Output(); err == nil {
			e.t.Errorf("%s has an address without the VPN: %s", name, out)
		}
	}
}

// files is all that a program could have changed, but for times and inodes of what
// resolvconf makes anew.
func (e etc) files() string {
	return e.sh(`stat -c '%N %a %u:%g' /etc/resolv.conf*
		for f in $(find /etc/resolv.conf* /run/resolvconf -follow -type f | sort); do echo "$f:"; cat $f; done`)
}

// takesTurns sets names for the VPN, changes them, takes them back, sets them again for
// an instance that is killed, and has another one bury that.
func (e etc) takesTurns(want Way, state func() string) {
	e.t.Helper()
	e.wantNames(false)
	before := state()
	same := func(what string) {
		e.t.Helper()
		if d := cmp.Diff(before, state()); d != "" {
			e.t.Errorf("%s not as before (-before +after):\n%s", what, d)
		}
	}
	corp := names("10.77.0.1", "corp.example")
	m := e.manager("vpn0")
	e.must(m.Set(e.t.Context(), names("10.77.0.2", "elsewhere.example")))
	e.must(m.Set(e.t.Context(), corp)) // a renewal with others
	if m.way != want || !m.Held() {
		e.t.Errorf("by way of %q, held %t; want %q", m.way, m.Held(), want)
	}
	e.wantNames(true)
	e.must(m.Restore(e.t.Context()))
	same("restored")
	e.wantNames(false)
	e.must(e.manager("vpn0").Set(e.t.Context(), corp))
	e.wantNames(true)
	if want == Resolved {
		e.sh("ip link del vpn0") // what a kill does to a TAP
		before = strings.Join(slices.DeleteFunc(strings.SplitAfter(before, "\n"), func(line string) bool {
			return strings.Contains(line, "(vpn0)")
		}), "")
	}
	e.must(Bury(e.t.Context(), e.config("vpn0")))
	e.wantNames(false)
	same("buried")
}

func TestRealResolved(t *testing.T) {
	onMachine(t, "systemd-resolved libsystemd-shared", func(e etc) {
		const user = "990"
		e.sh(`getent passwd systemd-resolve || echo systemd-resolve:x:` + user + `:` + user + `::/:/usr/sbin/nologin >>/etc/passwd
			getent group systemd-resolve || echo systemd-resolve:x:` + user + `: >>/etc/group
			ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
			sed -i 's/^hosts:.*/hosts: files dns/' /etc/nsswitch.conf
			mkdir -p /run/dbus /run/systemd/resolve; chown systemd-resolve:systemd-resolve /run/systemd/resolve
			printf '[Resolve]\nLLMNR=no\nMulticastDNS=no\nFallbackDNS=\n' >/etc/systemd/resolved.conf`)
		e.start("dbus-daemon", "--system", "--nofork", "--nopidfile")
		e.eventually("the bus", "ls /run/dbus/system_bus_socket", "bus")
		e.start("/lib/systemd/systemd-resolved")
		e.eventually("the service", "timeout 10 resolvectl status vpn0; cat /etc/resolv.conf", "nameserver 127.0.0.53")
		links := func() string {
			return e.sh("readlink /etc/resolv.conf; grep -v ^search /etc/resolv.conf; resolvectl dns; resolvectl domain; resolvectl default-route")
		}
		m := e.manager("vpn0")
		e.must(m.Set(t.Context(), names("10.77.0.1 2001:db8::53", "corp.example", "lab.corp.example")))
		got := links()
		for _, want := range []string{"(vpn0): 10.77.0.1 2001:db8::53\n", "(vpn0): corp.example lab.corp.example ~.\n", "(vpn0): yes\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("resolvectl does not say %q:\n%s", want, got)
			}
		}
		e.must(m.Restore(t.Context()))
		e.takesTurns(Resolved, links)
	})
}

// useResolvconf prepares a machine on which another interface has name servers.
func (e etc) useResolvconf(prepare string) {
	e.t.Helper()
	e.sh(prepare + "\necho nameserver 192.0.2.1 | resolvconf -a eth0")
	e.eventually("what resolvconf makes", "cat /etc/resolv.conf", "nameserver 192.0.2.1")
}

func TestRealResolvconfOfDebian(t *testing.T) {
	onMachine(t, "resolvconf", func(e etc) {
		e.useResolvconf("ln -s ../run/resolvconf/resolv.conf /etc/resolv.conf; resolvconf --enable-updates")
		e.takesTurns(Resolvconf, e.files)
		e.sh(`printf '#!/bin/sh\nexit 1\n' >/etc/resolvconf/update.d/zz-broken; chmod 755 /etc/resolvconf/update.d/zz-broken`)
		before := e.files()
		if err := e.manager("vpn0").Set(t.Context(), names("10.77.0.1")); err == nil || !strings.Contains(err.Error(), "zz-broken") {
			t.Errorf("with a broken script: got %v", err)
		}
		if d := cmp.Diff(before, e.files()); d != "" {
			t.Errorf("after a broken script not as before (-before +after):\n%s", d)
		}
	})
}

func TestRealOpenresolv(t *testing.T) {
	onMachine(t, "openresolv", func(e etc) {
		e.useResolvconf("")
		e.takesTurns(Resolvconf, e.files)
	})
}
