package session

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/pack"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

var stationA, stationB = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}, net.HardwareAddr{2, 0, 0, 0, 0, 0xb}

// lan is an embedded hub in memory with a station behind it that keeps what it hears.
type lan struct {
	t       testing.TB
	hub     *hubtest.Hub
	station frametest.Pipe

	mu    sync.Mutex // guards conns
	conns []net.Conn // of the session's, in order
}

// newLAN starts one in a bubble of virtual time.
func newLAN(t *testing.T, c hub.Config) *lan {
	c.Users = []hub.User{{Name: "bob", Password: "secret"}}
	l := &lan{t: t, hub: hubtest.StartInMemory(t, c)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.hub.Plug(ctx, &l.station)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return l
}

func (l *lan) config() Config {
	return Config{Host: "hub.demo", Hub: "DEFAULT", User: "bob", Auth: wire.HashedPass, Password: "secret", Trust: Trust{Roots: l.hub.Roots},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := l.hub.DialContext(ctx, network, address)
			if err == nil {
				l.mu.Lock()
				l.conns = append(l.conns, c)
				l.mu.Unlock()
			}
			return c, err
		}}
}

// cut ends the connections from the nth on, without a word.
func (l *lan) cut(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(n, len(l.conns))
	for _, c := range l.conns[n:] {
		c.Close()
	}
	l.conns = l.conns[:n]
}

// numbered is the frame number n of a flow between the two stations.
func numbered(flow, n int) []byte {
	p := make([]byte, 40)
	p[0], p[9] = 0x45, protoUDP
	binary.BigEndian.PutUint32(p[12:], 0x0a000001)
	binary.BigEndian.PutUint32(p[16:], 0x0a000002)
	binary.BigEndian.PutUint16(p[20:], uint16(flow))
	binary.BigEndian.PutUint32(p[28:], uint32(n))
	return frametest.Frame(stationB, stationA, frame.TypeIPv4, p)
}

// checkOrder checks that each of so many flows has all its frames in order.
func checkOrder(t *testing.T, got [][]byte, flows int) {
	t.Helper()
	next := make(map[uint16]uint32)
	for _, f := range got {
		p := frame.Payload(f)
		flow, n := binary.BigEndian.Uint16(p[20:]), binary.BigEndian.Uint32(p[28:])
		if n != next[flow] {
			t.Fatalf("flow %d: frame %d after %d", flow, n, int(next[flow])-1)
		}
		next[flow]++
	}
	if len(next) != flows {
		t.Errorf("%d flows arrived, want %d", len(next), flows)
	}
}

func TestConnectionsAreOpenedOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, hub.Config{})
		cfg := l.config()
		cfg.Connections = 4
		s := dial(t, cfg)
		stop, done := start(s, &frametest.Pipe{})
		for i, want := range []int{2, 3, 4, 4} {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			if got := l.hub.Sessions(); len(got) != 1 || got[0].Connections != want {
				t.Errorf("after %d s: %+v, want %d connections", i, got, want)
			}
			time.Sleep(time.Second)
		}
		if got := s.Stats(); got.Connections != 4 || got.ConnectionsJoined != 3 || got.ConnectionsLost != 0 {
			t.Errorf("counted %+v", got)
		}
		stop()
		<-done
	})
}

func TestFlowsAreSpreadAndNotReordered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, hub.Config{})
		cfg := l.config()
		cfg.Connections = 8
		s := dial(t, cfg)
		stop, done := start(s, &frametest.Pipe{})
		const flows, each = 50, 400
		for n := range each { // while connections are added
			var batch [][]byte
			for flow := range flows {
				batch = append(batch, numbered(flow, n))
			}
			if err := s.WriteFrames(batch); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		checkOrder(t, l.station.Received(t.Context(), flows*each), flows)
		// A flow that pauses may move, and then all connections are in use.
		time.Sleep(flowPause)
		before := sentByLink(s)
		for flow := range flows {
			s.WriteFrames([][]byte{numbered(flow, each)})
		}
		for i, n := range sentByLink(s) {
			if n == before[i] {
				t.Errorf("connection %d has carried nothing", i)
			}
		}
		stop()
		<-done
	})
}

