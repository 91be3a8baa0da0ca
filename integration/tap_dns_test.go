//go:build linux

package integration

import (
	"os/exec"
	"strings"
	"testing"
)

const (
	shortName = "files" // siteName without its domain

	// mounted leaves /etc/resolv.conf what it is in these tests: a mount, as in containers.
	mounted = ""
	// ordinary makes it a file in its directory again, as on most hosts.
	ordinary = "umount /etc/resolv.conf; [ -s /etc/resolv.conf ] || echo nameserver 127.0.0.53 >/etc/resolv.conf; "
	// linked makes it, once and for all, a symbolic link.
	linked = "umount /etc/resolv.conf; [ -e /etc/real ] || { mv /etc/resolv.conf /etc/real; chmod 640 /etc/real; " +
		"ln -s ../etc/real /etc/resolv.conf; }; "
	// readOnly makes it a file that can be neither written nor replaced.
	readOnly = "mount -o remount,bind,ro /etc/resolv.conf; "
)

// A namesWorld is one whose client's /etc has been prepared in one of these ways.
type namesWorld struct {
	*world
	prepare string
}

// command prepares a program as root that sees the prepared /etc.
func (w namesWorld) command(argv ...string) *exec.Cmd {
	return w.rootCommand(append([]string{"sh", "-c", "set -e; " + w.prepare + `exec "$@"`, "sh"}, argv...)...)
}

// Start starts the client.
func (w namesWorld) Start(t testing.TB, f flags) *tapClient {
	t.Helper()
	path, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	w.proxy = ""
	return &tapClient{start(t, "softether-go", w.command(append([]string{path}, f.args()...)...)), w.in(t)}
}

// state is all there is to see of the name servers' files.
func (w namesWorld) state(t testing.TB) string {
	t.Helper()
	out, err := w.command("sh", "-c", `
		cd /etc; for f in resolv.conf* real; do [ ! -e $f ] || { stat -c '%N %a %U %G %F' $f; cat $f; }; done`).CombinedOutput()
	if err != nil {
		t.Fatalf("look at /etc: %v\n%s", err, out)
	}
	return string(out)
}

// wantName fails the test unless a name has this address; empty means none.
func (w namesWorld) wantName(t testing.TB, name, want string) {
	t.Helper()
	out, _ := w.command("timeout", "20", "getent", "ahostsv4", name).Output()
	got, _, _ := strings.Cut(string(out), " ")
	if got != want {
		t.Errorf("address of %s: got %q, want %q\n%s", name, got, want, w.state(t))
	}
}

// Proves that the lease's name servers are used if asked for, in every kind of
// /etc, and that it is as before at the end.
func TestTAPNameServers(t *testing.T) {
	t.Parallel()
	needTool(t, "getent", "libc-bin")
	shared := newWorld(t)
	accept := flags{"accept-dns": "true"}
	const silent = "10.200.0.99" // nobody's
	elsewhere := "--dhcp-option=6," + silent
	for _, row := range []struct {
		name        string
		prepare     string
		option      string
		flags       flags
		full, short string // addresses of the site by its names
	}{
		{"without the flag", mounted, "", flags{}, "", ""},
		{"mount", mounted, "", accept, lanGateway, lanGateway},
		{"file", ordinary, "", accept, lanGateway, lanGateway},
		{"search domain of the user's", mounted, "", accept.with(flags{"search": "example.org"}), lanGateway, ""},
		{"server of the user's", mounted, elsewhere, accept.with(flags{"dns": lanGateway}), lanGateway, lanGateway},
		{"link", linked, "", accept, lanGateway, lanGateway},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := namesWorld{shared, row.prepare}
			w.DHCP(strings.Fields(row.option)...)
			before, host := w.state(t), w.hostState()
			c := w.Start(t, tapFlags.with(row.flags))
			c.WaitUp()
			w.wantName(t, siteName, row.full)
			w.wantName(t, shortName, row.short)
			c.Down(host)
			if got := w.state(t); got != before {
				t.Errorf("name servers at the end: got\n%s, before they were\n%s", got, before)
			}
		})
	}
}

// Proves that name servers that cannot be set are one line and nothing else.
func TestTAPNameServersReadOnly(t *testing.T) {
	t.Parallel()
	w := namesWorld{newWorld(t), readOnly}
	before := w.hostState()
	c := w.Start(t, tapFlags.with(flags{"accept-dns": "true"}))
	if got := c.ExitCode(upTime); got != exitLocal {
		t.Errorf("exit code: got %d, want %d", got, exitLocal)
	}
	c.wantLine(`resolv\.conf is a read-only mount: make it writable, or leave out -accept-dns$`)
	w.sameHost(t, before)
}
