package underlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestThisMachine(t *testing.T) {
	loopback, nobody := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.77")
	own, err := here{}.addresses()
	if err != nil || own[loopback]&net.FlagUp == 0 {
		t.Errorf("addresses %v, %v, want loopback among them", own, err)
	}
	if !(here{}).has(loopback) || !(here{}).has(netip.MustParseAddr("127.9.9.9")) || (here{}).has(nobody) {
		t.Error("loopback is here and 192.0.2.77 is not")
	}
	if got := (here{}).way(Bind{}, loopback); got != loopback {
		t.Errorf("the way to loopback is from %v", got)
	}
	if got := (here{}).way(Bind{Address: nobody}, loopback); got.IsValid() {
		t.Errorf("a way from an address that is not here: %v", got)
	}
}

// A real connection is known while it is open, whoever closes it, and Watch ends.
func TestRealConnectionsAreKnown(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := new(Dialer)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Watch(ctx) }()
	first, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got := d.live(); len(got) != 2 || got[0].local != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("open: %v, want two from loopback", got)
	}
	first.Close()
	if got := d.live(); len(got) != 1 || got[0].conn != second {
		t.Errorf("open: %v, want the second", got)
	}
	d.look(time.Hour)
	if _, err := second.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after a long sleep: %v, want it closed", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch: %v", err)
	}
}