func sentByLink(s *Session) (n []uint64) {
	for _, l := range s.all() {
		n = append(n, l.batches.Load())
	}
	return n
}

func TestADeadConnectionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, hub.Config{})
		cfg := l.config()
		cfg.Connections = 3
		s := dial(t, cfg)
		stop, done := start(s, &frametest.Pipe{})
		time.Sleep(5 * time.Second)
		l.cut(2)
		synctest.Wait()
		if err := s.WriteFrames([][]byte{numbered(1, 0)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if got := s.Stats(); got.Connections != 3 || got.ConnectionsLost != 1 || got.Resumed != 0 || got.ConnectionsJoined != 3 {
			t.Errorf("counted %+v", got)
		}
		if got := len(l.station.Received(t.Context(), 1)); got != 1 {
			t.Errorf("%d frames arrived", got)
		}
		stop()
		<-done
	})
}

// All connections are lost at once, again and again, and what uses the session sees
// nothing of it but that some frames are.
func TestASessionOutlivesAllItsConnections(t *testing.T) {
	for name, connections := range map[string]int{"one": 1, "several": 4} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN(t, hub.Config{})
				cfg := l.config()
				cfg.Connections = connections
				s := dial(t, cfg)
				var inside frametest.Pipe
				stop, done := start(s, &inside)
				const cuts = 100
				for n := range cuts {
					time.Sleep(3 * time.Second)
					l.cut(0)
					synctest.Wait()
					if err := s.WriteFrames([][]byte{numbered(1, n)}); err != nil {
						t.Fatal(err)
					}
				}
				checkOrder(t, l.station.Received(t.Context(), cuts), 1)
				l.station.Send(frametest.Frame(stationA, stationB, frame.TypeIPv4, []byte("and back")))
				if got := inside.Received(t.Context(), 1); len(got) != 1 {
					t.Errorf("%d frames came back", len(got))
				}
				if got := l.hub.Sessions(); len(got) != 1 || got[0].Name != s.Welcome().SessionName {
					t.Errorf("the hub has %+v, want %s", got, s.Welcome().SessionName)
				}
				// Of several the first that dies may be replaced before the last does.
				if got := s.Stats(); got.Resumed != cuts && connections == 1 || got.ConnectionsLost < cuts {
					t.Errorf("counted %+v after %d cuts", got, cuts)
				}
				stop()
				<-done
			})
		})
	}
}

// A session that is lost again as soon as it is back is given up, unless the server has
// said something meanwhile, by whichever connection.
func TestASessionIsBackOnceTheServerSpeaks(t *testing.T) {
	for _, row := range []struct {
		name        string
		connections int
		speaks      bool
	}{
		{"one, heard", 1, true},
		{"several, heard", 4, true},
		{"one, silent", 1, false},
		{"several, silent", 4, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN(t, hub.Config{})
				cfg := l.config()
				cfg.Connections = row.connections
				s := dial(t, cfg)
				var inside frametest.Pipe
				stop, done := start(s, &inside)
				time.Sleep(5 * time.Second)
				const cuts = 20
				for n := range cuts {
					l.cut(1)
					synctest.Wait()
					l.cut(0) // that which brought the session back goes last
					time.Sleep(200 * time.Millisecond)
					if row.speaks {
						l.station.Send(numbered(1, n))
						synctest.Wait()
					}
					time.Sleep(200 * time.Millisecond)
				}
				stop()
				err := <-done
				if row.speaks == (contains(err, "closed the connection at once")) {
					t.Errorf("Run: %v", err)
				}
				if got := inside.Received(t.Context(), 0); row.speaks && len(got) != cuts {
					t.Errorf("%d frames arrived, want %d", len(got), cuts)
				}
			})
		})
	}
}

