//go:build linux

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// askHealth runs softether-go health in the client's namespace.
func (w *world) askHealth(at string, args ...string) (said string, code int) {
	w.t.Helper()
	path, err := buildClient()
	if err != nil {
		w.t.Fatal(err)
	}
	out, errs, code := finish(w.t, w.cli.Command(append([]string{path, "health", "-health", at}, args...)...))
	return out + errs, code
}

// waitHealth waits until a question is answered so.
func (w *world) waitHealth(at, question string, code int, want string) {
	w.t.Helper()
	eventually(w.t, upTime, question+" is answered with "+want, func() error {
		if said, got := w.askHealth(at, question); got != code || !strings.Contains(said, want) {
			return fmt.Errorf("got exit code %d with %q, want %d", got, said, code)
		}
		return nil
	})
}

// Proves that health is what gets through the tunnel, in each mode and to each kind of
// target: not what the session thinks of itself.
func TestHealthIsAskedThroughTheTunnel(t *testing.T) {
	t.Parallel()
	w := newWorldWithoutDHCP(t)
	w.lan.Dnsmasq(usualLease, "--dhcp-option=121,"+routedHost+"/32,"+lanGateway)
	m := w.startMiddlebox()
	m.Refuse(true)
	named := usualFlags.with(flags{"port": middleboxPort, "reconnect-max-delay": "1s"})
	first := w.StartClient(named.with(flags{"health": "unix:@gateway,127.0.0.1:9090"}))
	w.waitHealth("unix:@gateway", "ready", 1, "not up")
	for question, code := range map[string]int{"live": 0, "started": 1} {
		if said, got := w.askHealth("unix:@gateway", question); got != code {
			t.Errorf("%s before the first session: got exit code %d with %q, want %d", question, got, said, code)
		}
	}
	m.Refuse(false)
	w.StartClient(named.with(flags{"health": "unix:@name", "health-target": siteName, "socks5": "127.0.0.1:0", "http": absent}))
	w.StartTAP(named.with(flags{"health": "unix:@tap", "health-target": routedHost, "socks5": absent, "http": absent,
		"tap": tapName, "accept-static-routes": "true"}))
	answers := map[string]string{"unix:@gateway": "gateway " + lanGateway, "unix:@name": "name server " + lanGateway, "unix:@tap": routedHost}
	for at, who := range answers {
		w.waitHealth(at, "ready", 0, who+" answered in")
		w.waitHealth(at, "started", 0, "has been up")
	}
	t.Run("HTTP", func(t *testing.T) {
		if got, err := w.Curl("http://127.0.0.1:9090/readyz"); err != nil || !strings.Contains(got, "answered in") {
			t.Errorf("got %q, %v", got, err)
		}
		got, err := w.Curl("http://127.0.0.1:9090/metrics")
		for _, want := range []string{"softether_health_up 1\n", "\nsoftether_session_in_frames_total ", "softether_build_info{of=",
			"\nsoftether_autoconf_ignored_total ", "\nsoftether_dhcp_overflow_total ", `softether_socks5_open{of="127.0.0.1:1080"} 0`, "# TYPE softether_batches_in histogram\n"} {
			if err != nil || !strings.Contains(got, want) {
				t.Errorf("metrics: %v, want %q in\n%s", err, want, got)
			}
		}
	})
	t.Run("the site is gone, the session is not", func(t *testing.T) {
		w.lan.ns.IP("link", "set", "br0", "down")
		for at, want := range map[string]string{"unix:@gateway": "does not answer to ARP", "unix:@name": "through the tunnel", "unix:@tap": "does not answer"} {
			w.waitHealth(at, "ready", 1, want)
			if said, code := w.askHealth(at, "live"); code != 0 {
				t.Errorf("%s: a restart is asked for: %q", at, said)
			}
		}
		if strings.Contains(first.Log(), "session lost") {
			t.Fatal("the session was lost, so this shows nothing")
		}
		w.lan.ns.IP("link", "set", "br0", "up")
		w.lan.ns.IP("route", "replace", routedHost+"/32", "dev", "lo")
		for at, who := range answers {
			w.waitHealth(at, "ready", 0, who+" answered in")
		}
	})
	t.Run("the session is gone", func(t *testing.T) {
		m.Refuse(true)
		m.Cut()
		for at := range answers {
			w.waitHealth(at, "ready", 1, "")
		}
		m.Refuse(false)
		for at, who := range answers {
			w.waitHealth(at, "ready", 0, who+" answered in")
		}
	})
	t.Run("draining", func(t *testing.T) {
		path, err := buildClient()
		if err != nil {
			t.Fatal(err)
		}
		drain := func(at string) error { return w.cli.Command(path, "drain", "-wait", "0s", "-health", at).Run() }
		if drain("127.0.0.1:9090") == nil {
			t.Error("others than the machine's own can have it drain")
		}
		if err := drain("unix:@gateway"); err != nil {
			t.Error(err)
		}
		if said, code := w.askHealth("127.0.0.1:9090"); code != 1 || !strings.Contains(said, "draining") {
			t.Errorf("got exit code %d with %q", code, said)
		}
		w.checkPage(t, "socks5h://"+socksProxy, "http://"+siteName+"/") // for who is late to notice
	})
}

// Proves that open connections may go on for as long as -drain says, and that the health
// endpoint says what is going on meanwhile.
func TestDrainLetsConnectionsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.StartClient(usualFlags.with(flags{"drain": "1m", "health": "unix:@drain"}))
	c.WaitUp()
	d := w.startGated("drained", 4<<20)
	c.Signal(os.Interrupt)
	w.waitHealth("unix:@drain", "ready", 1, "draining")
	if out, err := w.Curl("--proxy", "socks5h://"+socksProxy, "--max-time", "5", "http://"+siteName+"/"); err == nil {
		t.Errorf("a new connection is let in: %q", out)
	}
	w.lan.site.Open(d.name)
	d.Check(upTime)
	if code := c.ExitCode(upTime); code != 0 {
		t.Errorf("exit code: got %d", code)
	}
}

// Proves that a password that is replaced in its file is the one of the next login, as
// Kubernetes and others replace it: by another file of the same name.
func TestAReplacedPasswordIsUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(run.dir, w.cli.name+"-secret")
	put := func(version, password string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, version, "password"), []byte(password), 0o644); err != nil {
			t.Fatal(err)
		}
		command(t, "ln", "-sfn", version, filepath.Join(dir, "..data.new"))
		command(t, "mv", "-T", filepath.Join(dir, "..data.new"), filepath.Join(dir, "..data"))
	}
	put("..1", userPassword)
	command(t, "ln", "-s", "..data/password", filepath.Join(dir, "password"))
	c := w.StartClient(usualFlags.with(flags{"pass": absent, "pass-file": filepath.Join(dir, "password")}))
	c.WaitUp()
	w.srv.Hub(`UserPasswordSet ` + userName + ` /PASSWORD:"another"`)
	put("..2", "another\n")
	seen := len(c.Log())
	w.srv.Disconnect(w.Session())
	c.WaitLogAfter(seen, "tunnel up", recoverTime)
	c.WaitUp()
}
