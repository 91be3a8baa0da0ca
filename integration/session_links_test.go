//go:build linux

package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sessionGet returns what the server says of the user's only session, by name.
func (w *world) sessionGet() map[string]string {
	w.t.Helper()
	fields := make(map[string]string)
	for line := range strings.Lines(w.srv.Hub("SessionGet " + w.Session())) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ","); ok {
			fields[name] = strings.Trim(value, `"`)
		}
	}
	return fields
}

// waitConnections waits until the server counts so many TCP connections.
func (w *world) waitConnections(n int) {
	w.t.Helper()
	eventually(w.t, 30*time.Second, fmt.Sprintf("the server counts %d connections", n), func() error {
		if got := w.sessionGet()["Number of TCP Connections"]; got != strconv.Itoa(n) {
			return fmt.Errorf("got %q of %v", got, w.sessionGet())
		}
		return nil
	})
}

// Proves what a session of the real server carries in each form it can have, both
// ways, and that the server takes it for that form.
func TestSessionsOfEveryForm(t *testing.T) {
	for _, row := range []struct {
		name        string
		flags       flags
		connections int
		server      map[string]string // what it says of the session
	}{
		{"eight connections", flags{"connections": "8"}, 8, map[string]string{"Half Duplex TCP Connection Mode": "No (Full Duplex Mode)", "Encryption": "Enabled*"}},
		{"half-duplex", flags{"half-duplex": "true"}, 2, map[string]string{"Half Duplex TCP Connection Mode": "Yes (Half Duplex Mode)"}},
		{"half-duplex, six, with one for urgent frames", flags{"half-duplex": "true", "qos": "true", "connections": "6"}, 6,
			map[string]string{"Half Duplex TCP Connection Mode": "Yes (Half Duplex Mode)", "VoIP / QoS Function": "Enabled"}},
		{"urgent frames", flags{"qos": "true"}, 2, map[string]string{"VoIP / QoS Function": "Enabled"}},
		{"compressed", flags{"compress": "true"}, 1, map[string]string{"Use of Compression": "Yes*"}},
		{"in the clear", flags{"insecure-no-encryption": "true"}, 1, map[string]string{"Encryption": "Disabled*"}},
		{"in the clear, compressed, four", flags{"insecure-no-encryption": "true", "compress": "true", "connections": "4"}, 4,
			map[string]string{"Encryption": "Disabled*", "Use of Compression": "Yes*"}},
		{"replaced by age", flags{"connections": "2", "connection-ttl": "5s"}, 2, nil},
		{"half-duplex, replaced by age", flags{"half-duplex": "true", "connection-ttl": "5s"}, 2, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m := w.startMiddlebox()
			c := w.StartClient(usualFlags.with(flags{"port": middleboxPort, "log-level": "debug"}).with(row.flags))
			c.WaitUp()
			before := w.Session()
			w.waitConnections(row.connections)
			d := w.startGated("down", 8<<20)
			w.lan.site.Open(d.name)
			d.Check(60 * time.Second)
			inner := w.dialEcho()
			inner.Check(10 * time.Second)
			got := w.sessionGet()
			for name, want := range row.server {
				if prefix, ok := strings.CutSuffix(want, "*"); got[name] != want && !(ok && strings.HasPrefix(got[name], prefix)) {
					t.Errorf("the server says %s: %q, want %q", name, got[name], want)
				}
			}
			if row.flags["connection-ttl"] != "" {
				seen := m.accepted.Load()
				eventually(t, 60*time.Second, "connections are replaced", func() error {
					if n := m.accepted.Load() - seen; n < 4 {
						return fmt.Errorf("%d new ones", n)
					}
					return nil
				})
				inner.Check(20 * time.Second)
				if log := c.Log(); strings.Contains(log, "joining the session again") {
					t.Error("replacing connections took all of them at once")
				}
			}
			if got := w.Session(); got != before {
				t.Errorf("session %s, want %s still", got, before)
			}
			if t.Failed() {
				t.Logf("the server says %v", got)
			}
		})
	}
}

// Proves that a session outlives its connections, cut all at once again and again
// amid transfers: it is the same on the server, its address is not asked for again,
// and what runs inside is whole.
func TestASessionOutlivesAHundredCuts(t *testing.T) {
	for name, connections := range map[string]int{"one connection": 1, "four": 4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cuts := 100
			if connections > 1 {
				cuts = 20
			}
			w := newWorld(t)
			m := w.startMiddlebox()
			c := w.StartClient(usualFlags.with(flags{"port": middleboxPort, "connections": strconv.Itoa(connections), "log-level": "debug"}))
			c.WaitUp()
			before := w.Session()
			w.waitConnections(connections)
			inner := w.dialEcho()
			inner.Check(10 * time.Second)
			d := w.startGated("under-fire", 128<<20)
			m.Throttle(4 << 20)
			w.lan.site.Open(d.name)
			lost := 0
			for range cuts {
				carried, arrived := m.carried.Load(), d.got.Load()
				eventually(t, 60*time.Second, "frames flow", func() error {
					if sent, got := m.carried.Load()-carried, d.got.Load()-arrived; sent < 300<<10 || got == 0 {
						return fmt.Errorf("%d bytes, of which %d have arrived inside", sent, got)
					}
					return nil
				})
				lost += m.Cut()
			}
			if lost < cuts {
				t.Errorf("%d connections were cut in %d cuts", lost, cuts)
			}
			m.Throttle(0)
			inner.Check(recoverTime)
			d.Check(recoverTime)
			if got := w.Session(); got != before {
				t.Errorf("session %s, want %s still", got, before)
			}
			log := c.Log()
			for what, want := range map[string]int{"session established": 1, "lease acquired": 1} {
				if got := strings.Count(log, what); got != want {
					t.Errorf("%s %d times, want %d", what, got, want)
				}
			}
			t.Logf("%d connections cut, the session joined again %d times", lost, strings.Count(log, "session joined again"))
			if got := strings.Count(log, "session joined again"); got < cuts/2 {
				t.Errorf("joined again %d times in %d cuts", got, cuts)
			}
		})
	}
}