// While there is no connection writers wait, no longer than the session can come back.
func TestASessionThatCannotComeBackEnds(t *testing.T) {
	for name, row := range map[string]struct {
		fault  *hub.Fault
		within time.Duration
		text   string
	}{
		"nobody hears":    {&hub.Fault{Step: hub.BeforeTLS, Kind: hub.Stall}, 26 * time.Second, "could not be joined again"},
		"reset each time": {&hub.Fault{Step: hub.BeforeHello, Kind: hub.Reset}, 26 * time.Second, "could not be joined again"},
		"unknown to it":   {&hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Refuse, Code: wire.CodeSessionTimeout}, time.Second, "knows the session no more"},
		"full":            {&hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Refuse, Code: wire.CodeTooManyConns}, 26 * time.Second, "code 15"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN(t, hub.Config{})
				s := dial(t, l.config())
				_, done := start(s, &frametest.Pipe{})
				time.Sleep(time.Second)
				defer l.hub.Inject(row.fault)()
				begun := time.Now()
				l.cut(0)
				synctest.Wait()
				written := make(chan error, 1)
				go func() { written <- s.WriteFrames([][]byte{numbered(1, 0)}) }()
				err := <-done
				if !contains(err, row.text) {
					t.Errorf("Run: %v, want %q", err, row.text)
				}
				if err := <-written; err == nil {
					t.Error("the write that waited reported success")
				}
				if took := time.Since(begun); took > row.within {
					t.Errorf("after %v, want at most %v", took, row.within)
				}
				var e *Error
				if !errors.As(err, &e) || e.Advice() != wire.Retry {
					t.Errorf("no other login after %v", err)
				}
				if row.fault.Strikes() == 0 {
					t.Error("the fault did not happen")
				}
			})
		})
	}
}

func TestRunThatStopsReleasesWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, hub.Config{})
		s := dial(t, l.config())
		stop, done := start(s, &frametest.Pipe{})
		time.Sleep(time.Second)
		lift := l.hub.Inject(&hub.Fault{Step: hub.BeforeTLS, Kind: hub.Stall})
		l.cut(0)
		synctest.Wait()
		written := make(chan error, 1)
		go func() { written <- s.WriteFrames([][]byte{numbered(1, 0)}) }()
		synctest.Wait()
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		begun := time.Now()
		if err := <-written; err == nil {
			t.Error("the write reported success")
		}
		if took := time.Since(begun); took > closeGrace {
			t.Errorf("released after %v", took)
		}
		lift()
		// A later Run goes on where this one stopped, with the session.
		stop, done = start(s, &frametest.Pipe{})
		time.Sleep(time.Second)
		if err := s.WriteFrames([][]byte{numbered(1, 0)}); err != nil || s.Stats().Resumed != 1 {
			t.Errorf("a later Run: %v, %+v", err, s.Stats())
		}
		stop()
		<-done
	})
}

func TestAServerThatRefusesWhatItGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, hub.Config{})
		cfg := l.config()
		cfg.Connections = 4
		var log strings.Builder
		cfg.Log = logTo(&log)
		s := dial(t, cfg)
		fault := &hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Refuse, Code: wire.CodeTooManyConns}
		defer l.hub.Inject(fault)()
		stop, done := start(s, &frametest.Pipe{})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := s.Stats(); got.Connections != 1 || got.JoinsFailed < 5 || got.JoinsFailed > 20 || got.Resumed != 0 {
			t.Errorf("counted %+v, want a few attempts that become rare", got)
		}
		if n := strings.Count(log.String(), "more connections than it lets in"); n != 1 {
			t.Errorf("warned %d times:\n%s", n, log.String())
		}
		if err := s.WriteFrames([][]byte{numbered(1, 0)}); err != nil {
			t.Errorf("the session died of it: %v", err)
		}
		stop()
		<-done
	})
}

