package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/udpaccel"
	"softether-go/pkg/wire"
)

// udpHub is one on loopback, with a station behind it.
func udpHub(t *testing.T, c hub.Config) (*hubtest.Hub, *frametest.Pipe, Config) {
	t.Helper()
	c.Users = []hub.User{{Name: "bob", Password: "secret"}}
	h := hubtest.Start(t, c)
	station := new(frametest.Pipe)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Plug(ctx, station)
	}()
	t.Cleanup(func() { cancel(); <-done })
	at := netip.MustParseAddrPort(h.Addr)
	return h, station, Config{Host: at.Addr().String(), Port: int(at.Port()), Hub: "DEFAULT", User: "bob", Auth: wire.HashedPass,
		Password: "secret", Trust: Trust{Roots: h.Roots}, Direct: true, UDP: UDP{Policy: UDPRequire}}
}

// waitUDP waits until the session's state is as wanted.
func waitUDP(t *testing.T, s *Session, what string, within time.Duration, ok func(UDPStats) bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(s.UDP()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s; %+v", within, what, s.UDP())
		}
	}
}

// Proves that frames go by UDP in both directions, in each version, and too long ones by
// TCP.
func TestFramesGoByUDP(t *testing.T) {
	for _, row := range []struct {
		name          string
		server, ours  udpaccel.Version
		want          udpaccel.Version
		cleartext     bool
		compress      bool
		waitForServer bool
	}{
		{name: "v2", want: udpaccel.V2, waitForServer: true},
		{name: "v1, as the server has no other", server: udpaccel.V1, want: udpaccel.V1},
		{name: "v1, as we have no other", ours: udpaccel.V1, want: udpaccel.V1},
		{name: "plain", cleartext: true, want: udpaccel.Plain},
		{name: "compressed", compress: true, want: udpaccel.V2},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h, station, cfg := udpHub(t, hub.Config{UDP: true, MaxUDPVersion: row.server, Cleartext: row.cleartext})
			cfg.UDP.MaxVersion, cfg.Cleartext, cfg.Compress = row.ours, row.cleartext, row.compress
			s := dial(t, cfg)
			var got frametest.Pipe
			stop, done := start(s, &got)
			defer func() { stop(); <-done }()
			waitUDP(t, s, "frames go by UDP", 10*time.Second, func(u UDPStats) bool { return u.Carries == 1 })
			if s.way.Version() != row.want {
				t.Errorf("version: got %v, want %v", s.way.Version(), row.want)
			}
			short, long := testFrame(1, 900), testFrame(2, 1500)
			if err := s.WriteFrames([][]byte{short, long}); err != nil {
				t.Fatal(err)
			}
			frames := station.Received(t.Context(), 2)
			if len(frames[0]) > len(frames[1]) { // the two ways are not in order
				frames[0], frames[1] = frames[1], frames[0]
			}
			if diff := cmp.Diff([][]byte{short, long}, frames); diff != "" {
				t.Errorf("outbound (-want +got):\n%s", diff)
			}
			if u := s.UDP(); u.OutFrames != 1 || u.LargeByTCP != 1 {
				t.Errorf("by UDP %d, long ones by TCP %d, want 1 and 1", u.OutFrames, u.LargeByTCP)
			}
			if u := h.Sessions()[0].UDP; u.InFrames != 1 {
				t.Errorf("the hub got %d frames by UDP, want 1", u.InFrames)
			}
			if !row.waitForServer {
				return
			}
			waitUDP(t, s, "the hub may send by UDP", 20*time.Second, func(UDPStats) bool { return h.Sessions()[0].UDPUsed })
			back := frametest.Frame(stationB, stationA, 0x0800, make([]byte, 100))
			station.Send(back)
			if diff := cmp.Diff([][]byte{back}, got.Received(t.Context(), 1)); diff != "" {
				t.Errorf("inbound (-want +got):\n%s", diff)
			}
			if u := s.UDP(); u.InFrames != 1 {
				t.Errorf("frames that came by UDP: got %d, want 1", u.InFrames)
			}
		})
	}
}

// Proves that what cannot be had is said in one line, and not tried again.
func TestUDPThatCannotBeHad(t *testing.T) {
	for _, row := range []struct {
		name   string
		hub    hub.Config
		change func(*Config)
		want   string
	}{
		{"the server grants none", hub.Config{}, func(*Config) {}, "the server grants none: an administrator may have turned it off there; use -udp auto or off"},
		{"there is a proxy", hub.Config{UDP: true}, func(c *Config) { c.Direct = false }, "goes beside a direct TCP connection alone; use -udp auto or off"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, _, cfg := udpHub(t, row.hub)
			row.change(&cfg)
			cfg.DialContext = new(net.Dialer).DialContext
			s, err := Dial(t.Context(), cfg)
			if err == nil {
				s.Close()
			}
			var e *Error
			if !contains(err, row.want) || !errors.As(err, &e) || e.Advice() != wire.Never {
				t.Errorf("got %v, want %q, for good", err, row.want)
			}
		})
	}
}

func TestAutoDoesNotAskForUDPWithoutAReason(t *testing.T) {
	h, _, cfg := udpHub(t, hub.Config{UDP: true})
	cfg.UDP = UDP{Policy: UDPAuto, History: &UDPHistory{}}
	s := dial(t, cfg)
	if u := s.UDP(); u.Why != "TCP is good" || s.way != nil {
		t.Errorf("got %+v", u)
	}
	cfg.UDP.History.blame()
	again := dial(t, cfg)
	if again.way == nil {
		t.Error("TCP is to blame, and the session has no way by UDP")
	}
	if n := len(h.Sessions()); n != 2 {
		t.Errorf("sessions: got %d, want 2", n)
	}
}

