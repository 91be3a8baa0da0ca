package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/addresses"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/session"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

var static = netcfg.Config{Address: netip.MustParsePrefix("10.0.0.5/24")}

// world is a Client with everything around it under control.
type world struct {
	t        testing.TB
	endpoint frametest.Pipe
	client   *Client
	begun    time.Time

	mu      sync.Mutex // guards the fields below
	trail   []string
	dials   []time.Duration // since begun
	applied []netip.Prefix
	refuse  error // what Apply returns
}

func (w *world) Apply(_ context.Context, c netcfg.Config) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.applied = append(w.applied, c.Address)
	return w.refuse
}

// newWorld makes a Client of a server that plays script(n) on the nth login, and knows
// of no session that a connection would join.
func newWorld(t testing.TB, change func(*Config), script func(n int, p *sessiontest.Peer)) *world {
	w := &world{t: t, begun: time.Now()}
	n := 0
	cert := sessiontest.Certificate(t, nil)
	dialer := sessiontest.Dialer(t, cert, func(p *sessiontest.Peer) {
		w.mu.Lock()
		n++
		mine := n
		w.mu.Unlock()
		script(mine, p)
	})
	forgetful := sessiontest.Dialer(t, cert, func(p *sessiontest.Peer) { p.Accept() })
	cfg := Config{
		Session: session.Config{
			Host: "vpn.test", Hub: "H", User: "u", Trust: session.Trust{Insecure: true},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if w.client.State() != Dialing {
					return forgetful(ctx, network, address)
				}
				w.mu.Lock()
				w.dials = append(w.dials, time.Since(w.begun))
				w.mu.Unlock()
				return dialer(ctx, network, address)
			},
		},
		Endpoint: &w.endpoint, Configurer: w, Config: addresses.Config{Static: static},
		OnState: func(s State) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.trail = append(w.trail, s.String())
		},
	}
	if change != nil {
		change(&cfg)
	}
	w.client = New(cfg)
	return w
}

// run leads the client's life until d has passed, and then stops it.
func (w *world) run(d time.Duration) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	return w.client.Run(ctx)
}

// talk keeps a session alive for d, for ever if 0, reading all along.
func talk(p *sessiontest.Peer, d time.Duration) {
	p.Accept()
	chat(p, d)
}

// chat is what follows a welcome.
func chat(p *sessiontest.Peer, d time.Duration) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		p.Discard()
	}()
	var end <-chan time.Time
	if d > 0 {
		end = time.After(d)
	}
	for {
		select {
		case <-gone:
			return
		case <-end:
			p.Raw.Close()
			<-gone
			return
		case <-time.After(5 * time.Second):
			if _, err := p.Write(wire.AppendKeepAlive(nil, nil)); err != nil {
				<-gone
				return
			}
		}
	}
}

func (w *world) wantTrail(want string) {
	w.t.Helper()
	if got := strings.Join(w.trail, " "); got != want {
		w.t.Errorf("states: got %s\nwant %s", got, want)
	}
}

func TestALifeWithoutTroubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil, func(_ int, p *sessiontest.Peer) { talk(p, 0) })
		if err := w.run(time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run: %v", err)
		}
		w.wantTrail("Dialing Configuring Up Stopped")
		if want := []netip.Prefix{static.Address, {}}; !slices.Equal(w.applied, want) {
			t.Errorf("applied %v, want %v: ours, and at the end nothing", w.applied, want)
		}
		if w.client.State() != Stopped {
			t.Errorf("state %v", w.client.State())
		}
	})
}

func TestALostSessionComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil, func(n int, p *sessiontest.Peer) {
			if n <= 3 {
				talk(p, time.Hour)
			} else {
				talk(p, 0)
			}
		})
		w.run(4 * time.Hour)
		w.wantTrail(strings.Repeat("Dialing Configuring Up Waiting ", 3) + "Dialing Configuring Up Stopped")
		if want := []netip.Prefix{static.Address, static.Address, static.Address, static.Address, {}}; !slices.Equal(w.applied, want) {
			t.Errorf("applied %v: the address must stay over a reconnect, and be announced again", w.applied)
		}
		for i := 1; i < len(w.dials); i++ {
			if gap := w.dials[i] - w.dials[i-1] - time.Hour; gap < 0 || gap > promptly {
				t.Errorf("dialed again %v after the loss of a stable session, want at most %v", gap, promptly)
			}
		}
	})
}

