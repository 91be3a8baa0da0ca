package hub_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/wire"
)

// inVirtualTime runs f with a hub in memory whose time-out is 20 s.
func inVirtualTime(t *testing.T, c hub.Config, f func(*testing.T, *hubtest.Hub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := hubtest.StartInMemory(t, c)
		f(t, h)
	})
}

// patient lifts the client's own deadline.
func (c *client) patient() *client {
	c.raw.SetDeadline(time.Time{})
	return c
}

// beat sends a keep-alive.
func (c *client) beat() {
	c.t.Helper()
	if _, err := c.tls.Write(wire.AppendKeepAlive(nil, nil)); err != nil {
		c.t.Errorf("keep-alive: %v", err)
	}
}

func TestASilentClientIsCutAfterTheTimeOut(t *testing.T) {
	inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
		c := enter(t, h).patient()
		start := time.Now()
		err := c.end()
		if took := time.Since(start); err != io.EOF || !c.noticed() || took != 20*time.Second {
			t.Errorf("ended after %v with %v, want after 20 s in good order", took, err)
		}
	})
}

func TestOnlyWholeUnitsAreLife(t *testing.T) {
	inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
		c := enter(t, h).patient()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			long := wire.AppendKeepAlive(nil, make([]byte, 500))
			for i := range long {
				if _, err := c.tls.Write(long[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		start := time.Now()
		err := c.end()
		if took := time.Since(start); err != io.EOF || !c.noticed() || took != 20*time.Second {
			t.Errorf("ended after %v with %v, want after 20 s", took, err)
		}
	})
}

func TestTheHubKeepsAQuietSessionAlive(t *testing.T) {
	inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
		c := enter(t, h).patient()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for range 60 {
				c.beat()
				time.Sleep(10 * time.Second)
			}
			c.tls.Close()
		})
		var longest time.Duration
		last := time.Now()
		for {
			_, alive, err := c.parser.Next(c.in)
			if err != nil {
				break
			}
			if alive {
				longest = max(longest, time.Since(last))
				last = time.Now()
			}
		}
		if n := c.parser.Stats().KeepAlives; n < 100 || longest > 10*time.Second {
			t.Errorf("%d keep-alives in 10 min, at most %v apart", n, longest)
		}
	})
}

func TestAClientMayJoinItsSessionAgain(t *testing.T) {
	for _, row := range []struct {
		name  string
		after time.Duration
		want  error
	}{
		{"at once", 0, nil},
		{"within the time-out", 19 * time.Second, nil},
		{"after the time-out", 21 * time.Second, wire.CodeSessionTimeout},
	} {
		t.Run(row.name, func(t *testing.T) {
			inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
				c := enter(t, h)
				c.send(say(station(1), broadcast, "here I am"))
				c.raw.Close()
				h.WaitSessions(t, 0)
				time.Sleep(row.after)
				again := greet(t, h)
				if err := again.join(c.welcome.SessionKey); !errors.Is(err, row.want) {
					t.Fatalf("got %v, want %v", err, row.want)
				}
				if row.want != nil {
					if n := len(h.Sessions()); n != 0 {
						t.Errorf("%d sessions are left", n)
					}
					return
				}
				other := enter(t, h)
				other.send(say(station(2), station(1), "still there?"))
				if got := texts(again.receive(1)); !cmp.Equal(got, []string{"still there?"}) {
					t.Errorf("got %q", got)
				}
				if n := len(h.Sessions()); n != 2 {
					t.Errorf("%d sessions, want 2", n)
				}
			})
		})
	}
}

func TestFramesWaitForAGhost(t *testing.T) {
	inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
		a, b := enter(t, h), enter(t, h)
		a.send(say(station(1), broadcast, "here I am"))
		b.receive(1)
		a.raw.Close()
		h.WaitSessions(t, 1)
		b.send(say(station(2), station(1), "for later"))
		synctest.Wait()
		again := greet(t, h)
		if err := again.join(a.welcome.SessionKey); err != nil {
			t.Fatal(err)
		}
		if got := texts(again.receive(1)); !cmp.Equal(got, []string{"for later"}) {
			t.Errorf("got %q", got)
		}
	})
}

func TestSeveralConnectionsCarryOneSession(t *testing.T) {
	h := hubtest.Start(t, bob)
	first, other := enter(t, h), enter(t, h)
	second, third, fourth := greet(t, h), greet(t, h), greet(t, h)
	for _, c := range []*client{second, third} { // two granted, and one too many let in
		if err := c.join(first.welcome.SessionKey); err != nil {
			t.Fatal(err)
		}
	}
	if err := fourth.join(first.welcome.SessionKey); !errors.Is(err, wire.CodeTooManyConns) {
		t.Errorf("one more: got %v", err)
	}
	first.send(say(station(1), broadcast, "from the first"))
	other.receive(1)
	second.send(say(station(1), broadcast, "from the second"))
	if got := texts(other.receive(1)); !cmp.Equal(got, []string{"from the second"}) {
		t.Errorf("got %q", got)
	}
	// With two of them gone the rest goes by the third.
	first.raw.Close()
	second.tls.Close()
	second.raw.Close()
	for changed := h.Changed(); h.Sessions()[0].Connections > 1; changed = h.Changed() {
		<-changed
	}
	other.send(say(station(2), station(1), "to whom it concerns"))
	if got := texts(third.receive(1)); !cmp.Equal(got, []string{"to whom it concerns"}) {
		t.Errorf("got %q", got)
	}
}

