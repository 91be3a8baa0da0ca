//go:build linux

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// replaceableEtc gives a program an /etc whose resolv.conf is a link into a directory of
// the resolver's, as on most desktops, and becomes the program as an ordinary user.
const replaceableEtc = `
set -e
mkdir -p /dev/net
mount -t tmpfs tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/resolve
echo nameserver 127.0.0.53 >/run/systemd/resolve/stub-resolv.conf
mount --bind "$1" /etc
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all "$@"
`

// Proves that the host's changes of its name servers do not reach the command, neither
// a file that is replaced nor a link into the directory of systemd-resolved.
func TestRunKeepsItsNameServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		make func(path string) error
	}{
		{"a file", func(path string) error { return os.WriteFile(path, []byte("nameserver 203.0.113.1\n"), 0o644) }},
		{"a link to systemd-resolved's", func(path string) error { return os.Symlink("/run/systemd/resolve/stub-resolv.conf", path) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			etc := filepath.Join(run.dir, w.cli.name+"-"+strings.ReplaceAll(row.name, " ", "-"))
			if err := os.Mkdir(etc, 0o755); err != nil {
				t.Fatal(err)
			}
			command(t, "cp", "--archive", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", etc)
			if err := row.make(filepath.Join(etc, "resolv.conf")); err != nil {
				t.Fatal(err)
			}
			done := filepath.Join(etc, "replaced")
			script := "cat /etc/resolv.conf; echo before; while [ ! -e /etc/replaced ]; do sleep 0.1; done; " +
				"for i in $(seq 100); do grep -q " + lanGateway + " /etc/resolv.conf && break; sleep 0.1; done; cat /etc/resolv.conf; getent ahostsv4 " + siteName
			argv := append(append([]string{"sh", "-c", replaceableEtc, "sh", etc, client, "run"}, runFlags.args()...), "--", "sh", "-c", script)
			p := start(t, "run", w.cli.Command(argv...))
			p.WaitLog("before", upTime)
			for i := range 3 { // each takes a mount away
				other := filepath.Join(etc, "resolv.conf.new")
				if err := os.WriteFile(other, fmt.Appendf(nil, "nameserver 203.0.113.%d\n", i), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(other, filepath.Join(etc, "resolv.conf")); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(done, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			code := p.ExitCode(upTime)
			log := p.Log()
			n := strings.Count(log, "nameserver "+lanGateway)
			if code != 0 || n != 2 || strings.Contains(log, "203.0.113") || strings.Contains(log, "127.0.0.53") {
				t.Errorf("got the VPN's name server %d times, exit code %d, want it twice and no other:\n%s", n, code, log)
			}
		})
	}
}