// What joins must be the server that we logged in to.
func TestAnotherCertificateIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, hub.Config{})
		impostor := hubtest.StartInMemory(t, hub.Config{Users: []hub.User{{Name: "bob", Password: "secret"}}})
		cfg := l.config()
		cfg.Connections = 2
		cfg.Trust = Trust{Insecure: true} // the first is believed blindly, not so the others
		first := cfg.DialContext
		dials := 0
		cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials++; dials == 1 {
				return first(ctx, network, address)
			}
			return impostor.DialContext(ctx, network, address)
		}
		s := dial(t, cfg)
		_, done := start(s, &frametest.Pipe{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := s.Stats(); got.Connections != 1 || got.JoinsFailed == 0 {
			t.Errorf("counted %+v", got)
		}
		l.cut(0)
		if err := <-done; !contains(err, "not the one that this server has") {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestHalfDuplex(t *testing.T) {
	for name, row := range map[string]struct{ connections, inbound, outbound int }{
		"two":  {1, 1, 1},
		"five": {5, 3, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN(t, hub.Config{})
				cfg := l.config()
				cfg.Connections, cfg.HalfDuplex = row.connections, true
				s := dial(t, cfg)
				var inside frametest.Pipe
				stop, done := start(s, &inside)
				both := func() {
					t.Helper()
					before := len(l.station.Received(t.Context(), 0))
					if err := s.WriteFrames([][]byte{numbered(1, 0)}); err != nil {
						t.Fatal(err)
					}
					l.station.Received(t.Context(), before+1)
					before = len(inside.Received(t.Context(), 0))
					l.station.Send(frametest.Frame(stationA, stationB, frame.TypeIPv4, []byte("and back")))
					inside.Received(t.Context(), before+1)
				}
				both()
				time.Sleep(time.Minute) // longer than what silence would be deadly, in either direction
				both()
				if got := l.hub.Sessions()[0]; got.Inbound != row.inbound || got.Outbound != row.outbound {
					t.Errorf("%+v, want %d inbound and %d outbound", got, row.inbound, row.outbound)
				}
				l.cut(0)
				synctest.Wait()
				both()
				if got := s.Stats(); got.ConnectionsLost == 0 || got.InMisdirected != 0 {
					t.Errorf("counted %+v", got)
				}
				stop()
				<-done
			})
		})
	}
}

func TestConnectionsAreReplacedByAge(t *testing.T) {
	for name, half := range map[string]bool{"both ways": false, "half-duplex": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN(t, hub.Config{})
				cfg := l.config()
				cfg.Connections, cfg.HalfDuplex, cfg.ConnectionTTL = 2, half, time.Minute
				s := dial(t, cfg)
				stop, done := start(s, &frametest.Pipe{})
				const frames = 600
				for n := range frames {
					if err := s.WriteFrames([][]byte{numbered(1, n)}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
				}
				got := l.station.Received(t.Context(), frames)
				checkOrder(t, got, 1)
				for range 100 { // for what is under way
					if time.Sleep(100 * time.Millisecond); s.Stats().Connections == 2 {
						break
					}
				}
				if got := s.Stats(); got.ReplacedInTime < 16 || got.ReplacedInTime > 22 || got.ConnectionsLost != 0 || got.Resumed != 0 || got.Connections != 2 {
					t.Errorf("counted %+v, want some twenty replaced in ten minutes and none lost", got)
				}
				stop()
				<-done
			})
		})
	}
}

func TestUrgentFramesHaveAConnectionOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, hub.Config{QoS: true})
		cfg := l.config()
		cfg.QoS = true
		s := dial(t, cfg)
		stop, done := start(s, &frametest.Pipe{})
		time.Sleep(2 * time.Second)
		urgent := numbered(1, 0)
		frame.Payload(urgent)[1] = 0xb8
		before := sentByLink(s)
		for flow := range 20 {
			s.WriteFrames([][]byte{numbered(flow, 1)})
		}
		s.WriteFrames([][]byte{urgent, urgent})
		got := sentByLink(s)
		for i := range got {
			got[i] -= before[i]
		}
		if want := []uint64{20, 1}; !slices.Equal(got, want) {
			t.Errorf("batches by connection %v, want %v", got, want)
		}
		stop()
		<-done
	})
}

