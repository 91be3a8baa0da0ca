//go:build linux

package integration

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// exposures are what systemd-analyze may find at most of a unit, in tenths: of 0, nothing,
// to 100, everything.
var exposures = map[string]string{"softether-go@": "15", "softether-go-tap@": "25", "softether-go-run@": "30"}

// units puts the units where systemd finds them, for an instance called office, with the
// program in the place of the installed one.
func units(t testing.TB) (dir string) {
	t.Helper()
	needTool(t, "systemd-analyze", "systemd")
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	files, err := filepath.Glob(deploy + "/systemd/*")
	if err != nil || len(files) != len(exposures)+1 {
		t.Fatalf("units: got %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		unit := strings.ReplaceAll(string(text), "/usr/local/bin/softether-go", client)
		unit = strings.ReplaceAll(unit, "/etc/softether-go/%i.run", "/bin/true")
		for _, n := range []string{name, strings.Replace(name, "@", "@office", 1)} {
			if err := os.WriteFile(filepath.Join(dir, n), []byte(unit), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// Proves that systemd understands the units, and finds them as hard as they are meant to be.
func TestUnitsAreUnderstoodAndHardened(t *testing.T) {
	t.Parallel()
	dir := units(t)
	names, _ := filepath.Glob(dir + "/*@office.*")
	out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no", "--recursive-errors=no"}, names...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("verify: %v\n%s", err, out)
	}
	for unit, most := range exposures {
		path := filepath.Join(dir, unit+".service")
		out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+most, path).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v, want %s at most\n%s", unit, err, most, lastLines(string(out), 1))
		}
	}
	// Of a unit without all that it finds much.
	bare := filepath.Join(dir, "bare.service")
	if err := os.WriteFile(bare, []byte("[Service]\nExecStart=/bin/true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=30", bare).Run() == nil {
		t.Error("a unit without any hardening passes, so the above means nothing")
	}
}

// setting returns a unit's settings of a name, with a list's parts.
func setting(t testing.TB, unit, name string) (values []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deploy, "systemd", unit))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(string(text), -1) {
		values = append(values, strings.Fields(m[1])...)
	}
	if len(values) == 0 {
		t.Fatalf("%s has no %s", unit, name)
	}
	return values
}

// A manager is the service manager's side of sd_notify(3).
type manager struct {
	t    testing.TB
	path string
	c    *net.UnixConn

	mu   sync.Mutex
	said []string
}

func newManager(t testing.TB, name string) *manager {
	t.Helper()
	m := &manager{t: t, path: filepath.Join(run.dir, name+".notify")}
	var err error
	if m.c, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.c.Close() })
	if err := os.Chmod(m.path, 0o777); err != nil {
		t.Fatal(err)
	}
	go func() {
		for b := make([]byte, 4096); ; {
			n, err := m.c.Read(b)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.said = append(m.said, strings.Split(string(b[:n]), "\n")...)
			m.mu.Unlock()
		}
	}()
	return m
}

// Heard reports how often a line was said.
func (m *manager) Heard(line string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.said {
		if s == line {
			n++
		}
	}
	return n
}

func (m *manager) Wait(line string) {
	m.t.Helper()
	eventually(m.t, upTime, "systemd hears "+line, func() error {
		if m.Heard(line) == 0 {
			m.mu.Lock()
			defer m.mu.Unlock()
			return fmt.Errorf("heard %q", m.said)
		}
		return nil
	})
}

// serviceFiles are a service's settings and its credential, as systemd brings it.
func serviceFiles(t testing.TB, w *world, lines ...string) (conf, credentials string) {
	t.Helper()
	dir := filepath.Join(run.dir, w.cli.name+"-service")
	credentials = filepath.Join(dir, "credentials")
	if err := os.MkdirAll(credentials, 0o755); err != nil {
		t.Fatal(err)
	}
	conf = filepath.Join(dir, "office.conf")
	text := strings.Join(append(lines, "host "+serverAddress, "port "+middleboxPort, "hub "+hubName, "user "+userName,
		"insecure true", "reconnect-delay 200ms", "reconnect-max-delay 1s"), "\n") + "\n"
	for path, content := range map[string]string{conf: text, filepath.Join(credentials, "softether-pass"): userPassword + "\n"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return conf, credentials
}

// Proves that what a unit starts says that it is ready when the tunnel is up, and not
// before, is alive by a tunnel that carries, and says that it stops; that it needs no
// other system call than the unit allows; and that its password comes as a credential.
func TestUnitsAreReadyWithTheTunnel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.startMiddlebox()
	for unit, row := range map[string]struct {
		lines   []string
		sandbox func(argv ...string) *exec.Cmd
	}{
		"softether-go@.service":     {[]string{"socks5 " + socksProxy}, func(argv ...string) *exec.Cmd { return w.unprivileged(argv...) }},
		"softether-go-tap@.service": {[]string{"tap " + tapName, "accept-dns true"}, func(argv ...string) *exec.Cmd { return w.rootCommand(argv...) }},
	} {
		t.Run(unit, func(t *testing.T) {
			m.Refuse(true)
			defer m.Refuse(false)
			manager := newManager(t, w.cli.name+unit)
			conf, credentials := serviceFiles(t, w, row.lines...)
			client, err := buildClient()
			if err != nil {
				t.Fatal(err)
			}
			calls := filepath.Join(run.dir, w.cli.name+unit+".calls")
			if err := os.WriteFile(calls, nil, 0o666); err != nil || os.Chmod(calls, 0o666) != nil {
				t.Fatal(err)
			}
			needTool(t, "strace", "strace")
			argv := setting(t, unit, "ExecStart")
			argv[0] = client
			for i, a := range argv {
				argv[i] = strings.ReplaceAll(a, "/etc/softether-go/%i.conf", conf)
			}
			cmd := row.sandbox(append([]string{"strace", "-D", "-f", "-q", "-o", calls}, argv...)...)
			cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+manager.path, "WATCHDOG_USEC=300000", "CREDENTIALS_DIRECTORY="+credentials)
			p := start(t, unit, cmd)
			manager.Wait("STATUS=Not connected, waiting before another attempt")
			manager.Wait("WATCHDOG=1")
			if manager.Heard("READY=1") > 0 {
				t.Error("it was ready without a tunnel")
			}
			m.Refuse(false)
			manager.Wait("READY=1")
			manager.Wait("STATUS=The tunnel is up")
			p.Signal(os.Interrupt)
			manager.Wait("STOPPING=1")
			if code := p.ExitCode(upTime); code != 0 {
				t.Errorf("exit code: got %d\n%s", code, p.Log())
			}
			checkCalls(t, calls, setting(t, unit, "SystemCallFilter"))
		})
	}
}

