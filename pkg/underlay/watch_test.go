package underlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const up = net.FlagUp | net.FlagRunning

var (
	wired    = netip.MustParseAddr("198.51.100.1")
	wireless = netip.MustParseAddr("198.51.100.2")
)

// laptop is a machine whose network a test changes.
type laptop struct {
	mu     sync.Mutex
	addrs  map[netip.Addr]net.Flags
	local  bool       // an address that no interface has may be used
	from   netip.Addr // the way to everywhere
	slept  time.Duration
	events chan struct{}
}

func (l *laptop) addresses() (map[netip.Addr]net.Flags, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	copied := make(map[netip.Addr]net.Flags)
	for a, f := range l.addrs {
		copied[a] = f
	}
	return copied, nil
}

func (l *laptop) has(netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.local
}

func (l *laptop) way(Bind, netip.Addr) netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.from
}

// change changes the network and announces it, more than once as kernels do.
func (l *laptop) change(edit func()) {
	l.mu.Lock()
	edit()
	l.mu.Unlock()
	for range 3 {
		select {
		case l.events <- struct{}{}:
		default:
		}
	}
	time.Sleep(2 * rest)
}

// socket is a connection with a socket that can be asked whether it is open.
type socket struct {
	net.Conn
	local netip.Addr
	mu    sync.Mutex
	ended bool
}

func (s *socket) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.local, 40000))
}
func (s *socket) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPortFrom(v4, 443)) }
func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	return nil
}

func (s *socket) closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *socket) SyscallConn() (syscall.RawConn, error) { return rawSocket{s}, nil }

type rawSocket struct{ s *socket }

func (r rawSocket) Control(func(uintptr)) error {
	if r.s.closed() {
		return net.ErrClosed
	}
	return nil
}
func (r rawSocket) Read(func(uintptr) bool) error  { return errors.ErrUnsupported }
func (r rawSocket) Write(func(uintptr) bool) error { return errors.ErrUnsupported }

// watched runs a test with a Dialer on a laptop that is on both networks and prefers
// the wire.
func watched(t *testing.T, test func(t *testing.T, l *laptop, d *Dialer)) {
	synctest.Test(t, func(t *testing.T) {
		l := &laptop{addrs: map[netip.Addr]net.Flags{wired: up, wireless: up}, from: wired, events: make(chan struct{}, 1)}
		d := &Dialer{system: system{machine: l, events: l.events, slept: func() time.Duration {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.slept
		}}}
		d.connect = func(context.Context, string, string) (net.Conn, error) {
			return &socket{local: l.way(Bind{}, v4)}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Watch(ctx) }()
		synctest.Wait()
		test(t, l, d)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v", err)
		}
	})
}

func dialed(t *testing.T, d *Dialer) *socket {
	t.Helper()
	c, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:443")
	if err != nil {
		t.Fatal(err)
	}
	return c.(*socket)
}

// hurried reports whether Changed has yielded.
func hurried(d *Dialer) bool {
	select {
	case <-d.Changed():
		return true
	default:
		return false
	}
}

func TestOnlyTheLossOfItsWayCutsAConnection(t *testing.T) {
	other := netip.MustParseAddr("203.0.113.7")
	for _, row := range []struct {
		name   string
		change func(l *laptop)
		cut    bool
	}{
		{"another address", func(l *laptop) { l.addrs[other] = up }, false},
		{"another address is gone", func(l *laptop) { delete(l.addrs, wireless) }, false},
		{"another way is better", func(l *laptop) { l.from = wireless }, false},
		{"no way to anywhere, but the address", func(l *laptop) { l.from = netip.Addr{} }, false},
		{"the link is lost and there is no other way", func(l *laptop) { l.addrs[wired] = net.FlagUp }, false},
		{"the link is lost and no way at all", func(l *laptop) { l.addrs[wired], l.from = net.FlagUp, netip.Addr{} }, false},
		{"the address is of no interface but may be used", func(l *laptop) { delete(l.addrs, wired); l.local = true }, false},
		{"nothing", func(*laptop) {}, false},

		{"the address is gone", func(l *laptop) { delete(l.addrs, wired); l.from = wireless }, true},
		{"the address is gone and no other is left", func(l *laptop) { l.addrs, l.from = nil, netip.Addr{} }, true},
		{"the interface is down", func(l *laptop) { l.addrs[wired], l.from = 0, wireless }, true},
		{"the link is lost and there is another way", func(l *laptop) { l.addrs[wired], l.from = net.FlagUp, wireless }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			watched(t, func(t *testing.T, l *laptop, d *Dialer) {
				c := dialed(t, d)
				l.change(func() { row.change(l) })
				if c.closed() != row.cut || hurried(d) != row.cut {
					t.Errorf("cut %v, want %v, and the signal to connect anew with it", c.closed(), row.cut)
				}
			})
		})
	}
}