// Proves that auto takes no protection that is weaker than TCP's, and that it does not
// ask again and again for what it does not get.
func TestAutoIsContentWithoutUDP(t *testing.T) {
	noSocket := func(context.Context, netip.Addr, uint16) (net.PacketConn, error) { return nil, syscall.EADDRINUSE }
	for _, row := range []struct {
		name   string
		hub    hub.Config
		listen func(context.Context, netip.Addr, uint16) (net.PacketConn, error)
	}{
		{"the server knows only the first version", hub.Config{UDP: true, MaxUDPVersion: udpaccel.V1}, nil},
		{"the server grants none", hub.Config{}, nil},
		{"there is no socket", hub.Config{UDP: true}, noSocket},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, _, cfg := udpHub(t, row.hub)
			cfg.UDP = UDP{Policy: UDPAuto, History: &UDPHistory{}, Listen: row.listen}
			cfg.UDP.History.blame()
			s := dial(t, cfg)
			if s.way != nil {
				t.Errorf("it has a way by UDP, %v", s.way.Version())
			}
			for range samples {
				s.chooser.record.add(tcpSample{out: 50, in: 50, outOfOrder: 2, retransmits: 1, rtt: lean, leanRTT: lean})
			}
			if err := s.chooser.choose(); err != nil || cfg.UDP.History.wants() {
				t.Errorf("TCP is bad: got %v, want to go on without UDP", err)
			}
		})
	}
}

// Proves that TCP which is found bad ends a session that has not asked for UDP, to ask.
func TestAutoAsksWhenTCPIsBad(t *testing.T) {
	_, _, cfg := udpHub(t, hub.Config{UDP: true})
	cfg.UDP = UDP{Policy: UDPAuto, History: &UDPHistory{}}
	s := dial(t, cfg)
	for range samples {
		s.chooser.record.add(tcpSample{out: 50, in: 50, outOfOrder: 2, retransmits: 1, rtt: lean, leanRTT: lean})
	}
	if err := s.chooser.choose(); !errors.Is(err, ErrWantsUDP) || !cfg.UDP.History.wants() {
		t.Errorf("got %v, want %v", err, ErrWantsUDP)
	}
}

// leaky is a socket that can be cut.
type leaky struct {
	net.PacketConn
	cut atomic.Bool
}

func (l *leaky) WriteTo(p []byte, to net.Addr) (int, error) {
	if l.cut.Load() {
		return len(p), nil
	}
	return l.PacketConn.WriteTo(p, to)
}

func (l *leaky) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := l.PacketConn.ReadFrom(p)
		if err != nil || !l.cut.Load() {
			return n, from, err
		}
	}
}

// autoSession is one that asks for UDP as the one before it has blamed TCP.
func autoSession(t *testing.T, cut bool) (*Session, *leaky, *UDPHistory) {
	t.Helper()
	_, _, cfg := udpHub(t, hub.Config{UDP: true})
	l := new(leaky)
	l.cut.Store(cut)
	cfg.UDP = UDP{Policy: UDPAuto, History: &UDPHistory{}, Listen: func(ctx context.Context, server netip.Addr, port uint16) (net.PacketConn, error) {
		var err error
		l.PacketConn, err = listenUDP(ctx, server, port)
		return l, err
	}}
	cfg.UDP.History.blame()
	s := dial(t, cfg)
	stop, done := start(s, new(frametest.Pipe))
	t.Cleanup(func() { stop(); <-done })
	return s, l, cfg.UDP.History
}

// Proves that auto goes to UDP when that has been good for long enough, and comes back at
// once when it falls silent.
func TestAutoGoesToUDPAndComesBack(t *testing.T) {
	t.Parallel()
	s, l, _ := autoSession(t, false)
	time.Sleep(9 * time.Second)
	if u := s.UDP(); u.Carries != 0 || u.Alive != 1 {
		t.Errorf("after 9 s: carries %d, alive %d, want alive alone", u.Carries, u.Alive)
	}
	waitUDP(t, s, "frames go by UDP", 20*time.Second, func(u UDPStats) bool { return u.Carries == 1 && u.Why == "TCP was losing packets" })
	if !s.ByUDP() {
		t.Error("ByUDP says no")
	}
	l.cut.Store(true)
	waitUDP(t, s, "frames go by TCP", 5*time.Second, func(u UDPStats) bool {
		return u.Carries == 0 && u.MovedToTCP == 1 && u.Why == "the server is not heard by UDP"
	})
}

// Proves that UDP which never gets through is not asked for again.
func TestAutoGivesUpUDPThatDoesNotGetThrough(t *testing.T) {
	t.Parallel()
	s, _, history := autoSession(t, true)
	waitUDP(t, s, "UDP is given up", 25*time.Second, func(u UDPStats) bool { return u.Why == "UDP does not get through" })
	if u := s.UDP(); u.Carries+u.MovedToUDP != 0 || history.wants() {
		t.Errorf("carries %d, moved %d, and is wanted still: %v", u.Carries, u.MovedToUDP, history.wants())
	}
}
