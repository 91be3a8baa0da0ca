package dhcp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
)

// knownFrame was put together by other means: it keeps builder and parser from
// being wrong together.
const knownFrame = "" +
	"5e0000000001" + "5e0000000101" + "0800" + // to us, from the server, IPv4
	"45000024000040004011" + "2697" + "0a000001" + "0a000032" + // 36 bytes, UDP, checksum
	"0043" + "0044" + "0010" + "db00" + // ports, 16 bytes, checksum
	"0102030405060708"

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// datagramFrame is a frame that parseDatagram takes.
func datagramFrame() []byte {
	return serverFrame(path{srcMAC: serverMAC, dstMAC: ourMAC, src: serverIP, dst: leasedIP}, []byte{1, 2, 3, 4, 5, 6, 7, 8})
}

func TestDatagramOnTheWire(t *testing.T) {
	want := unhex(t, knownFrame)
	if got := datagramFrame(); !bytes.Equal(got, want) {
		t.Errorf("built\n got %x\nwant %x", got, want)
	}
	d, ok := parseDatagram(want)
	if !ok || d.srcMAC != serverMAC || d.dstMAC != ourMAC || d.src != serverIP || d.dst != leasedIP {
		t.Errorf("parsed %v %+v", ok, d)
	}
	if got, want := d.payload, []byte{1, 2, 3, 4, 5, 6, 7, 8}; !bytes.Equal(got, want) {
		t.Errorf("payload % x, want % x", got, want)
	}
}

func TestProbeOnTheWire(t *testing.T) {
	want := unhex(t, "ffffffffffff"+"5e0000000001"+"0806"+
		"0001"+"0800"+"06"+"04"+"0001"+"5e0000000001"+"00000000"+"000000000000"+"0a000032")
	if got := arpProbe(ourMAC, leasedIP); !bytes.Equal(got, want) {
		t.Errorf("probe\n got %x\nwant %x", got, want)
	}
}

// fixIP makes the IP header's checksum right after a change to it.
func fixIP(f []byte) {
	ip := f[14 : 14+headerLen(f[14])]
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], inet.Checksum(ip))
}

func TestParseDatagram(t *testing.T) {
	for _, row := range []struct {
		name string
		edit func(f []byte) []byte
		want bool
	}{
		{"as built", func(f []byte) []byte { return f }, true},
		{"with padding after the packet", func(f []byte) []byte { return append(f, make([]byte, 18)...) }, true},
		{"with IP options", func(f []byte) []byte {
			f = slices.Insert(f, 34, 1, 1, 1, 0)
			f[14], f[17] = 0x46, f[17]+4
			fixIP(f)
			return f
		}, true},
		{"without UDP checksum", func(f []byte) []byte { f[40], f[41] = 0, 0; return f }, true},
		{"with the checksum left to hardware", func(f []byte) []byte {
			binary.BigEndian.PutUint16(f[40:], inet.Fold(inet.Pseudo(f[26:34], inet.ProtoUDP, 16)))
			return f
		}, true},
		{"that may not be fragmented", func(f []byte) []byte { f[20] = 0x40; fixIP(f); return f }, true},
		{"with bytes after the datagram", func(f []byte) []byte { f[17] += 2; fixIP(f); return append(f, 9, 9) }, true},
		{"with a wrong UDP checksum", func(f []byte) []byte { f[41]++; return f }, false},
		{"with a wrong IP checksum", func(f []byte) []byte { f[25]++; return f }, false},
		{"with a payload changed on the way", func(f []byte) []byte { f[45] ^= 0x10; return f }, false},
		{"first fragment", func(f []byte) []byte { f[20] = 0x20; fixIP(f); return f }, false},
		{"later fragment", func(f []byte) []byte { f[20], f[21] = 0, 1; fixIP(f); return f }, false},
		{"version 6 in an IPv4 frame", func(f []byte) []byte { f[14] = 0x65; fixIP(f); return f }, false},
		{"with an IP header of 16 bytes", func(f []byte) []byte { f[14] = 0x44; fixIP(f); return f }, false},
		{"with an IP header beyond the frame", func(f []byte) []byte { f[14] = 0x4f; return f }, false},
		{"longer than its frame", func(f []byte) []byte { f[17]++; fixIP(f); return f }, false},
		{"with a total length below its headers", func(f []byte) []byte { f[17] = 27; fixIP(f); return f }, false},
		{"with a UDP length below its header", func(f []byte) []byte { f[39] = 7; return f }, false},
		{"with a UDP length beyond the packet", func(f []byte) []byte { f[39] = 17; return f }, false},
		{"to another port", func(f []byte) []byte { f[37], f[41] = 69, f[41]-1; return f }, false},
		{"of TCP", func(f []byte) []byte { f[23] = 6; fixIP(f); return f }, false},
		{"IPv6", func(f []byte) []byte { f[12], f[13] = 0x86, 0xdd; return f }, false},
		{"VLAN tagged", func(f []byte) []byte { return slices.Insert(f, 12, 0x81, 0, 0, 7) }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			d, ok := parseDatagram(row.edit(datagramFrame()))
			if ok != row.want {
				t.Fatalf("taken %v, want %v", ok, row.want)
			}
			if ok && !bytes.Equal(d.payload, []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
				t.Errorf("payload % x", d.payload)
			}
		})
	}
}

