package vpn_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"softether-go/pkg/vpn"
)

// Two hosts of a hub that has no router talk by IPv6, with addresses of the user's, and
// IPv6 is left out where that is asked for.
func TestIPv6InATunnel(t *testing.T) {
	l := newLab(t)
	host := func(address string) *vpn.Tunnel {
		cfg := l.config()
		cfg.Address.NoDHCP, cfg.Address.IPv6.Static = true, netip.MustParsePrefix(address)
		return dial(t, cfg)
	}
	a, b := host("2001:db8::a/64"), host("2001:db8::b/64")
	listener, err := b.Listen("tcp6", ":80")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := listener.Accept(); err == nil {
			io.WriteString(c, "hello")
			c.Close()
		}
	}()
	conn, err := a.DialContext(t.Context(), "tcp", "[2001:db8::b]:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	off := l.config()
	off.Address.IPv6.Off = true
	without := dial(t, off)
	if now := without.Address(); len(now.IPv6.Addresses) > 0 {
		t.Errorf("IPv6 addresses where there are to be none: %v", now.IPv6.Addresses)
	}
	if _, err := without.DialContext(t.Context(), "tcp", "[2001:db8::b]:80"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("IPv6 where there is to be none: %v", err)
	}
}

// Who gives a MAC address gets the same IPv6 address each time, others do not.
func TestIPv6AddressesFollowTheMACAddress(t *testing.T) {
	l := newLab(t)
	local := func(mac net.HardwareAddr) (addr netip.Addr) {
		cfg := l.config()
		cfg.MAC = mac
		tunnel := dial(t, cfg)
		defer tunnel.Close()
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if now := tunnel.Address().IPv6.Addresses; len(now) > 0 {
				return now[0].Addr
			}
		}
		t.Fatal("no address on the link")
		return addr
	}
	mac := net.HardwareAddr{0x5e, 0, 0, 0, 0, 7}
	first := local(mac)
	if again := local(mac); again != first {
		t.Errorf("got %v, want %v again", again, first)
	}
	if other := local(nil); other == first {
		t.Errorf("%v without a MAC address too", other)
	}
}
