package inet

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"
)

// A packet that was put together by other means: it keeps builders and readers from being
// wrong together. 10.0.0.1:67 sends eight bytes to 10.0.0.50:68.
const known = "45000024000040004011" + "2697" + "0a000001" + "0a000032" +
	"0043" + "0044" + "0010" + "db00" +
	"0102030405060708"

var from, to = [4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 50}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPacketOnTheWire(t *testing.T) {
	want := unhex(t, known)
	got := bytes.Repeat([]byte{0xee}, len(want)) // what was there before does not count
	copy(got[4:8], want[4:8])
	copy(got[IPv4Len+UDPLen:], want[IPv4Len+UDPLen:])
	PutIPv4(got, ProtoUDP, from, to)
	PutUDP(got[IPv4Len:], 67, 68, IPv4(got).Addresses())
	if !bytes.Equal(got, want) {
		t.Errorf("built\n got %x\nwant %x", got, want)
	}
	p, ok := ParseIPv4(append(want, 0, 0))
	if !ok || !p.Summed() || p.Fragment() || p.Proto() != ProtoUDP || p.Src() != netip.AddrFrom4(from) || p.Dst() != netip.AddrFrom4(to) {
		t.Fatalf("parsed %v %x", ok, p)
	}
	if b := p.Payload(); len(b) != 16 || !UDPSummed(b, p.Addresses()) || !Summed(b, p.Addresses(), ProtoUDP) {
		t.Errorf("payload %x does not have its checksum", b)
	}
}

func TestParseIPv4Refuses(t *testing.T) {
	for name, edit := range map[string]func(b []byte) []byte{
		"a short header":                  func(b []byte) []byte { return b[:IPv4Len-1] },
		"nothing":                         func(b []byte) []byte { return nil },
		"version 6":                       func(b []byte) []byte { b[0] = 0x65; return b },
		"a header length below the least": func(b []byte) []byte { b[0] = 0x44; return b },
		"a header longer than the packet": func(b []byte) []byte { b[0], b[3] = 0x4f, 40; return append(b, make([]byte, 40)...) },
		"a packet that is cut off":        func(b []byte) []byte { return b[:len(b)-1] },
	} {
		if p, ok := ParseIPv4(edit(unhex(t, known))); ok {
			t.Errorf("%s: parsed %x", name, p)
		}
	}
}

func TestFragmentIsFirstAndFurther(t *testing.T) {
	for flags, want := range map[byte]bool{0: false, 0x40: false, 0x20: true, 0x01: true, 0x1f: true} {
		p := IPv4(unhex(t, known))
		p[6] = flags
		if p.Fragment() != want {
			t.Errorf("with %#x: got %v", flags, !want)
		}
	}
}

func TestUDPSummed(t *testing.T) {
	p := IPv4(unhex(t, known))
	b := p.Payload()
	for sum, want := range map[[2]byte]bool{
		{0xdb, 0x00}: true,
		{0xdb, 0x01}: false,
		{0x14, 0x54}: true, // of the pseudo header alone
		{0, 0}:       false,
	} {
		copy(b[6:], sum[:])
		if UDPSummed(b, p.Addresses()) != want {
			t.Errorf("with %x: got %v", sum, !want)
		}
	}
}

func TestTransportChecksumIsNeverZero(t *testing.T) {
	for sum, want := range map[uint64]uint16{0xffff: 0xffff, 0x1fffe: 0xffff, 0xfffe: 1, 0: 0xffff} {
		if got := TransportChecksum(sum); got != want {
			t.Errorf("of %#x: got %#x, want %#x", sum, got, want)
		}
	}
}