func TestFramesOfTheEndpointReachEverySession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := frametest.Frame(net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}, frame.TypeIPv4, []byte("hello"))
		batch, _ := wire.AppendBatch(nil, [][]byte{f})
		var mu sync.Mutex
		heard := map[int]int{}
		w := newWorld(t, nil, func(n int, p *sessiontest.Peer) {
			p.Accept()
			p.Write(batch)
			parser := wire.NewParser(nil)
			for got := 0; got < 1; {
				frames, _, err := parser.Next(p)
				if err != nil {
					return
				}
				got += len(frames)
				mu.Lock()
				heard[n] += len(frames)
				mu.Unlock()
			}
			if n == 1 {
				return // cut
			}
			p.Discard()
		})
		go func() {
			w.endpoint.Send(f)
			time.Sleep(15 * time.Second)
			w.endpoint.Send(f)
		}()
		w.run(19 * time.Second)
		if heard[1] != 1 || heard[2] != 1 {
			t.Errorf("frames heard by session: %v, want one each", heard)
		}
		if got := len(w.endpoint.Received(t.Context(), 2)); got != 2 {
			t.Errorf("the endpoint got %d frames, want one of each session", got)
		}
	})
}

func TestDelaysGrowAndAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.ReconnectDelay, c.ReconnectMax = 4*time.Second, 30*time.Second },
			func(_ int, p *sessiontest.Peer) { p.Greet(); p.Reply(wire.Refusal(wire.CodeSessionTimeout)) })
		w.run(10 * time.Minute)
		for i, full := range []time.Duration{4, 8, 16, 30, 30, 30, 30} {
			full *= time.Second
			if gap := w.dials[i+1] - w.dials[i]; gap < full/2 || gap > full {
				t.Errorf("wait %d was %v, want %v to %v", i+1, gap, full/2, full)
			}
		}
	})
}

func TestABusyServerIsGivenTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil, func(_ int, p *sessiontest.Peer) { p.Greet(); p.Reply(wire.Refusal(wire.CodeHubStopping)) })
		w.run(time.Minute)
		if gap := w.dials[1] - w.dials[0]; gap < 10*time.Second || gap > 20*time.Second {
			t.Errorf("came back after %v, want 10s to 20s", gap)
		}
	})
}

func TestWhatNoRetryMendsEndsIt(t *testing.T) {
	for name, code := range map[string]wire.Code{"password": wire.CodeAuthFailed, "hub": wire.CodeHubNotFound, "access": wire.CodeAccessDenied} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil, func(_ int, p *sessiontest.Peer) { p.Greet(); p.Reply(wire.Refusal(code)) })
				if err := w.run(time.Hour); !errors.Is(err, code) {
					t.Errorf("Run: %v, want %v", err, code)
				}
				w.wantTrail("Dialing Stopped")
				if len(w.dials) != 1 {
					t.Errorf("%d attempts with wrong credentials can lock an account", len(w.dials))
				}
			})
		})
	}
}

func TestWhoWasLetInBeforeComesBackSlowly(t *testing.T) {
	for name, auth := range map[string]wire.AuthType{"by a plain password": wire.PlainPassword, "by a password of the server's own": wire.HashedPass} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const refusals = 6
				var logins []time.Time
				w := newWorld(t, func(c *Config) { c.Session.Auth = auth }, func(_ int, p *sessiontest.Peer) {
					if p.Greet().Str("method") == wire.MethodAdditional {
						p.Reply(wire.Refusal(wire.CodeSessionTimeout))
						return
					}
					logins = append(logins, time.Now())
					switch n := len(logins); {
					case n == 1:
						p.Reply(sessiontest.Welcome().Pack())
						chat(p, time.Minute)
					case n <= 1+refusals:
						p.Reply(wire.Refusal(wire.CodeAuthFailed))
					default:
						p.Reply(sessiontest.Welcome().Pack())
						chat(p, 0)
					}
				})
				err := w.run(2 * time.Hour)
				if auth == wire.HashedPass {
					if !errors.Is(err, wire.CodeAuthFailed) || len(logins) != 2 {
						t.Errorf("after %d attempts: %v", len(logins), err)
					}
					return
				}
				if len(logins) != refusals+2 {
					t.Fatalf("%d attempts, and %v", len(logins), err)
				}
				for i := 2; i < len(logins); i++ {
					if gap := logins[i].Sub(logins[i-1]); gap < unsureDelay/2 || gap > unsureDelay {
						t.Errorf("attempt %d came %v after the one before", i, gap)
					}
				}
				w.wantTrail("Dialing Configuring Up " + strings.Repeat("Waiting Dialing ", refusals+1) + "Configuring Up Stopped")
			})
		})
	}
}

func TestAnEndpointThatFailsEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil, func(_ int, p *sessiontest.Peer) { talk(p, 0) })
		go func() {
			time.Sleep(time.Minute)
			w.endpoint.Close()
		}()
		if err := w.run(time.Hour); !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "local end") {
			t.Errorf("Run: %v", err)
		}
		w.wantTrail("Dialing Configuring Up Stopped")
	})
}

func TestAnAddressThatCannotBeAppliedEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil, func(_ int, p *sessiontest.Peer) { talk(p, 0) })
		w.refuse = errors.New("no such device")
		if err := w.run(time.Hour); !errors.Is(err, w.refuse) || !strings.Contains(err.Error(), "10.0.0.5/24") {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestAStopIsPromptInEveryState(t *testing.T) {
	for _, row := range []struct {
		name   string
		after  time.Duration
		script func(int, *sessiontest.Peer)
		trail  string
	}{
		{"dialing", 2 * time.Second, func(_ int, p *sessiontest.Peer) { p.Discard() }, "Dialing Stopped"},
		{"configuring", 2 * time.Second, func(_ int, p *sessiontest.Peer) { talk(p, 0) }, "Dialing Configuring Stopped"},
		{"waiting", time.Second, func(_ int, p *sessiontest.Peer) { p.Greet() }, "Dialing Waiting Stopped"},
		{"up, server takes nothing", 2 * time.Second, func(_ int, p *sessiontest.Peer) { p.Accept(); time.Sleep(10 * time.Second) }, "Dialing Configuring Up Stopped"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(c *Config) {
					if row.name == "configuring" {
						c.DHCP = &dhcp.Config{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
					}
				}, row.script)
				big := frametest.Frame(net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}, frame.TypeIPv4, make([]byte, 1400))
				w.endpoint.Send(slices.Repeat([][]byte{big}, 100)...)
				if err := w.run(row.after); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Run: %v", err)
				}
				if late := time.Since(w.begun) - row.after; late > stopGrace+2*time.Second {
					t.Errorf("stopped %v late", late)
				}
				w.wantTrail(row.trail)
			})
		})
	}
}

func TestAHubWithoutDHCPIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		w := newWorld(t, func(c *Config) {
			c.DHCP = &dhcp.Config{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
			c.Log = logTo(&log)
		}, func(_ int, p *sessiontest.Peer) { talk(p, 0) })
		w.run(leaseTimeout + time.Second)
		w.wantTrail("Dialing Configuring Waiting Stopped")
		for _, want := range []string{"-no-dhcp", "no DHCP server answered", "still waiting"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log does not say %q:\n%s", want, log.String())
			}
		}
	})
}

func TestHoursOfFlappingLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil, func(n int, p *sessiontest.Peer) {
			switch n % 4 {
			case 0:
				talk(p, time.Minute)
			case 1:
				p.Accept() // and gone
			case 2:
				p.Accept()
				p.Discard() // silent
			case 3:
				p.Greet()
				p.Reply(wire.Refusal(wire.CodeHubBusy))
			}
		})
		w.run(6 * time.Hour)
		if len(w.dials) < 250 {
			t.Errorf("only %d attempts in six hours", len(w.dials))
		}
		// A goroutine left behind would keep the bubble from ending.
	})
}
