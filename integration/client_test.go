//go:build linux

package integration

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	socksProxy = "127.0.0.1:1080"
	httpProxy  = "127.0.0.1:8080"

	// upTime is how long a client may take to carry traffic, from whatever state.
	upTime = 30 * time.Second
)

// flags are flags of the client by name. The value absent removes one.
type flags map[string]string

const absent = "\x00"

// usualFlags log in with a password to a server on its usual address.
var usualFlags = flags{
	"host": serverAddress, "port": serverPort, "hub": hubName, "user": userName, "pass": userPassword,
	"insecure": "true", "socks5": socksProxy, "http": httpProxy, "reconnect-delay": "200ms",
}

// with returns f changed by more.
func (f flags) with(more flags) flags {
	f = maps.Clone(f)
	maps.Copy(f, more)
	return f
}

// args returns them for a command line, in a fixed order.
func (f flags) args() []string {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if f[name] != absent {
			args = append(args, "-"+name+"="+f[name])
		}
	}
	return args
}

// clientFlags are for the build of the client; none as it is shipped.
var clientFlags []string

// buildClient builds the client once per run, as it is shipped: static.
var buildClient = sync.OnceValues(func() (string, error) {
	path := filepath.Join(run.dir, "softether-go")
	args := slices.Concat([]string{"build"}, clientFlags, []string{"-o", path, "../cmd/softether-go"})
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the client: %w\n%s", err, out)
	}
	return path, nil
})

// unprivileged gives a program the resolver and hosts of its test, takes all
// privileges, and becomes the program.
const unprivileged = `
set -e
mount --bind "$1/resolv.conf" "$(readlink -m /etc/resolv.conf)"
mount --bind "$1/hosts" /etc/hosts
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
`

// A client is the program under test, running as nobody in the client's namespace.
type client struct {
	*process
	w *world
}

// StartClient starts the program with the given command line.
func (w *world) StartClient(f flags) *client {
	w.t.Helper()
	return &client{process: start(w.t, "softether-go", w.clientCommand(f.args()...)), w: w}
}

func (w *world) clientCommand(args ...string) *exec.Cmd {
	w.t.Helper()
	path, err := buildClient()
	if err != nil {
		w.t.Fatal(err)
	}
	return w.sandboxed(path, args...)
}

// sandboxed prepares a program in the client's sandbox.
func (w *world) sandboxed(path string, args ...string) *exec.Cmd {
	w.t.Helper()
	needTool(w.t, "setpriv", "util-linux")
	dir := w.clientFiles()
	return w.cli.Command(append([]string{"sh", "-c", unprivileged, "sh", dir, path}, args...)...)
}

// clientFiles makes what the client's sandbox mounts, and returns its directory.
func (w *world) clientFiles() string {
	w.t.Helper()
	dir := filepath.Join(run.dir, w.cli.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	files := map[string]string{"resolv.conf": "nameserver 127.0.0.53\n", "hosts": "127.0.0.1 localhost\n" + serverAddress + " " + serverHost + "\n"}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			continue // what an earlier client made of it
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// WaitUp waits until a page behind the hub comes through the SOCKS5 proxy.
func (c *client) WaitUp() {
	c.t.Helper()
	c.WaitPage("http://" + c.w.siteAddress() + "/")
}

// WaitPage waits until the site's page comes through the SOCKS5 proxy from url.
func (c *client) WaitPage(url string) {
	c.t.Helper()
	eventually(c.t, upTime, "the tunnel carries traffic", func() error {
		if !c.Running() {
			c.t.Fatalf("the client has ended with code %d:\n%s", c.cmd.ProcessState.ExitCode(), c.Log())
		}
		page, err := c.w.Curl("--proxy", "socks5h://"+socksProxy, "--max-time", "3", url)
		if err == nil && page != sitePage {
			err = fmt.Errorf("got page %q", page)
		}
		return err
	})
}

// siteAddress is the site's literal address, where DNS is not the point.
func (w *world) siteAddress() string {
	if w.lan != nil {
		return w.lan.gateway
	}
	return natHost
}

// Curl runs curl in the client's namespace and returns what it got.
func (w *world) Curl(args ...string) (string, error) {
	w.t.Helper()
	needTool(w.t, "curl", "curl")
	var stderr strings.Builder
	cmd := w.cli.Command(append([]string{"curl", "--silent", "--show-error", "--fail"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(out), err
}

// Session returns the name of the user's only session.
func (w *world) Session() string {
	w.t.Helper()
	sessions := w.srv.Sessions(userName)
	if len(sessions) != 1 {
		w.t.Fatalf("sessions of %s: got %v, want one", userName, sessions)
	}
	return sessions[0]
}

// checkPage fetches the site's page from url through a proxy.
func (w *world) checkPage(t testing.TB, proxy, url string) {
	t.Helper()
	page, err := w.Curl("--proxy", proxy, "--max-time", "10", url)
	if err != nil || page != sitePage {
		t.Errorf("%s by %s: got %q, %v, want %q", url, proxy, page, err, sitePage)
	}
}
