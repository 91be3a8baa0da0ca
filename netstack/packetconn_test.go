package netstack

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestUDPEcho(t *testing.T) {
	a, b := pair(t)
	pc, err := b.ListenPacket(netip.MustParseAddrPort("0.0.0.0:7"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if _, err := pc.WriteTo(buf[:n], from); err != nil {
				t.Errorf("WriteTo: %v", err)
			}
		}
	})
	c := dial(t, a, "udp", "10.0.0.2:7")
	for _, size := range []int{0, 1, 1472, 1473} { // the last one in two fragments
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(i)
		}
		if _, err := c.Write(want); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		got := make([]byte, 2000)
		n, err := c.Read(got)
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("%d bytes: got %d bytes, %v", size, n, err)
		}
	}
	_ = pc.Close()
	wg.Wait()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("read when nobody listens: got %v, want ECONNREFUSED", err)
	}
}

func TestBroadcastIsHeardAndAnswered(t *testing.T) {
	a, b := pair(t)
	pc, err := b.ListenPacket(netip.MustParseAddrPort("0.0.0.0:67"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	from, err := a.ListenPacket(netip.MustParseAddrPort("0.0.0.0:68"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = from.Close() }()
	for _, to := range []string{"255.255.255.255:67", "10.0.0.255:67"} {
		if _, err := from.WriteTo([]byte(to), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
			t.Fatalf("to %s: %v", to, err)
		}
		buf := make([]byte, 64)
		_ = pc.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, peer, err := pc.ReadFrom(buf)
		if err != nil || string(buf[:n]) != to || peer.String() != "10.0.0.1:68" {
			t.Errorf("to %s: got %q from %v, %v", to, buf[:n], peer, err)
		}
	}
}
