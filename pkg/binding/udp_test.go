package binding

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

func listenUDP(t *testing.T, address string) *UDPConn {
	t.Helper()
	c, err := ListenUDP(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// A datagram is answered from the address that it was sent to, whatever others there are.
func TestAnswersComeFromWhereTheQuestionWent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("all of 127.0.0.0/8 is this machine on Linux alone")
	}
	for _, row := range []struct{ listen, at string }{
		{"0.0.0.0:0", "127.0.0.1"}, {"0.0.0.0:0", "127.0.0.2"}, {"127.0.0.3:0", "127.0.0.3"},
		{"[::]:0", "127.0.0.2"}, {":0", "127.0.0.2"}, {"[::]:0", "::1"}, {"[::1]:0", "::1"},
	} {
		s := listenUDP(t, row.listen)
		at := netip.AddrPortFrom(netip.MustParseAddr(row.at), s.local.Port())
		client, err := net.Dial("udp", at.String()) // which hears of nobody else
		if err != nil {
			t.Logf("%s: %v", row.at, err) // a machine without IPv6
			continue
		}
		defer client.Close()
		client.SetDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, 10)
		for range 2 { // the second time from the tables
			if _, err := client.Write([]byte("question")); err != nil {
				t.Fatal(err)
			}
			n, from, to, err := s.ReadFromTo(b)
			if err != nil || string(b[:n]) != "question" || to != at || from.Port() != client.LocalAddr().(*net.UDPAddr).AddrPort().Port() {
				t.Fatalf("%s at %s: got %q from %v to %v, %v", row.listen, row.at, b[:n], from, to, err)
			}
			if _, err := s.WriteFromTo([]byte("answer"), to.Addr(), from); err != nil {
				t.Fatal(err)
			}
			if n, err := client.Read(b); err != nil || string(b[:n]) != "answer" {
				t.Fatalf("%s at %s: got %q, %v", row.listen, row.at, b[:n], err)
			}
		}
	}
}

// What cannot be the source of an answer does not keep it back.
func TestAnswersFromAnAddressThatHasGone(t *testing.T) {
	s := listenUDP(t, "0.0.0.0:0")
	client := listenUDP(t, "127.0.0.1:0")
	for _, from := range []string{"192.0.2.1", "255.255.255.255", "224.0.0.1", "0.0.0.0"} {
		if _, err := s.WriteFromTo([]byte("answer"), netip.MustParseAddr(from), client.local); err != nil {
			t.Errorf("from %s: %v", from, err)
			continue
		}
		if _, _, err := client.ReadFromUDPAddrPort(make([]byte, 10)); err != nil {
			t.Errorf("from %s: %v", from, err)
		}
	}
}

func TestADatagramOfAllAddressesAllocatesNothing(t *testing.T) {
	s, client := listenUDP(t, "0.0.0.0:0"), listenUDP(t, "127.0.0.1:0")
	at := netip.AddrPortFrom(client.local.Addr(), s.local.Port())
	b := make([]byte, 100)
	round := func() {
		if _, err := client.WriteToUDPAddrPort(b, at); err != nil {
			t.Fatal(err)
		}
		n, from, to, err := s.ReadFromTo(b)
		if err == nil {
			_, err = s.WriteFromTo(b[:n], to.Addr(), from)
		}
		if err == nil {
			_, _, err = client.ReadFromUDPAddrPort(b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	round()
	if got := testing.AllocsPerRun(100, round); got != 0 {
		t.Errorf("got %v allocations", got)
	}
}

// 0.0.0.0 is of IPv4, and does not open ports of IPv6.
func TestTheAddressSaysTheFamily(t *testing.T) {
	for address, want := range map[string]string{
		"0.0.0.0:80": "tcp4", "127.0.0.1:80": "tcp4", "[::]:80": "tcp", ":80": "tcp", "[::1]:80": "tcp", "localhost:80": "tcp", "/run/s": "tcp",
	} {
		if got := Network("tcp", address); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}