func TestEveryShortPrefixIsNoDatagram(t *testing.T) {
	f := datagramFrame()
	for n := range f {
		if _, ok := parseDatagram(f[:n]); ok {
			t.Errorf("%d of %d bytes taken", n, len(f))
		}
	}
	probe := arpProbe(ourMAC, leasedIP)
	for n := range probe {
		if _, _, ok := arpSender(probe[:n]); ok {
			t.Errorf("%d of %d bytes of ARP taken", n, len(probe))
		}
	}
}

func TestChecksumIsNeverWrittenAsNone(t *testing.T) {
	for i := range 1 << 16 { // one of these payloads sums up to zero
		f := serverFrame(anyPath, []byte{byte(i >> 8), byte(i)})
		if f[40] == 0 && f[41] == 0 {
			t.Fatalf("payload %04x is sent without a checksum", i)
		}
	}
}

func FuzzParseDatagram(f *testing.F) {
	f.Add(datagramFrame())
	f.Add(offerFrame(xid{1}, anyPath, nil))
	f.Add(arpProbe(ourMAC, leasedIP))
	withOptions := slices.Insert(datagramFrame(), 34, 1, 1, 1, 0)
	withOptions[14], withOptions[17] = 0x46, withOptions[17]+4
	fixIP(withOptions)
	f.Add(withOptions)
	f.Add(tcpFrame())
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		d, ok := parseDatagram(b)
		if ok && (len(d.payload) > len(b)-42 || !d.src.Is4() || !d.dst.Is4()) {
			t.Errorf("%d bytes of payload in a frame of %d, from %v to %v", len(d.payload), len(b), d.src, d.dst)
		}
		if _, addr, ok := arpSender(b); ok && addr == (netip.Addr{}) {
			t.Error("ARP without sender")
		}
		c := New(Config{MAC: ourMAC[:]})
		c.probed.Store(ipKey(leasedIP))
		c.awaited.Store(awaits(xid{1}))
		passed := 0
		next := frame.WriterFunc(func(frames [][]byte) error { passed += len(frames); return nil })
		if err := c.Filter(next).WriteFrames([][]byte{b}); err != nil {
			t.Fatal(err)
		}
		if taken := 1 - passed; taken != len(c.replies)+int(c.ignored.Load()) || taken == 1 && !ok {
			t.Errorf("passed %d, queued %d, ignored %d", passed, len(c.replies), c.ignored.Load())
		}
		if !bytes.Equal(b, before) {
			t.Error("the frame was changed")
		}
	})
}