func TestKeysThatOpenNothing(t *testing.T) {
	h := hubtest.Start(t, bob)
	enter(t, h)
	for name, key := range map[string][]byte{
		"none": nil, "short": make([]byte, 19), "long": make([]byte, 21), "zeros": make([]byte, 20),
	} {
		if err := greet(t, h).join(key); !errors.Is(err, wire.CodeSessionTimeout) {
			t.Errorf("key %s: got %v", name, err)
		}
	}
}

func TestKickingEndsASessionForGood(t *testing.T) {
	for _, row := range []struct {
		name string
		kick func(*hubtest.Hub, string) bool
	}{
		{"by name", func(h *hubtest.Hub, name string) bool { return h.Kick(name) }},
		{"all", func(h *hubtest.Hub, _ string) bool { return h.KickAll() == 1 }},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := hubtest.Start(t, bob)
			c := enter(t, h)
			if h.Kick("SID-NOBODY-1") {
				t.Error("somebody else was kicked")
			}
			if !row.kick(h, c.welcome.SessionName) {
				t.Error("nobody was kicked")
			}
			if err := c.end(); err != io.EOF || !c.noticed() {
				t.Errorf("ended with %v, noticed: %v; want in good order", err, c.noticed())
			}
			if err := greet(t, h).join(c.welcome.SessionKey); !errors.Is(err, wire.CodeSessionTimeout) {
				t.Errorf("joining again: got %v", err)
			}
		})
	}
}

func TestKickingAGhost(t *testing.T) {
	inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
		c := enter(t, h)
		c.raw.Close()
		h.WaitSessions(t, 0)
		if got := h.Sessions(); len(got) != 1 || got[0].Connections != 0 || got[0].Peer != nil {
			t.Errorf("sessions: %+v, want a ghost", got)
		}
		if h.KickAll() != 1 || len(h.Sessions()) != 0 {
			t.Error("the ghost stayed")
		}
		synctest.Wait()
		if n := h.Stats().Connections; n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// TestASlowReaderStallsNobody sends more to a client that does not read than all
// buffers on the way can hold, while another's talk goes on.
func TestASlowReaderStallsNobody(t *testing.T) {
	h := hubtest.Start(t, bob)
	slow, talker, quick := enter(t, h), enter(t, h), enter(t, h)
	slow.send(say(station(1), broadcast, "slow"))
	quick.receive(1)
	quick.send(say(station(3), broadcast, "quick"))
	talker.receive(2)

	full := say(station(2), station(1), string(make([]byte, 1486)))
	batch := bytes.Split(bytes.Repeat(append(full, "|"...), 40), []byte("|"))[:40]
	for i := 0; dropped(h) == 0; i++ {
		talker.send(batch...)
		ping := fmt.Sprint("ping ", i)
		talker.send(say(station(2), station(3), ping))
		if got := texts(quick.receive(1)); !cmp.Equal(got, []string{ping}) {
			t.Fatalf("got %q", got)
		}
	}
}

func dropped(h *hubtest.Hub) (n uint64) {
	for _, s := range h.Sessions() {
		n += s.Stats.DroppedFull
	}
	return n
}

// TestAPeerThatNeverReadsIsGivenUp shows that a full connection does not keep a
// session for ever.
func TestAPeerThatNeverReadsIsGivenUp(t *testing.T) {
	inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
		deaf, talker := enter(t, h).patient(), enter(t, h).patient()
		deaf.send(say(station(1), broadcast, "here"))
		talker.receive(1)
		full := say(station(2), station(1), string(make([]byte, 1486)))
		for range 3 << 20 / len(full) {
			talker.send(full)
		}
		for range 11 { // it speaks all the same
			deaf.tls.Write(wire.AppendKeepAlive(nil, nil))
			talker.beat()
			time.Sleep(2 * time.Second)
		}
		if got := h.WaitSessions(t, 1); got[0].Name != talker.welcome.SessionName {
			t.Errorf("%s is left, not the talker", got[0].Name)
		}
	})
}

// TestManyClientsComeAndGo is for the race detector and the leak check.
func TestManyClientsComeAndGo(t *testing.T) {
	h := hubtest.Start(t, bob)
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			for range 4 {
				c := enter(t, h)
				c.send(say(station(n), broadcast, "hello"))
				c.raw.Close()
			}
		})
	}
	wg.Wait()
	h.KickAll()
	h.WaitSessions(t, 0)
}
