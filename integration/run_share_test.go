//go:build linux

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

	first := start(t, "first", s.command(share, insideProgram(t), "serve", ":80"))
	own := addressOf(first)
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

// Proves that a policy which limits the stations of a session is said, and that a
// session of its own is still to be had.
func TestRunsShareNoMoreThanThePolicyAllows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.srv.Policy(userName, "NoBridge", "yes")
	s := newSharer(w)
	share, attach := runFlags.with(flags{"share": "office"}), flags{"attach": "office"}
	serve := func(f flags) *process {
		p := start(t, "member", s.command(f, insideProgram(t), "serve", ":80"))
		addressOf(p)
		return p
	}
	serve(share)
	serve(attach)
	third := serve(attach)
	out, errs, code := finish(t, s.command(attach, "echo", "started"))
	if code != 1 || out != "" || !strings.Contains(errs, "NoBridge") || !strings.Contains(errs, "3 stations") {
		t.Errorf("a fourth: got exit code %d, %q, %q", code, out, errs)
	}
	// The place of one that ended is free, though the hub remembers its address.
	third.Kill()
	eventually(t, upTime, "another in its place", func() error {
		out, errs, code := finish(t, s.command(attach, "curl", "-sS", "--max-time", "5", "http://"+siteName+"/"))
		if out != sitePage || code != 0 {
			return fmt.Errorf("got %q, exit code %d\n%s", out, code, errs)
		}
		return nil
	})
	if out, errs, code := w.Run(t, runFlags, "curl", "-sS", "--max-time", "10", "http://"+siteName+"/"); out != sitePage || code != 0 {
		t.Errorf("a session of its own: got %q, exit code %d\n%s", out, code, errs)
	}
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
