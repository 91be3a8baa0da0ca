//go:build linux

package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"
)

// recoverTime is how long a client may take to carry traffic after a fault is
// mended: the server's timeout of 20 s, its own delays, and TCP's inside.
const recoverTime = 90 * time.Second

// A fault breaks a world in which a client runs, proves it, and mends what the
// client cannot.
type fault struct {
	name string
	// after says whether the client must have logged in anew.
	after outcome
	do    func(t *testing.T, w *world, m *middlebox)
}

// upAgain is what a client prints that carries again: in a new session, or in the same
// one by another connection.
const upAgain = "tunnel up|session joined again"

// An outcome is what becomes of the session in a fault.
type outcome int

const (
	sameSession   outcome = iota // it goes on, perhaps by another connection
	newSession                   // the client logs in again
	eitherSession                // it is a race whose session's time-out ends first
)

var faults = []fault{
	{"server stopped and started", newSession, func(_ *testing.T, w *world, _ *middlebox) {
		w.srv.Stop()
		w.srv.Start()
		w.lan.Attach()
	}},
	{"server killed and started", newSession, func(_ *testing.T, w *world, _ *middlebox) {
		w.srv.Kill()
		w.srv.Start()
		w.lan.Attach()
	}},
	{"hub offline and online", newSession, func(t *testing.T, w *world, _ *middlebox) {
		w.srv.HubOffline()
		eventually(t, 10*time.Second, "no session is left", func() error {
			if s := w.srv.Sessions(userName); len(s) != 0 {
				return fmt.Errorf("sessions %v", s)
			}
			return nil
		})
		w.srv.HubOnline()
		w.lan.Attach()
	}},
	{"session disconnected by the administrator", newSession, func(_ *testing.T, w *world, _ *middlebox) {
		w.srv.Disconnect(w.Session())
	}},
	{"connection reset", sameSession, func(t *testing.T, _ *world, m *middlebox) {
		if m.Cut() == 0 {
			t.Fatal("there was nothing to reset")
		}
	}},
	{"connection ended without TLS's goodbye", eitherSession, func(t *testing.T, _ *world, m *middlebox) {
		if m.Finish() == 0 {
			t.Fatal("there was nothing to end")
		}
	}},
	{"short stall", sameSession, func(t *testing.T, _ *world, m *middlebox) {
		m.Stall()
		m.mustHold(t)
		time.Sleep(4 * time.Second) // shorter than any timeout of the session
		m.Unstall()
	}},
	{"stall until the client gives up", eitherSession, func(t *testing.T, _ *world, m *middlebox) {
		before := m.accepted.Load()
		m.Stall()
		m.mustHold(t)
		eventually(t, 60*time.Second, "the client dials again", func() error {
			if m.accepted.Load() == before {
				return fmt.Errorf("no new connection")
			}
			return nil
		})
		m.Unstall()
	}},
	{"path refused for a while", sameSession, func(t *testing.T, _ *world, m *middlebox) {
		before := m.accepted.Load()
		m.Refuse(true)
		m.Cut()
		eventually(t, 30*time.Second, "two refused attempts", func() error {
			if got := m.accepted.Load() - before; got < 2 {
				return fmt.Errorf("%d attempts", got)
			}
			return nil
		})
		m.Refuse(false)
	}},
}

// mustHold waits until bytes really wait in the stalled middlebox.
func (m *middlebox) mustHold(t *testing.T) {
	t.Helper()
	before := m.held.Load()
	eventually(t, 30*time.Second, "the middlebox holds bytes back", func() error {
		if m.held.Load() == before {
			return fmt.Errorf("none yet")
		}
		return nil
	})
}

// Proves that each of these is survived without help, and by what runs inside the
// tunnel too: an open connection goes on, a download ends with the right sum.
func TestFaultsAreSurvived(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m := w.startMiddlebox()
			c := w.StartClient(usualFlags.with(flags{"port": middleboxPort, "reconnect-max-delay": "2s"}))
			c.WaitUp()
			before := w.Session()
			inner := w.dialEcho()
			inner.Check(5 * time.Second)
			d := w.startGated("slow", 8<<20)

			seen := len(c.Log())
			f.do(t, w, m)
			w.lan.site.Open(d.name) // what follows is sent into the broken tunnel, if it still is

			if f.after == newSession {
				c.WaitLogAfter(seen, "tunnel up", recoverTime)
			}
			inner.Check(recoverTime)
			d.Check(recoverTime)
			c.WaitUp()
			checkSession(t, w, before, f.after)
		})
	}
}

// checkSession waits for ghosts to go and compares who is left.
func checkSession(t *testing.T, w *world, before string, want outcome) {
	t.Helper()
	if want == sameSession {
		if got := w.Session(); got != before {
			t.Errorf("session: got %s, want %s still", got, before)
		}
		return
	}
	eventually(t, 40*time.Second, "one session, none left behind", func() error {
		if s := w.srv.Sessions(userName); len(s) != 1 {
			return fmt.Errorf("sessions %v", s)
		}
		return nil
	})
}

// A download runs in the background and stands still half-way until its gate opens.
type download struct {
	t    testing.TB
	name string
	size int64
	hash hash.Hash
	got  atomic.Int64
	done chan error // one value
}

// Write takes what curl prints.
func (d *download) Write(p []byte) (int, error) {
	d.got.Add(int64(len(p)))
	return d.hash.Write(p)
}

// startGated begins a download and waits until it stands still at its gate.
func (w *world) startGated(name string, size int64) *download {
	w.t.Helper()
	return w.watch(name, size, w.cli.Command("curl", "--silent", "--show-error", "--fail", "--no-buffer", "--proxy", w.proxy,
		fmt.Sprintf("http://%s/gated/%s/%d", w.siteAddress(), name, size)))
}

// watch is startGated by a program that prints what it downloads.
func (w *world) watch(name string, size int64, cmd *exec.Cmd) *download {
	w.t.Helper()
	d := &download{t: w.t, name: name, size: size, hash: sha256.New(), done: make(chan error, 1)}
	cmd.Stdout = d
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cmd.Process.Kill() })
	go func() { d.done <- cmd.Wait() }()
	eventually(w.t, 30*time.Second, "the download is half done", func() error {
		if got := d.got.Load(); got != size/2 {
			return fmt.Errorf("%d bytes of %d", got, size/2)
		}
		return nil
	})
	return d
}

// Check waits for the end of the download and compares its sum.
func (d *download) Check(within time.Duration) {
	d.t.Helper()
	select {
	case err := <-d.done:
		got := hex.EncodeToString(d.hash.Sum(nil))
		if want := sumOf(d.name, d.size); err != nil || got != want {
			d.t.Errorf("download %s: got %d bytes, sum %s, %v, want %d, %s", d.name, d.got.Load(), got, err, d.size, want)
		}
	case <-time.After(within):
		d.t.Errorf("download %s has not ended within %v", d.name, within)
	}
}