func TestOneOfTwoConnectionsIsCut(t *testing.T) {
	watched(t, func(t *testing.T, l *laptop, d *Dialer) {
		first := dialed(t, d)
		l.change(func() { l.from = wireless })
		second := dialed(t, d)
		l.change(func() { delete(l.addrs, wired) })
		if !first.closed() || second.closed() || hurried(d) {
			t.Errorf("first closed %v, second closed %v; the second carries on", first.closed(), second.closed())
		}
		l.change(func() { delete(l.addrs, wireless) })
		if !second.closed() || !hurried(d) {
			t.Error("the last connection is not cut, or nobody told")
		}
	})
}

func TestAWayBackEndsTheWait(t *testing.T) {
	watched(t, func(t *testing.T, l *laptop, d *Dialer) {
		dialed(t, d).Close() // the server's doing
		l.change(func() { l.addrs[netip.MustParseAddr("203.0.113.7")] = up })
		if hurried(d) {
			t.Error("an address that has nothing to do with the way counts")
		}
		l.change(func() { l.from = netip.Addr{} })
		l.change(func() { l.from = wireless })
		if !hurried(d) {
			t.Error("a way that is back does not count")
		}
	})
}

func TestWithoutAnyWayKnownAnyAddressCounts(t *testing.T) {
	watched(t, func(t *testing.T, l *laptop, d *Dialer) {
		d.lookup = func(context.Context, string, string) ([]netip.Addr, error) { return nil, errors.New("no name server") }
		if _, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443"); err == nil {
			t.Fatal("no error")
		}
		l.change(func() {})
		if hurried(d) {
			t.Error("nothing changed")
		}
		l.change(func() { l.addrs[netip.MustParseAddr("203.0.113.7")] = up })
		if !hurried(d) {
			t.Error("the network is there, and nobody told")
		}
	})
}

func TestAnAttemptBeginsAnewWhenItsWayChanges(t *testing.T) {
	watched(t, func(t *testing.T, l *laptop, d *Dialer) {
		var tries []netip.Addr
		d.connect = func(ctx context.Context, _, _ string) (net.Conn, error) {
			from := l.way(Bind{}, v4)
			tries = append(tries, from)
			if from == wired { // where nobody answers
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return &socket{local: from}, nil
		}
		go func() {
			time.Sleep(time.Second)
			l.change(func() { l.addrs[netip.MustParseAddr("203.0.113.7")] = up })
			l.change(func() { l.from = wireless })
		}()
		if c := dialed(t, d); c.local != wireless || len(tries) != 2 {
			t.Errorf("connected from %v after %v, want two tries", c.local, tries)
		}
		time.Sleep(3 * time.Second)
	})
}

func TestALongSleepCutsAllConnections(t *testing.T) {
	watched(t, func(t *testing.T, l *laptop, d *Dialer) {
		first, second := dialed(t, d), dialed(t, d)
		sleep := func(s time.Duration) {
			l.mu.Lock()
			l.slept += s
			l.mu.Unlock()
			time.Sleep(2 * pulse)
		}
		sleep(nap - time.Second)
		if first.closed() || hurried(d) {
			t.Error("cut after a nap")
		}
		sleep(8 * time.Hour)
		if !first.closed() || !second.closed() || !hurried(d) {
			t.Error("not cut after a night")
		}
		third := dialed(t, d)
		time.Sleep(time.Hour)
		if third.closed() {
			t.Error("cut again for the same sleep")
		}
	})
}

func TestWhereNothingIsAnnouncedItIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &laptop{addrs: map[netip.Addr]net.Flags{wired: up}, from: wired}
		d := &Dialer{system: system{machine: l, slept: func() time.Duration { return 0 }}}
		d.connect = func(context.Context, string, string) (net.Conn, error) { return &socket{local: wired}, nil }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go d.Watch(ctx)
		c := dialed(t, d)
		l.mu.Lock()
		l.addrs = nil
		l.mu.Unlock()
		time.Sleep(pollEvery + 2*pulse)
		if !c.closed() {
			t.Error("not found out")
		}
	})
}
