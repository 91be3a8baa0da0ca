//go:build linux

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	radiusBinary   = "/usr/sbin/freeradius"
	radiusUser     = "rita"
	radiusPassword = "r4dius s€cret"
	radiusSecret   = "between-the-servers"
)

// freeRADIUS is the least configuration that knows one user. DIR is where it is.
const freeRADIUS = `
raddbdir = DIR
logdir = DIR
run_dir = DIR
libdir = /usr/lib/freeradius
correct_escapes = true
max_request_time = 5
thread pool {
	start_servers = 1
	max_servers = 2
	min_spare_servers = 1
	max_spare_servers = 2
}
security {
	allow_vulnerable_openssl = yes
}
log {
	destination = stdout
	auth = yes
}
client vpnserver {
	ipaddr = 127.0.0.1
	secret = SECRET
}
modules {
	files {
		filename = DIR/users
	}
	pap {
	}
}
server default {
	listen {
		type = auth
		ipaddr = 127.0.0.1
		port = 1812
	}
	authorize {
		files
		pap
	}
	authenticate {
		Auth-Type PAP {
			pap
		}
	}
}
`

// startRADIUS starts Debian's FreeRADIUS in a namespace, never as a service. It knows
// radiusUser by the password.
func startRADIUS(t testing.TB, ns *netns, password string) *process {
	t.Helper()
	needTool(t, radiusBinary, "freeradius")
	dir := filepath.Join(run.dir, ns.name, "radius")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"radiusd.conf": strings.NewReplacer("DIR", dir, "SECRET", radiusSecret).Replace(freeRADIUS),
		"users":        radiusUser + " Cleartext-Password := \"" + password + "\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, "freeradius", ns.Command(radiusBinary, "-f", "-l", "stdout", "-n", "radiusd", "-d", dir, "-D", "/usr/share/freeradius"))
	p.WaitLog(`Ready to process requests`, 20*time.Second)
	return p
}

// Proves that a user whom only RADIUS knows gets in with a plain password, and what
// is said where that fails: a wrong password, no RADIUS, no -plain-password.
func TestRADIUSUsersGetIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	radius := startRADIUS(t, w.srv.ns, radiusPassword)
	w.srv.Hub("RadiusServerSet 127.0.0.1:1812 /SECRET:"+radiusSecret+" /RETRY_INTERVAL:1000",
		"UserCreate "+radiusUser+" /GROUP:none /REALNAME:none /NOTE:none", "UserRadiusSet "+radiusUser+" /ALIAS:none")
	f := usualFlags.with(flags{"user": radiusUser, "pass": absent, "plain-password": "true",
		"pass-file": secretFile(t, "radius", []byte(radiusPassword+"\n"))})
	refused := func(name string, f flags, want ...string) {
		t.Helper()
		c := w.StartClient(f)
		if got := c.ExitCode(upTime); got != exitRefused {
			t.Errorf("%s: exit code %d, want %d", name, got, exitRefused)
		}
		checkLastWords(t, c.Log(), want)
		if strings.Contains(c.Log(), radiusPassword) {
			t.Errorf("%s: the password is shown", name)
		}
	}

	c := w.StartClient(f)
	c.WaitUp()
	c.Terminate()
	if log := radius.Log(); !strings.Contains(log, "Login OK: ["+radiusUser) {
		t.Errorf("FreeRADIUS was not asked:\n%s", log)
	}
	refused("a wrong password", f.with(flags{"pass-file": secretFile(t, "wrong", []byte("wrong-pass\n"))}), "password is wrong", "RADIUS")
	if log := radius.Log(); !strings.Contains(log, "Login incorrect") {
		t.Errorf("FreeRADIUS was not asked about the wrong password:\n%s", log)
	}
	refused("hashed", f.with(flags{"plain-password": absent}), "-plain-password")

	// A RADIUS that is down looks to the server like a wrong password, but takes longer.
	radius.Kill()
	c = w.StartClient(f)
	c.WaitLog(`not connected.*RADIUS or domain server does not answer`, upTime)
	if strings.Contains(c.Log(), radiusPassword) {
		t.Error("no RADIUS: the password is shown")
	}
	radius = startRADIUS(t, w.srv.ns, radiusPassword)
	c.WaitUp()
	// Who was in before is patient with a quick refusal too.
	radius.Kill()
	radius = startRADIUS(t, w.srv.ns, "another")
	w.srv.Disconnect(w.sessionOf(radiusUser))
	c.WaitLog(`trying again, slowly`, upTime)
	if log := radius.Log(); !strings.Contains(log, "Login incorrect") {
		t.Errorf("FreeRADIUS was not asked again:\n%s", log)
	}
	if !c.Running() {
		t.Errorf("the client has ended:\n%s", c.Log())
	}
}

// sessionOf returns the name of the last session of a user.
func (w *world) sessionOf(user string) string {
	w.t.Helper()
	sessions := w.srv.Sessions(user)
	if len(sessions) == 0 {
		w.t.Fatalf("%s has no session", user)
	}
	return sessions[len(sessions)-1]
}
