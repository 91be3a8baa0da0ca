//go:build linux

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const tapName = "vpn0"

// tapFlags are what TAP mode needs at least.
var tapFlags = flags{
	"host": serverAddress, "port": serverPort, "hub": hubName, "user": userName, "pass": userPassword,
	"insecure": "true", "tap": tapName, "reconnect-delay": "200ms",
}

// privileged gives a program the /etc of its test with resolver and hosts, and a /run
// whose state directory outlives it as on a real host, and becomes the program as root.
const privileged = `
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/softether-go
mount --bind "$1/state" /run/softether-go
mount --bind "$1/etc" /etc
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/hosts" /etc/hosts
shift
exec "$@"
`

// rootCommand prepares a program as root in the client's namespace, with the
// resolver, hosts and state directory that all of them there share.
func (w *world) rootCommand(argv ...string) *exec.Cmd {
	w.t.Helper()
	dir := w.clientFiles()
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.privateEtc(filepath.Join(dir, "etc"))
	return w.cli.Command(append([]string{"sh", "-c", privileged, "sh", dir}, argv...)...)
}

// privateEtc makes an /etc for the programs of one test, with places to mount on:
// what the program keeps there must not meet that of another test.
func (w *world) privateEtc(dir string) {
	w.t.Helper()
	if _, err := os.Stat(dir); err == nil {
		return
	}
	command(w.t, "mkdir", dir)
	command(w.t, "cp", "--archive", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", dir)
	command(w.t, "touch", dir+"/resolv.conf", dir+"/hosts")
}

// A tapClient is the program under test with a TAP in the client's namespace.
type tapClient struct {
	*process
	w *world
}

// StartTAP starts the program as root. From then on what is inside the tunnel is
// reached directly.
func (w *world) StartTAP(f flags) *tapClient {
	w.t.Helper()
	path, err := buildClient()
	if err != nil {
		w.t.Fatal(err)
	}
	w.proxy = ""
	return &tapClient{start(w.t, "softether-go", w.rootCommand(append([]string{path}, f.args()...)...)), w}
}

// CleanUp runs the program's cleanup command.
func (w *world) CleanUp() {
	w.t.Helper()
	path, err := buildClient()
	if err != nil {
		w.t.Fatal(err)
	}
	if out, err := w.rootCommand(path, "cleanup").CombinedOutput(); err != nil {
		w.t.Fatalf("cleanup: %v\n%s", err, out)
	}
}

// WaitUp waits until a page behind the hub comes by the TAP.
func (c *tapClient) WaitUp() {
	c.t.Helper()
	c.WaitLog("tunnel up", upTime) // a connection begun before could be lost on another way
	eventually(c.t, upTime, "the tunnel carries traffic", func() error {
		if !c.Running() {
			c.t.Fatalf("the client has ended with code %d:\n%s", c.cmd.ProcessState.ExitCode(), c.Log())
		}
		return c.w.pageFrom(c.w.siteAddress())
	})
}

// pageFrom fetches the page from a host, directly.
func (w *world) pageFrom(host string) error {
	page, err := w.Curl("--max-time", "3", "http://"+host+"/")
	if err == nil && page != sitePage {
		err = fmt.Errorf("got page %q", page)
	}
	return err
}

// hostState is all that the program could have changed in the client's namespace.
func (w *world) hostState() string {
	w.t.Helper()
	out, err := w.rootCommand("sh", "-c", `
		for i in $(seq 30); do # the kernel notices a little later that a link is up, and only then has it an address
			[ -n "$(ip -o link show dev eth0 up 2>&1 | grep UP)" ] || break
			ip -6 -o address show dev eth0 | grep -q fe80 && break
			sleep 0.1
		done
		for i in $(seq 100); do ip -6 address | grep -q tentative || break; sleep 0.1; done
		for i in $(seq 100); do ip -o address >/run/address 2>&1; grep -q "`+otherNamespaceGone+`" /run/address || break; sleep 0.1; done
		sed -E 's/ (valid|preferred)_lft [^ ]+//g' /run/address
		echo '-- rules';  ip rule; ip -6 rule
		echo '-- routes'; { ip route show table all; ip -6 route show table all; } | sort
		echo '-- nftables'; nft --stateless list ruleset
		echo '-- settings'; grep -rs --exclude=stable_secret '' /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf | sort
		echo '-- resolv.conf'; stat -c '%a %U %G %F' /etc/resolv.conf; cat /etc/resolv.conf; ls -A /etc
		echo '-- journals'; find /run/softether-go -type f ! -name turn`).CombinedOutput()
	if err != nil {
		w.t.Fatalf("look at the host: %v\n%s", err, out)
	}
	return string(out)
}

// sameHost fails the test unless the client's namespace looks as it did before.
func (w *world) sameHost(t testing.TB, before string) {
	t.Helper()
	if d := cmp.Diff(before, w.hostState()); d != "" {
		t.Errorf("the host is not as before (-before +after):\n%s", d)
	}
}
