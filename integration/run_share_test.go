//go:build linux

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A sharer runs commands that may find each other's sessions.
type sharer struct {
	w   *world
	dir string // of the user's sockets
}

func newSharer(w *world) sharer {
	w.t.Helper()
	s := sharer{w, filepath.Join(run.dir, w.cli.name+"-runtime")}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chown(s.dir, 65534, 65534); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (s sharer) command(f flags, argv ...string) *exec.Cmd {
	s.w.t.Helper()
	cmd := s.w.RunCommand(f, argv...)
	cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+s.dir)
	return cmd
}

// addressOf waits until a server inside says its address.
func addressOf(p *process) string {
	p.t.Helper()
	p.WaitLog(`serving at \S+ \.`, upTime)
	_, rest, _ := strings.Cut(p.Log(), "serving at ")
	own, _, _ := strings.Cut(rest, " ")
	return own
}

// Proves that several commands share one session, each with an address of its own, in
// whichever order they end.
func TestRunsShareASession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newSharer(w)
	share, attach := runFlags.with(flags{"share": "office"}), flags{"attach": "office"}

	if out, errs, code := finish(t, s.command(attach, "echo", "started")); code != 1 || out != "" || !strings.Contains(errs, "-share office") {
		t.Errorf("nothing to attach to: got exit code %d, %q, %q", code, out, errs)
	}

	first := start(t, "first", s.command(share.with(flags{"health": "unix:@shared"}), insideProgram(t), "serve", ":80"))
	own := addressOf(first)
	w.waitHealth("unix:@shared", "ready", 0, "the session is up")
	w.waitHealth("unix:@shared", "metrics", 0, "softether_session_in_frames_total")
	var mu sync.Mutex
	addresses := map[string]bool{own: true}
	script := "curl -sS --max-time 20 http://" + siteName + "/ && curl -sS --max-time 20 -d x http://" + own + "/ && echo && " +
		"ip -o -4 address show dev vpn0 | tr -s ' ' | cut -d' ' -f4 | cut -d/ -f1 && [ $(ls " + s.dir + "/softether-go | grep -c sock$) = 1 ]"
	var all sync.WaitGroup
	held := filepath.Join(run.dir, w.cli.name+"-held") // all are there at the same time
	if err := os.Mkdir(held, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(held, 0o777); err != nil {
		t.Fatal(err)
	}
	hold := "touch " + held + "/$$; while [ $(ls " + held + " | wc -l) -lt 9 ]; do sleep 0.1; done; "
	for i := range 9 {
		f := attach
		if i%3 == 0 {
			f = share // to whom a session of the name is as good
		}
		cmd := s.command(f, "sh", "-c", hold+script)
		all.Go(func() {
			out, errs, code := finish(t, cmd)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if code != 0 || len(lines) != 3 || lines[0]+"\n" != sitePage || lines[1] != "inside got 1 bytes" {
				t.Errorf("attached: got %q, exit code %d\n%s", out, code, errs)
				return
			}
			mu.Lock()
			addresses[lines[2]] = true
			mu.Unlock()
		})
	}
	all.Wait()
	if len(addresses) != 10 {
		t.Errorf("addresses: got %v, want ten", addresses)
	}
	if got := w.srv.Sessions(userName); len(got) != 1 {
		t.Errorf("sessions: got %v, want one", got)
	}

	// The first to come is not the last to go.
	second := start(t, "second", s.command(attach, insideProgram(t), "serve", ":80"))
	own = addressOf(second)
	first.Kill()
	eventually(t, upTime, "the second goes on", func() error {
		out, err := w.lan.ns.Command("curl", "-sS", "--max-time", "3", "-d", "x", "http://"+own+"/").Output()
		if string(out) != "inside got 1 bytes" {
			return fmt.Errorf("got %q, %v", out, err)
		}
		return nil
	})
	w.srv.Disconnect(w.Session())
	eventually(t, upTime, "and after a reconnect", func() error {
		out, err := w.lan.ns.Command("curl", "-sS", "--max-time", "3", "-d", "xy", "http://"+own+"/").Output()
		if string(out) != "inside got 2 bytes" {
			return fmt.Errorf("got %q, %v", out, err)
		}
		return nil
	})
	second.Kill()
	eventually(t, upTime, "the session ends with the last", func() error {
		if left, _ := filepath.Glob(s.dir + "/softether-go/*.sock"); len(left) > 0 {
			return fmt.Errorf("there is still %v", left)
		}
		return nil
	})
}

// Proves that where a policy limits the stations of a session, the last one is shared by NAT
// among all commands that come beyond, which are told so: TCP with content, ping, names
// and a server that is published work for ten at once, the hub sees no more
// stations than it allows, and all goes on in another session.
func TestRunsShareAnAddressWhereThePolicyLimitsThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newSharer(w)
	for _, row := range []struct {
		policy, value string
		stations      int
		commands      int
	}{
		{"NoBridge", "yes", 3, 10},
		{"MaxMac", "3", 3, 4},
		{"MaxIP", "4", 4, 5},
	} {
		t.Run(row.policy, func(t *testing.T) {
			w.srv.Policy(userName, row.policy, row.value)
			defer w.srv.Hub("UserPolicyRemove " + userName)
			proveSharedAddress(t, w, s, row.policy, row.stations, row.commands)
		})
	}
}

