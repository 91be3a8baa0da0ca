package share

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"softether-go/pkg/addresses"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/hub/gateway"
	"softether-go/pkg/leaktest"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/wire"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// patience is for what a busy machine does in milliseconds.
const patience = 30 * time.Second

// configured is a Configurer that keeps what it is told.
type configured struct{ told chan netcfg.Config }

func (c configured) Apply(_ context.Context, cfg netcfg.Config) error {
	c.told <- cfg
	return nil
}

func (c configured) next(t *testing.T) netcfg.Config {
	t.Helper()
	select {
	case cfg := <-c.told:
		return cfg
	case <-time.After(patience):
		t.Fatal("no configuration")
		return netcfg.Config{}
	}
}

// A world is a switch with a gateway at the other end of its session.
type world struct {
	t       *testing.T
	s       *Switch
	gateway *gateway.Gateway
	running sync.WaitGroup
	unplug  func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	if w.s, err = New(nil); err != nil {
		t.Fatal(err)
	}
	if w.gateway, err = gateway.New(gateway.Config{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.running.Go(func() { w.s.Run(ctx) })
	w.running.Go(func() { w.gateway.Serve(ctx) })
	t.Cleanup(func() {
		cancel()
		w.s.Close()
		w.gateway.Close()
		w.running.Wait()
	})
	return w
}

// session joins the switch and the gateway until unplug is called.
func (w *world) session() {
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan struct{})
	w.unplug = func() {
		cancel()
		<-ended
	}
	w.t.Cleanup(cancel)
	w.running.Go(func() {
		defer close(ended)
		frame.Join(ctx, w.s.Uplink(), w.gateway)
	})
}

// member serves a member until the returned function is called.
func (w *world) member(last byte) (configured, *frametest.Pipe, func() error) {
	ctx, cancel := context.WithCancel(w.t.Context())
	c, pipe := configured{make(chan netcfg.Config, 8)}, &frametest.Pipe{}
	ended := make(chan error, 1)
	mac := net.HardwareAddr{0x5e, 0, 0x53, 0, 0, last}
	w.running.Go(func() {
		ended <- w.s.Serve(ctx, Member{Endpoint: pipe, Configurer: c, Config: addresses.Config{DHCP: &dhcp.Config{MAC: mac}}})
	})
	return c, pipe, func() error {
		cancel()
		return <-ended
	}
}

func TestEachMemberHasALeaseOfItsOwnAndGivesItBack(t *testing.T) {
	w := newWorld(t)
	a, _, endA := w.member(1) // before there is a session
	w.session()
	b, _, endB := w.member(2)
	first, second := a.next(t), b.next(t)
	if !first.Address.IsValid() || first.Address == second.Address {
		t.Errorf("addresses: got %v and %v, want two", first.Address, second.Address)
	}
	if got := w.gateway.Leases(); got != 2 {
		t.Errorf("leases: got %d, want 2", got)
	}
	for _, end := range []func() error{endA, endB} {
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	}
	for deadline := time.Now().Add(patience); w.gateway.Leases() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("leases that are left: %d", w.gateway.Leases())
		}
	}
}

func TestANewSessionIsAskedForTheSameAddress(t *testing.T) {
	w := newWorld(t)
	w.session()
	a, _, end := w.member(1)
	first := a.next(t)
	w.unplug()
	w.session()
	if again := a.next(t); again.Address != first.Address {
		t.Errorf("got %v in the next session, want %v", again.Address, first.Address)
	}
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestMembersReachEachOtherWithoutASession(t *testing.T) {
	w := newWorld(t)
	_, a, endA := w.member(1)
	_, b, endB := w.member(2)
	macA, macB := net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 1}, net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 2}
	hello := frametest.Frame(macB, macA, frame.TypeIPv4, []byte("hello"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		a.Send(hello) // lost as long as the other is not plugged in
		short, stop := context.WithTimeout(ctx, 20*time.Millisecond)
		got := b.Received(short, 1)
		stop()
		if len(got) > 0 {
			if string(got[0]) != string(hello) {
				t.Errorf("got %x, want %x", got[0], hello)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing came")
		}
	}
	endA()
	endB()
}

func TestAMemberThatCannotBeConfiguredEnds(t *testing.T) {
	w := newWorld(t)
	w.session()
	broken := errors.New("no such interface")
	err := w.s.Serve(t.Context(), Member{Endpoint: &frametest.Pipe{}, Configurer: refusing{broken},
		Config: addresses.Config{DHCP: &dhcp.Config{MAC: net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 1}}}})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

type refusing struct{ error }

func (r refusing) Apply(context.Context, netcfg.Config) error { return r.error }

func TestPoliciesLimitTheNumberOfMembers(t *testing.T) {
	for _, row := range []struct {
		policy wire.Policy
		n      int
		item   string
	}{
		{nil, 0, ""},
		{wire.Policy{{Name: "Access", Value: 1}}, 0, ""},
		{wire.Policy{{Name: "NoBridge", Value: 1}}, 3, "NoBridge"},
		{wire.Policy{{Name: "NoRouting", Value: 1}}, 4, "NoRouting"},
		{wire.Policy{{Name: "NoBridge", Value: 1}, {Name: "NoRouting", Value: 1}}, 3, "NoBridge"},
		{wire.Policy{{Name: "MaxMac", Value: 1}}, 3, "MaxMac"},
		{wire.Policy{{Name: "MaxMac", Value: 20}, {Name: "MaxIP", Value: 10}}, 10, "MaxIP"},
	} {
		if n, item := Stations(row.policy); n != row.n || item != row.item {
			t.Errorf("%v: got %d by %q, want %d by %q", row.policy, n, item, row.n, row.item)
		}
	}
}
