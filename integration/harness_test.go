//go:build linux

package integration

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// The official client in our place must get through, or no failure of ours
// means anything.
func TestHarnessCarriesTheOfficialClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.startMiddlebox()
	o := startOfficial(t, w.cli)
	o.Connect(serverAddress+":"+middleboxPort, hubName, userPassword, officialAddress)
	fetch := func() error {
		page, err := w.Curl("--max-time", "2", "http://"+lanGateway+"/")
		if err == nil && page != sitePage {
			t.Fatalf("got page %q, want %q", page, sitePage)
		}
		return err
	}
	eventually(t, 20*time.Second, "a page through the official client", fetch)
	if m.accepted.Load() == 0 || m.carried.Load() == 0 {
		t.Errorf("middlebox: got %d connections and %d bytes, want some", m.accepted.Load(), m.carried.Load())
	}
	before := w.Session()

	m.Stall()
	if err := fetch(); err == nil {
		t.Error("a page came through a stalled middlebox")
	}
	m.Unstall()
	eventually(t, 20*time.Second, "a page after the stall", fetch)
	if got := w.Session(); got != before {
		t.Errorf("a short stall changed the session: got %s, want %s", got, before)
	}

	// How fast it recovers from a cut is its own affair: against this server it
	// may take until the old session has timed out.
	accepted := m.accepted.Load()
	if m.Cut() == 0 {
		t.Error("nothing to cut")
	}
	eventually(t, 20*time.Second, "the client dials again after a cut", func() error {
		if m.accepted.Load() == accepted {
			return errors.New("no new connection")
		}
		return nil
	})
}

// A TAP that came back with the hub is plugged in again, and a state that was
// flushed outlives the server's death.
func TestHarnessServerKeepsItsState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pin := w.srv.Pin()
	w.srv.Kill()
	if _, err := w.srv.certificate(); err == nil {
		t.Fatal("a killed server answers")
	}
	w.srv.Start()
	w.lan.Attach()
	if got := w.srv.Pin(); got != pin {
		t.Errorf("certificate after the restart: got %s, want %s", got, pin)
	}
	if out := w.srv.Hub("UserList"); !strings.Contains(out, guestName) {
		t.Errorf("users after the restart: got %s, want %s among them", out, guestName)
	}
	w.srv.HubOffline()
	w.srv.HubOnline()
	w.lan.Attach()
}
