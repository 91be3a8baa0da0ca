//go:build linux

package integration

import (
	"os/exec"
	"testing"
)

// runFlags are what softether-go run needs at least.
var runFlags = flags{
	"host": serverAddress, "port": serverPort, "hub": hubName, "user": userName, "pass": userPassword,
	"insecure": "true", "reconnect-delay": "200ms",
}

// ordinaryUser gives a program what an ordinary user has on a usual host, the resolver and
// hosts of its test, and becomes the program as that user, without any privilege.
const ordinaryUser = `
set -e
mount --bind "$1/resolv.conf" "$(readlink -m /etc/resolv.conf)"
mount --bind "$1/hosts" /etc/hosts
mkdir -p /dev/net
mount -t tmpfs tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all "$@"
`

// RunCommand prepares softether-go run for a command in the client's namespace.
func (w *world) RunCommand(f flags, argv ...string) *exec.Cmd {
	w.t.Helper()
	path, err := buildClient()
	if err != nil {
		w.t.Fatal(err)
	}
	return w.asUser(append(append([]string{path, "run"}, append(f.args(), "--")...), argv...)...)
}

// asUser prepares a program as an ordinary user in the client's namespace.
func (w *world) asUser(argv ...string) *exec.Cmd {
	w.t.Helper()
	needTool(w.t, "setpriv", "util-linux")
	return w.cli.Command(append([]string{"sh", "-c", ordinaryUser, "sh", w.clientFiles()}, argv...)...)
}

// runTime is how long a short command with a network of its own may take.
const runTime = 2 * upTime

// Run runs a command with a network of its own and returns its output and exit code.
func (w *world) Run(t testing.TB, f flags, argv ...string) (out, errs string, code int) {
	t.Helper()
	return finish(t, w.RunCommand(f, argv...))
}