func TestIPv6OnTheWire(t *testing.T) {
	src, dst := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1:ff00:2")
	want := unhex(t, "60000000"+"0003"+"3a"+"ff"+"fe80000000000000"+"0000000000000001"+"ff02000000000000"+"00000001ff000002"+"010203")
	got := bytes.Repeat([]byte{0xee}, len(want))
	copy(got[IPv6Len:], want[IPv6Len:])
	PutIPv6(got, ProtoICMPv6, 255, src.As16(), dst.As16())
	if !bytes.Equal(got, want) {
		t.Errorf("built\n got %x\nwant %x", got, want)
	}
	p, ok := ParseIPv6(append(want, 0))
	if !ok || p.Next() != ProtoICMPv6 || p.Hops() != 255 || p.Src() != src || p.Dst() != dst || !bytes.Equal(p.Payload(), []byte{1, 2, 3}) {
		t.Errorf("parsed %v %x", ok, p)
	}
	want4 := append([]byte{0x45}, want[1:]...)
	for name, b := range map[string][]byte{"a short header": want[:IPv6Len-1], "version 4": want4, "a packet that is cut off": want[:len(want)-1]} {
		if _, ok := ParseIPv6(b); ok {
			t.Errorf("parsed %s", name)
		}
	}
}

func TestGroupsOfAnAddress(t *testing.T) {
	group := SolicitedNode(netip.MustParseAddr("2001:db8::aa:bbcc:ddee"))
	if want := netip.MustParseAddr("ff02::1:ffcc:ddee"); group != want {
		t.Errorf("asked at %v, want %v", group, want)
	}
	if got, want := GroupMAC(group), [6]byte{0x33, 0x33, 0xff, 0xcc, 0xdd, 0xee}; got != want {
		t.Errorf("on Ethernet at %x, want %x", got, want)
	}
}

func TestARPOnTheWire(t *testing.T) {
	want := unhex(t, "0001"+"0800"+"0604"+"0002"+"5e0000000001"+"0a000001"+"5e0000000002"+"0a000032")
	a := ARP{
		Op:      ARPReply,
		FromMAC: [6]byte{0x5e, 5: 1}, From: netip.AddrFrom4(from),
		ToMAC: [6]byte{0x5e, 5: 2}, To: netip.AddrFrom4(to),
	}
	got := make([]byte, ARPLen)
	a.Put(got)
	if !bytes.Equal(got, want) {
		t.Errorf("built\n got %x\nwant %x", got, want)
	}
	if back, ok := ParseARP(append(want, 0)); !ok || back != a {
		t.Errorf("parsed %v %+v", ok, back)
	}
	for name, b := range map[string][]byte{
		"a short one":            want[:ARPLen-1],
		"one for another medium": append([]byte{0, 6}, want[2:]...),
	} {
		if _, ok := ParseARP(b); ok {
			t.Errorf("parsed %s", name)
		}
	}
}

// Readers take anything, and what they find whole can be looked at.
func FuzzParse(f *testing.F) {
	f.Add(unhex(f, known))
	f.Add(unhex(f, "0001"+"0800"+"0604"+"0001"+"5e0000000001"+"0a000001"+"000000000000"+"0a000032"))
	f.Add([]byte{0x4f})
	f.Add(append([]byte{0x60, 5: 1, IPv6Len - 1: 1}, 1))
	f.Fuzz(func(t *testing.T, in []byte) {
		if a, ok := ParseARP(in); ok {
			out := make([]byte, ARPLen)
			if a.Put(out); !bytes.Equal(out, in[:ARPLen]) {
				t.Errorf("ARP %x came back as %x", in[:ARPLen], out)
			}
		}
		if p, ok := ParseIPv6(in); ok && (len(p.Payload()) > len(in)-IPv6Len || len(p.Addresses()) != 32 || !p.Src().Is6() || !p.Dst().Is6()) {
			t.Errorf("a packet of %d of %d bytes", len(p), len(in))
		}
		p, ok := ParseIPv4(bytes.Clone(in))
		if !ok {
			return
		}
		if n := len(p) - len(p.Payload()); n < IPv4Len || len(p) > len(in) {
			t.Errorf("a header of %d, a packet of %d of %d bytes", n, len(p), len(in))
		}
		p.Summed()
		p.Fragment()
		if b := p.Payload(); len(b) >= UDPLen {
			PutUDP(b, 1, 2, p.Addresses())
			if !Summed(b, p.Addresses(), ProtoUDP) {
				t.Errorf("%x does not have its checksum", b)
			}
		}
	})
}