func proveSharedAddress(t *testing.T, w *world, s sharer, policy string, stations, commands int) {
	held := filepath.Join(run.dir, w.cli.name+"-"+policy)
	if err := os.Mkdir(held, 0o777); err != nil {
		t.Fatal(err)
	}
	command(t, "chmod", "777", held)
	before := w.srv.Sessions(userName) // those of killed clients are there for a while
	first := start(t, "first", s.command(runFlags.with(flags{"share": policy}), insideProgram(t), "serve", ":80"))
	addressOf(first)
	const size = 2 << 20
	script := fmt.Sprintf("set -e; touch %[1]s/$$; while [ $(ls %[1]s | wc -l) -lt %[2]d ]; do sleep 0.1; done; "+
		"curl -sS --max-time 30 http://%[3]s/; curl -sS --max-time 30 http://%[3]s/stream/$$/%[4]d | sha256sum | cut -c1-64; echo $$; "+
		"ping -n -c 1 -W 5 %[5]s >/dev/null; ip -o -4 address show dev vpn0 | tr -s ' ' | cut -d' ' -f4", held, commands-1, siteName, size, lanGateway)
	var mu sync.Mutex
	direct, told := map[string]bool{}, 0
	var all sync.WaitGroup
	for range commands - 1 {
		cmd := s.command(flags{"attach": policy}, "sh", "-c", script)
		all.Go(func() {
			out, errs, code := finish(t, cmd)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if code != 0 || len(lines) != 4 || lines[0]+"\n" != sitePage || lines[1] != sumOf(lines[2], size) {
				t.Errorf("got %q, exit code %d\n%s", out, code, errs)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if strings.HasPrefix(lines[3], "100.64.") {
				if !strings.Contains(errs, policy) || !strings.Contains(errs, "share") {
					t.Errorf("an address of ours, and nobody says so: %q", errs)
				}
				told++
				return
			}
			direct[lines[3]] = true
		})
	}
	all.Wait()
	if len(direct) != stations-2 || told != commands-stations+1 { // beside the first, and the last place
		t.Errorf("got %d commands with an address of the VPN's and %d behind one, want %d and %d", len(direct), told, stations-2, commands-stations+1)
	}
	sessions := slices.DeleteFunc(w.srv.Sessions(userName), func(s string) bool { return slices.Contains(before, s) })
	if n := w.stationsOf(sessions); len(sessions) != 1 || n != stations {
		t.Errorf("the hub sees %d stations in the sessions %v, want %d in one", n, sessions, stations)
	}
	if t.Failed() || policy != "NoBridge" {
		first.Kill()
		return
	}

	// Beyond the limit still: a server that is published, through another session.
	serve(t, s, flags{"attach": policy})
	natted := start(t, "published", s.command(flags{"attach": policy, "publish": "8080:80"}, insideProgram(t), "serve", ":80"))
	natted.WaitLog(`serving at 100\.64\.`, upTime)
	w.srv.Disconnect(sessions[0])
	eventually(t, recoverTime, "all goes on in another session", func() error {
		out, errs, code := finish(t, s.command(flags{"attach": policy}, "curl", "-sS", "--max-time", "5", "http://"+siteName+"/"))
		if out != sitePage || code != 0 {
			return fmt.Errorf("got %q, exit code %d\n%s", out, code, errs)
		}
		return nil
	})
	if out, err := w.Curl("--max-time", "10", "-d", "x", "http://127.0.0.1:8080/"); out != "inside got 1 bytes" {
		t.Errorf("published: got %q, %v", out, err)
	}
	if _, errs, code := finish(t, s.command(flags{"attach": policy, "mac": "5e:00:53:00:00:09"}, "true")); code == 0 || !strings.Contains(errs, "drop -address and -mac") {
		t.Errorf("an address of one's own choice: got exit code %d, %q", code, errs)
	}
}

// stationsOf counts the addresses of sessions in the hub's table.
func (w *world) stationsOf(sessions []string) (n int) {
	w.t.Helper()
	for _, row := range table(w.t, w.srv.Hub("MacTable"), "ID") {
		if slices.Contains(sessions, row["Session Name"]) {
			n++
		}
	}
	return n
}

// serve starts a server in a command's network.
func serve(t testing.TB, s sharer, f flags) *process {
	p := start(t, "member", s.command(f, insideProgram(t), "serve", ":80"))
	addressOf(p)
	return p
}

// Proves that what ends a shared session for good is said to each command.
func TestRunSharesWhyTheSessionEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newSharer(w)
	out, errs, code := finish(t, s.command(runFlags.with(flags{"share": "office", "pass": "wrong"}), "echo", "started"))
	if code != exitServerRefused || out != "" || strings.Count(errs, "softether-go: log in to") != 1 {
		t.Errorf("got exit code %d with %q, %q, want %d and one line that says so", code, out, errs, exitServerRefused)
	}
}
