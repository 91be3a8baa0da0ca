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

// receiveFrom reads a datagram within a while.
func receiveFrom(t *testing.T, pc net.PacketConn) (string, netip.AddrPort) {
	t.Helper()
	_ = pc.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 64<<10)
	if err := pc.(*packetConn).WaitReadable(); err != nil {
		t.Fatal(err)
	}
	n, from, err := pc.(*packetConn).ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), from
}

// One socket that is bound to every address of either family talks to any peer, and
// tells each by its address.
func TestUnconnectedSocketHearsAnyPeer(t *testing.T) {
	a, b := pair(t)
	own, err := a.ListenPacket(netip.MustParseAddrPort("[::]:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Close() }()
	peers := make([]net.PacketConn, 3)
	for i := range peers {
		if peers[i], err = b.ListenPacket(netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(4000+i))); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = peers[i].Close() })
	}
	sock := own.(*packetConn)
	to := netip.MustParseAddrPort("10.0.0.2:4000")
	if _, err := sock.WriteToUDPAddrPort([]byte("hello"), to); err != nil {
		t.Fatal(err)
	}
	text, us := receiveFrom(t, peers[0])
	if text != "hello" || us.Addr() != netip.MustParseAddr("10.0.0.1") {
		t.Fatalf("got %q from %v", text, us)
	}
	// Those that we never wrote to may answer too.
	for i, p := range peers {
		if _, err := p.WriteTo([]byte{byte(i)}, net.UDPAddrFromAddrPort(us)); err != nil {
			t.Fatal(err)
		}
		text, from := receiveFrom(t, sock)
		if want := netip.AddrPortFrom(to.Addr(), uint16(4000+i)); text != string(rune(i)) || from != want {
			t.Errorf("got %q from %v, want it from %v", text, from, want)
		}
	}
}

// Datagrams of 64 KiB go through in fragments; one more byte is refused.
func TestLargestDatagram(t *testing.T) {
	a, b := pair(t)
	to, err := b.ListenPacket(netip.MustParseAddrPort("0.0.0.0:9"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = to.Close() }()
	from, err := a.ListenPacket(netip.MustParseAddrPort("[::]:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = from.Close() }()
	const largest = 65535 - 20 - 8
	data := bytes.Repeat([]byte("0123456789abcdef"), largest/16+1)[:largest]
	peer := netip.MustParseAddrPort("10.0.0.2:9")
	if _, err := from.(*packetConn).WriteToUDPAddrPort(data, peer); err != nil {
		t.Fatal(err)
	}
	if got, _ := receiveFrom(t, to); got != string(data) {
		t.Errorf("got %d bytes that are not the %d sent", len(got), len(data))
	}
	if _, err := from.(*packetConn).WriteToUDPAddrPort(append(data, 0), peer); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("one byte more: got %v, want EMSGSIZE", err)
	}
}

// Who does not want to wait is told that the tunnel is full.
func TestWriteNowDoesNotWait(t *testing.T) {
	s := newStack(t, macA) // whose frames nobody takes
	apply(t, s, prefix("10.0.0.1/24"))
	pc, err := s.ListenPacket(netip.MustParseAddrPort("0.0.0.0:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	data := make([]byte, 1200)
	for n := 0; ; n++ {
		if n > 100_000 {
			t.Fatal("the socket takes without end though nothing leaves")
		}
		_, err := pc.(*packetConn).WriteNowToUDPAddrPort(data, netip.MustParseAddrPort("10.0.0.255:9"))
		if err == nil {
			continue
		}
		if err != syscall.EAGAIN {
			t.Fatal(err)
		}
		break
	}
}

// Who has something else to do is told that nothing has come.
func TestReadNowDoesNotWait(t *testing.T) {
	a, b := pair(t)
	pc, err := b.ListenPacket(netip.MustParseAddrPort("0.0.0.0:7"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	to := pc.(*packetConn)
	buf := make([]byte, 100)
	if _, _, err := to.ReadNowFromUDPAddrPort(buf); err != syscall.EAGAIN {
		t.Fatalf("before anything: got %v, want EAGAIN", err)
	}
	if _, err := dial(t, a, "udp", "10.0.0.2:7").Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = to.SetReadDeadline(time.Now().Add(10 * time.Second))
	if err := to.WaitReadable(); err != nil {
		t.Fatal(err)
	}
	n, from, err := to.ReadNowFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "hello" || from.Addr() != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("got %q from %v, %v", buf[:n], from, err)
	}
}

func TestDatagramsGoNowhereElse(t *testing.T) {
	a, _ := pair(t)
	pc, err := a.ListenPacket(netip.MustParseAddrPort("[::]:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	for _, to := range []string{"127.0.0.1:9", "[::1]:9", "0.0.0.0:9", "[::ffff:127.0.0.1]:9"} {
		if _, err := pc.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("to %s: got %v, want ENETUNREACH", to, err)
		}
	}
}

// An address is converted for each datagram that is sent, which costs no allocation.
func TestAddressesConvertWithoutAllocating(t *testing.T) {
	for _, s := range []string{"10.0.0.2:7", "[2001:db8::1]:7", "[::ffff:10.0.0.2]:7"} {
		ap := netip.MustParseAddrPort(s)
		if got := fromFull(toFull(ap)); got != netip.AddrPortFrom(ap.Addr().Unmap(), 7) {
			t.Errorf("%v there and back: got %v", ap, got)
		}
		if n := testing.AllocsPerRun(100, func() { fromFull(toFull(ap)) }); n != 0 {
			t.Errorf("%v: got %v allocations, want 0", ap, n)
		}
	}
}
