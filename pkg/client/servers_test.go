package client

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

// to makes a Client go to servers, of which some are dead, and notes to which it goes.
func to(dialed *[]string, dead string, servers ...Server) func(*Config) {
	return func(c *Config) {
		c.Servers = func(context.Context) []Server { return servers }
		alive := c.Session.DialContext
		c.Session.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			*dialed = append(*dialed, address)
			if strings.Contains(dead, address) {
				return nil, errors.New("nobody there")
			}
			return alive(ctx, network, address)
		}
	}
}

func TestTheNextServerIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialed []string
		w := newWorld(t, to(&dialed, "a:443 b:992", Server{Host: "a"}, Server{"b", 992}, Server{"c", 5555}, Server{"d", 1}),
			func(_ int, p *sessiontest.Peer) { talk(p, 0) })
		w.run(time.Second)
		w.wantTrail("Dialing Configuring Up Stopped")
		if want := []string{"a:443", "b:992", "c:5555"}; !slices.Equal(dialed, want) {
			t.Errorf("dialed %v, want %v", dialed, want)
		}
	})
}

func TestEveryAttemptBeginsWithTheFirstServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialed []string
		w := newWorld(t, to(&dialed, "a:443 b:443", Server{Host: "a"}, Server{Host: "b"}), nil)
		w.run(8 * time.Second) // the first wait is at most 5 s, the second at least 5
		w.wantTrail("Dialing Waiting Dialing Waiting Stopped")
		if want := []string{"a:443", "b:443", "a:443", "b:443"}; !slices.Equal(dialed, want) {
			t.Errorf("dialed %v, want %v", dialed, want)
		}
	})
}

// A server that refuses for good knows the user: another would only lock the account.
func TestARefusalForGoodIsNotTakenElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialed []string
		w := newWorld(t, to(&dialed, "", Server{Host: "a"}, Server{Host: "b"}),
			func(_ int, p *sessiontest.Peer) { p.Greet(); p.Reply(wire.Refusal(wire.CodeAuthFailed)) })
		if err := w.run(time.Hour); !errors.Is(err, wire.CodeAuthFailed) || len(dialed) != 1 {
			t.Errorf("%v after %v", err, dialed)
		}
	})
}

func TestABusyServerLeavesOthersToTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialed []string
		w := newWorld(t, to(&dialed, "", Server{Host: "a"}, Server{Host: "b"}), func(n int, p *sessiontest.Peer) {
			if n == 1 {
				p.Greet()
				p.Reply(wire.Refusal(wire.CodeHubBusy))
				return
			}
			talk(p, 0)
		})
		w.run(time.Second)
		w.wantTrail("Dialing Configuring Up Stopped")
	})
}

func TestAChangedNetworkEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hurry := make(chan struct{}, 1)
		w := newWorld(t, func(c *Config) { c.Hurry, c.ReconnectDelay = hurry, time.Hour }, func(n int, p *sessiontest.Peer) {
			if n == 1 {
				p.Greet() // and gone
				return
			}
			talk(p, 0)
		})
		go func() {
			time.Sleep(10 * time.Second)
			hurry <- struct{}{}
		}()
		w.run(time.Minute)
		w.wantTrail("Dialing Waiting Dialing Configuring Up Stopped")
		if w.dials[1] != 10*time.Second {
			t.Errorf("dialed again after %v, want 10s", w.dials[1])
		}
	})
}

// What changed before a session came up has brought it up, and says nothing later.
func TestAnOldChangeEndsNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hurry := make(chan struct{}, 1)
		hurry <- struct{}{}
		w := newWorld(t, func(c *Config) { c.Hurry, c.ReconnectDelay = hurry, time.Hour },
			func(_ int, p *sessiontest.Peer) { talk(p, time.Second) })
		w.run(10 * time.Minute) // less than the shortest wait after so short a session
		w.wantTrail("Dialing Configuring Up Waiting Stopped")
	})
}