// Proves the same of the system calls of a command's network, and that its password comes so.
func TestTheRunUnitAllowsWhatItTakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startMiddlebox()
	needTool(t, "strace", "strace")
	const unit = "softether-go-run@.service"
	conf, credentials := serviceFiles(t, w)
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	calls := filepath.Join(run.dir, w.cli.name+unit+".calls")
	if err := os.WriteFile(calls, nil, 0o666); err != nil || os.Chmod(calls, 0o666) != nil {
		t.Fatal(err)
	}
	argv := setting(t, unit, "ExecStart")
	argv[0], argv[len(argv)-1] = client, "curl"
	for i, a := range argv {
		argv[i] = strings.ReplaceAll(a, "/etc/softether-go/%i.conf", conf)
	}
	argv = slices.Concat([]string{"strace", "-D", "-f", "-q", "-o", calls}, argv, []string{"-sS", "--max-time", "10", "http://" + siteName + "/"})
	cmd := w.asUser(argv...)
	cmd.Env = append(os.Environ(), "CREDENTIALS_DIRECTORY="+credentials)
	if out, errs, code := finish(t, cmd); out != sitePage || code != 0 {
		t.Errorf("got %q, exit code %d\n%s", out, code, errs)
	}
	checkCalls(t, calls, setting(t, unit, "SystemCallFilter"))
}

// unprivileged prepares a program as StartClient does.
func (w *world) unprivileged(argv ...string) *exec.Cmd {
	w.t.Helper()
	return w.cli.Command(append([]string{"sh", "-c", unprivileged, "sh", w.clientFiles()}, argv...)...)
}

// checkCalls compares the system calls that a program made with those that a unit allows.
// What the Go runtime tries and does well without may be refused.
func checkCalls(t *testing.T, file string, filter []string) {
	t.Helper()
	var log []byte
	eventually(t, upTime, "strace has written it all", func() (err error) {
		log, err = os.ReadFile(file)
		if err == nil && !strings.Contains(string(log), "+++ exited with 0 +++") {
			err = errors.New("not yet")
		}
		return err
	})
	made := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\d+ +(\w+)\(`).FindAllStringSubmatch(string(log), -1) {
		made[m[1]] = true
	}
	allowed := map[string]bool{"execve": true, "brk": true}
	deny := false
	for _, word := range filter {
		if rest, ok := strings.CutPrefix(word, "~"); ok { // a line that takes away
			deny, word = true, rest
		} else if word == "@system-service" {
			deny = false
		}
		for _, call := range expand(t, word) {
			allowed[call] = !deny
		}
	}
	delete(made, "prlimit64") // more descriptors, which LimitNOFILE= is for
	delete(made, "setrlimit")
	var refused []string
	for _, call := range slices.Sorted(maps.Keys(made)) {
		if !allowed[call] {
			refused = append(refused, call)
		}
	}
	if len(made) < 20 || len(refused) > 0 {
		t.Errorf("of %d system calls the unit refuses %v", len(made), refused)
	}
}

// expand lists the system calls of a set, as systemd has it.
func expand(t *testing.T, set string) (calls []string) {
	t.Helper()
	if !strings.HasPrefix(set, "@") {
		return []string{set}
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", "--no-pager", set).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(out), "\n")[1:] {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			calls = append(calls, expand(t, line)...)
		}
	}
	return calls
}

// Proves that the first client of a socket of systemd's starts the service and is served.
func TestTheSocketUnitServesItsFirstClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startMiddlebox()
	needTool(t, "systemd-socket-activate", "systemd")
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	at, name := setting(t, "softether-go@.socket", "ListenStream")[0], setting(t, "softether-go@.socket", "FileDescriptorName")[0]
	conf, credentials := serviceFiles(t, w, "listen systemd:"+name)
	p := start(t, "systemd-socket-activate", w.unprivileged("systemd-socket-activate", "--listen="+at, "--fdname="+name,
		"--setenv=CREDENTIALS_DIRECTORY="+credentials, client, "-config", conf))
	p.WaitLog("Listening on", 10*time.Second)
	if len(w.srv.Sessions(userName)) > 0 {
		t.Error("there is a session before the first client")
	}
	for _, proxy := range []string{"socks5h://" + at, "http://" + at} {
		if page, err := w.Curl("--proxy", proxy, "--max-time", "30", "http://"+siteName+"/"); err != nil || page != sitePage {
			t.Errorf("%s: got %q, %v\n%s", proxy, page, err, p.Log())
		}
	}
	p.Terminate()
}