func TestCompressedAndInTheClear(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"compressed":          func(c *Config) { c.Compress = true },
		"in the clear":        func(c *Config) { c.Cleartext = true },
		"both, several, half": func(c *Config) { c.Compress, c.Cleartext, c.Connections, c.HalfDuplex = true, true, 4, true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN(t, hub.Config{Cleartext: true})
				cfg := l.config()
				change(&cfg)
				s := dial(t, cfg)
				if w := s.Welcome(); w.Encrypt == cfg.Cleartext || w.Compress != cfg.Compress {
					t.Fatalf("welcome %+v", w)
				}
				var inside frametest.Pipe
				stop, done := start(s, &inside)
				for round := range 3 {
					for range 100 {
						if err := s.WriteFrames([][]byte{testFrame(3, 1500), testFrame(4, 1)}); err != nil {
							t.Fatal(err)
						}
					}
					l.station.Received(t.Context(), 200*(round+1))
					l.station.Send(slices.Repeat([][]byte{testFrame(5, 1500)}, 100)...)
					inside.Received(t.Context(), 100*(round+1))
					time.Sleep(30 * time.Second)
					l.cut(0)
					synctest.Wait()
				}
				if got := s.Stats(); got.InDropped != 0 || got.OutBytes != 300*(1514+15) || got.ConnectionsLost < 3 {
					t.Errorf("counted %+v", got)
				}
				stop()
				<-done
			})
		})
	}
}

func TestCorruptCompressionIsDroppedAndCounted(t *testing.T) {
	s := dial(t, compressed(server(t, func(p *peer) {
		p.Greet()
		w := sessiontest.Welcome()
		w.Compress = true
		p.Reply(w.Pack())
		p.Write(batch(testFrame(1, 100)))
		unit, _ := wire.NewPacker().AppendBatch(nil, [][]byte{testFrame(2, 100)})
		p.Write(unit)
		p.Discard()
	})))
	var pipe frametest.Pipe
	stop, done := start(s, &pipe)
	if got := pipe.Received(t.Context(), 1); len(got) != 1 || !slices.Equal(got[0], testFrame(2, 100)) {
		t.Errorf("%d frames came through", len(got))
	}
	if got := s.Stats().InDropped; got != 1 {
		t.Errorf("dropped %d", got)
	}
	stop()
	<-done
}

func compressed(c Config) Config { c.Compress = true; return c }

// In a half-duplex session the first connection is ours alone.
func TestFramesOnAConnectionOfTheOtherDirectionAreDropped(t *testing.T) {
	cfg := server(t, func(p *peer) {
		if login := p.Greet(); login.Str("method") == wire.MethodAdditional {
			p.Reply(wire.Joined(wire.InboundOnly))
			time.Sleep(100 * time.Millisecond) // for the other connection to speak first, mostly
			p.Write(batch(testFrame(2, 100)))
			p.Discard()
			return
		}
		w := sessiontest.Welcome()
		w.HalfConnection, w.MaxConnection = true, 2
		p.Reply(w.Pack())
		p.Write(batch(testFrame(1, 100)))
		p.Discard()
	})
	cfg.HalfDuplex = true
	s := dial(t, cfg)
	var pipe frametest.Pipe
	stop, done := start(s, &pipe)
	if got := pipe.Received(t.Context(), 1); len(got) != 1 || !slices.Equal(got[0], testFrame(2, 100)) {
		t.Errorf("%d frames came through, or the wrong one", len(got))
	}
	for end := time.Now().Add(20 * time.Second); s.Stats().InMisdirected != 1; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("counted %+v", s.Stats())
		}
	}
	stop()
	<-done
}

func TestADirectionThatNobodyAskedForIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, hub.Config{})
		cfg := l.config()
		cfg.Connections = 2
		s := dial(t, cfg)
		fault := &hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Alter, Change: func(p *pack.Pack) { p.SetInt("direction", 1) }}
		defer l.hub.Inject(fault)()
		stop, done := start(s, &frametest.Pipe{})
		time.Sleep(30 * time.Second)
		if got := s.Stats(); got.Connections != 1 || got.JoinsFailed == 0 || fault.Strikes() == 0 {
			t.Errorf("counted %+v after %d strikes", got, fault.Strikes())
		}
		stop()
		<-done
	})
}

func TestMonitorModeIsAskedForAndMayBeDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, hub.Config{})
		cfg := l.config()
		cfg.Monitor = true
		if _, err := Dial(t.Context(), cfg); !errors.Is(err, wire.CodeMonitorDenied) || !contains(err, "MonitorPort") {
			t.Errorf("got %v", err)
		}
		l = newLAN(t, hub.Config{Policy: wire.Policy{{Name: "MonitorPort", Value: 1}}})
		cfg = l.config()
		cfg.Monitor = true
		dial(t, cfg)
	})
}
