package hosts

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"softether-go/netstack"
	"softether-go/pkg/addresses"
	"softether-go/pkg/autoconf"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/frame"
	"softether-go/pkg/hub/gateway"
	"softether-go/pkg/leaktest"
	"softether-go/pkg/share"
	"softether-go/pkg/wire"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// patience is for what a busy machine does in a second.
const patience = 30 * time.Second

// startHosts has a gateway with DHCP at the other end of the session. Hosts are as plan
// leaves them.
func startHosts(t *testing.T, idle time.Duration, plan ...func(*addresses.Config)) (*Hosts, *gateway.Gateway) {
	t.Helper()
	sw, err := share.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	gw, err := gateway.New(gateway.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := New(Config{
		Switch: sw, Idle: idle,
		MAC: func(name string) net.HardwareAddr { return net.HardwareAddr{0x5e, 0, 0, 0, 0, name[0]} },
		Plan: func(mac net.HardwareAddr, _ *slog.Logger) addresses.Config {
			c := addresses.Config{DHCP: &dhcp.Config{MAC: mac}}
			for _, change := range plan {
				change(&c)
			}
			return c
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, part := range []func(){
		func() { sw.Run(ctx) }, func() { gw.Serve(ctx) }, func() { h.Run(ctx) },
		func() { frame.Join(ctx, sw.Uplink(), gw) },
	} {
		running.Go(part)
	}
	t.Cleanup(func() {
		h.Close()
		cancel()
		sw.Close()
		gw.Close()
		running.Wait()
	})
	return h, gw
}

// address is that of a host, which it makes.
func (h *Hosts) address(t *testing.T, name string) (addr netip.Addr, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = h.With(ctx, name, func(s *netstack.Stack) error {
		addr = s.Applied().Address.Addr()
		return nil
	})
	return addr, err
}

func TestEachNameIsAHostOfItsOwn(t *testing.T) {
	h, gw := startHosts(t, 0)
	var addrs [3]netip.Addr
	var g sync.WaitGroup
	for i, name := range []string{"alice", "bob", "alice"} { // at once
		g.Go(func() {
			var err error
			if addrs[i], err = h.address(t, name); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if addrs[0] == addrs[1] || addrs[0] != addrs[2] || !addrs[0].IsValid() {
		t.Errorf("addresses: got %v, want two, the first and the third the same", addrs)
	}
	if h.Count() != 2 || gw.Leases() != 2 {
		t.Errorf("got %d hosts and %d leases, want 2 and 2", h.Count(), gw.Leases())
	}
	if !h.Applied().Address.IsValid() {
		t.Error("no configuration was applied")
	}
	h.Close()
	if _, err := h.address(t, "alice"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: got %v", err)
	}
}

// A host goes when nothing has been open on it for a while, and gives its address back.
func TestIdleHostsGo(t *testing.T) {
	h, gw := startHosts(t, 100*time.Millisecond)
	first, err := h.address(t, "alice")
	if err != nil {
		t.Fatal(err)
	}
	var conn net.PacketConn
	if err := h.With(t.Context(), "bob", func(s *netstack.Stack) (err error) {
		conn, err = s.ListenPacket(netip.AddrPortFrom(s.Applied().Address.Addr(), 0))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	await := func(hosts int) {
		t.Helper()
		for deadline := time.Now().Add(patience); h.Count() != hosts || gw.Leases() != hosts; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("got %d hosts and %d leases, want %d", h.Count(), gw.Leases(), hosts)
			}
		}
	}
	await(1) // bob, who has a socket
	time.Sleep(300 * time.Millisecond)
	await(1)
	conn.Close()
	await(0)
	if again, err := h.address(t, "alice"); err != nil || !again.IsValid() {
		t.Errorf("again: got %v, %v; was %v", again, err, first)
	}
}

// As many names as the policy allows, those of the last minutes among them.
func TestPolicyLimitsHosts(t *testing.T) {
	h, _ := startHosts(t, 0)
	h.SetPolicy(wire.Policy{{Name: "NoBridge", Value: 1}})
	h.mu.Lock()
	h.left["zoe"] = time.Now().Add(-stationTime / 2)
	h.left["old"] = time.Now().Add(-stationTime - time.Second)
	h.mu.Unlock()
	for _, name := range []string{"alice", "zoe", "bob"} {
		if _, err := h.address(t, name); err != nil {
			t.Fatal(err)
		}
	}
	_, err := h.address(t, "carol")
	if !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "NoBridge") || !strings.Contains(err.Error(), "3 stations") {
		t.Errorf("one too many: got %v", err)
	}
	if _, err := h.address(t, "alice"); err != nil {
		t.Errorf("who is there: %v", err)
	}
}

// Who waits for an address that does not come gives up in time.
func TestWaitEndsWithItsContext(t *testing.T) {
	sw, err := share.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sw.Close()
	h := New(Config{Switch: sw, MAC: func(string) net.HardwareAddr { return net.HardwareAddr{0x5e, 0, 0, 0, 0, 1} },
		Plan: func(mac net.HardwareAddr, _ *slog.Logger) addresses.Config {
			return addresses.Config{DHCP: &dhcp.Config{MAC: mac}}
		}})
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := h.With(ctx, "alice", func(*netstack.Stack) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
}

// A host has IPv4 first, and who wants IPv6 of it at once gets that too.
func TestANewHostIsWaitedForUntilItHasBothFamilies(t *testing.T) {
	six := func(last byte) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: last}), 64)
	}
	h, _ := startHosts(t, 0, func(c *addresses.Config) {
		mac := c.DHCP.MAC
		c.IPv6 = &autoconf.Config{MAC: mac, Static: six(mac[5])}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dial := func(name string, to netip.Addr) (err error) {
		return h.With(ctx, name, func(s *netstack.Stack) error {
			conn, err := s.DialContext(ctx, "tcp", netip.AddrPortFrom(to, 7).String())
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
	var ln net.Listener
	if err := h.With(ctx, "bob", func(s *netstack.Stack) (err error) {
		ln, err = s.ListenTCP(netip.AddrPortFrom(netip.IPv6Unspecified(), 7))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	if err := dial("bob", six('b').Addr()); err != nil { // bob has it now
		t.Fatal(err)
	}
	if err := dial("alice", six('b').Addr()); err != nil {
		t.Errorf("the first connection of a new host, by IPv6: %v", err)
	}
	if now := h.Applied(); !now.Address.IsValid() || !now.IPv6.Usable() {
		t.Errorf("applied: %+v, want both families", now)
	}
	begun := time.Now()
	if err := dial("alice", netip.MustParseAddr("2001:db8:1::1")); err == nil || time.Since(begun) > secondFamily {
		t.Errorf("where no router leads: %v after %v", err, time.Since(begun))
	}
}
