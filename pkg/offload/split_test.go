package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/inet"
)

// superFrame makes a super-frame of p, with metadata as its sender makes them: the
// transport checksum holds the pseudo header's sum.
func superFrame(p packet, size int) Super {
	f := p.frame()
	var l layout
	l.locate(f)
	l.locateData(f)
	binary.BigEndian.PutUint16(f[l.l4+l.csum():], inet.Fold(l.pseudo(f, len(f)-l.l4)))
	s := Super{Header: f, Meta: Meta{GSO: TCPv4, NeedsCsum: true, Size: size, HdrLen: l.data, CsumStart: l.l4, CsumOffset: l.csum()}}
	if p.v6 {
		s.GSO = TCPv6
	}
	if p.udp {
		s.GSO = UDP
	}
	return s
}

// inPieces moves the payload of s out of the header piece, in pieces of random
// length with empty ones between, as they come from a user-space stack.
func inPieces(s Super, r *rand.Rand) Super {
	var l layout
	l.locate(s.Header)
	l.locateData(s.Header)
	cut := l.data
	if r.IntN(2) == 0 {
		cut += r.IntN(len(s.Header) - l.data + 1)
	}
	rest := s.Header[cut:]
	s.Header = s.Header[:cut]
	for len(rest) > 0 {
		n := min(len(rest), r.IntN(40)*r.IntN(40))
		s.Payload = append(s.Payload, rest[:n])
		rest = rest[n:]
	}
	return s
}

func TestSplit(t *testing.T) {
	tags := []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 6}
	opts := []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	for _, tt := range []struct {
		name  string
		super Super
		want  int // frames
	}{
		{"TCPv4", superFrame(tcp(0, 5000), 1448), 4},
		{"TCPv4, an exact multiple", superFrame(tcp(0, 4344), 1448), 3},
		{"TCPv4, one byte more", superFrame(tcp(0, 4345), 1448), 4},
		{"TCPv4, odd segments", superFrame(tcp(0, 100), 7), 15},
		{"TCPv4 with time stamps", superFrame(tcp(0, 5000).with(func(p *packet) { p.tcpOpts = opts }), 1448), 4},
		{"TCPv4 with IPv4 options", superFrame(tcp(0, 5000).with(func(p *packet) { p.options = []byte{1, 1, 1, 1} }), 1448), 4},
		{"TCPv4, numbers wrap", superFrame(tcp(-2000, 5000).with(func(p *packet) { p.id = 65534 }), 1448), 4},
		{"TCPv4, all flags", superFrame(tcp(0, 500).with(func(p *packet) { p.flags = 0xff &^ flagSYN &^ flagRST }), 100), 5},
		{"TCPv6", superFrame(tcp(0, 5000).with(six), 1448), 4},
		{"TCPv6 with an extension header", superFrame(tcp(0, 5000).with(func(p *packet) {
			p.v6, p.extProto, p.ext = true, protoHopByHop, []byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}
		}), 1440), 4},
		{"TCPv4 behind two tags", superFrame(tcp(0, 5000).with(func(p *packet) { p.tags = tags }), 1448), 4},
		{"UDP over IPv4", superFrame(udp(0, 5000), 1200), 5},
		{"UDP over IPv6", superFrame(udp(0, 5000).with(six), 1200), 5},
		{"one segment", superFrame(tcp(0, 100), 1448), 1},
		{"no payload", superFrame(tcp(0, 0), 1448), 1},
		{"the largest packet", superFrame(tcp(0, 65495), 1460), 45},
		{"a segment size beyond the payload", superFrame(tcp(0, 100), 1<<30), 1},
		{"plain", Super{Header: packet{}.frame()}, 1},
		{"plain, not IP", Super{Header: text(60, 3)}, 1},
		{"plain, checksum missing", plainSuper(udp(0, 99)), 1},
		{"plain, odd range", plainSuper(tcp(0, 98).with(six)), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 1))
			for _, s := range []Super{tt.super, inPieces(tt.super, r), inPieces(tt.super, r)} {
				if tt.super.GSO == Plain {
					s = tt.super
				}
				want := naiveSplit(s)
				_, got, err := Split(nil, nil, s)
				if err != nil {
					t.Fatal(err)
				}
				if len(got) != tt.want || len(want) != tt.want {
					t.Fatalf("got %d frames, want %d", len(got), tt.want)
				}
				for i, f := range got {
					if !bytes.Equal(f, want[i]) {
						t.Fatalf("frame %d:\n got %x\nwant %x", i, f, want[i])
					}
					if cap(f) != len(f) {
						t.Errorf("frame %d can be appended to, over the next", i)
					}
					if v := Verify(f); tt.super.NeedsCsum && v != Correct {
						t.Errorf("frame %d: checksums are %v", i, v)
					}
				}
			}
		})
	}
}

func plainSuper(p packet) Super {
	s := superFrame(p, 1)
	s.GSO = Plain
	return s
}

// The flags are where a wrong split does harm that no checksum shows.
func TestFlagsOfSegments(t *testing.T) {
	s := superFrame(tcp(0, 300).with(func(p *packet) { p.flags = flagACK | flagCWR | flagECE | flagPSH | flagFIN }), 100)
	_, frames, err := Split(nil, nil, s)
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{flagACK | flagECE | flagCWR, flagACK | flagECE, flagACK | flagECE | flagPSH | flagFIN}
	for i, f := range frames {
		if got := f[34+tcpFlags]; got != want[i] {
			t.Errorf("segment %d: got flags %#02x, want %#02x", i, got, want[i])
		}
	}
}

// A UDP checksum that comes to zero says 0xffff instead: zero means there is none.
func TestUDPChecksumIsNeverZero(t *testing.T) {
	p := udp(0, 2)
	p.payload = []byte{0, 0}
	f := p.frame()
	p.payload = bytes.Clone(f[40:42]) // now all words of the sum come to 0xffff
	for _, s := range []Super{superFrame(p, 2), plainSuper(p)} {
		_, frames, err := Split(nil, nil, s)
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint16(frames[0][40:]); got != 0xffff {
			t.Errorf("%v: got checksum %#04x, want 0xffff", s.GSO, got)
		}
	}
}

func TestSplitRefuses(t *testing.T) {
	good := superFrame(tcp(0, 300), 100)
	change := func(f func(*Super)) Super {
		s := good
		s.Header = bytes.Clone(s.Header)
		f(&s)
		return s
	}
	for _, tt := range []struct {
		name  string
		super Super
		want  error
	}{
		{"no segment size", change(func(s *Super) { s.Size = 0 }), ErrSize},
		{"a negative segment size", change(func(s *Super) { s.Size = -1 }), ErrSize},
		{"an unknown type", change(func(s *Super) { s.GSO = 9 }), ErrType},
		{"TCPv6 that is IPv4", change(func(s *Super) { s.GSO = TCPv6 }), ErrHeader},
		{"UDP that is TCP", change(func(s *Super) { s.GSO = UDP }), ErrHeader},
		{"TCP that is UDP", change(func(s *Super) { s.Header[23] = protoUDP }), ErrHeader},
		{"no IP", change(func(s *Super) { s.Header[12] = 9 }), ErrHeader},
		{"a fragment", change(func(s *Super) { s.Header[20] |= 0x20 }), ErrHeader},
		{"nothing", Super{Meta: good.Meta}, ErrHeader},
		{"half a TCP header", change(func(s *Super) { s.Header = s.Header[:50] }), ErrHeader},
		{"a TCP header shorter than its minimum", change(func(s *Super) { s.Header[46] = 0x40 }), ErrHeader},
		{"a TCP header longer than the piece", change(func(s *Super) { s.Header = s.Header[:54]; s.Header[46] = 0x60 }), ErrHeader},
		{"the checksum elsewhere", change(func(s *Super) { s.CsumStart++ }), ErrChecksum},
		{"another checksum", change(func(s *Super) { s.CsumOffset = udpCsum }), ErrChecksum},
		{"a segment longer than a packet", change(func(s *Super) { s.Payload, s.Size = [][]byte{make([]byte, 70000)}, 65530 }), ErrTooLong},
		{"plain, checksum behind the end", Super{Header: good.Header, Meta: Meta{NeedsCsum: true, CsumStart: len(good.Header) - 1}}, ErrChecksum},
		{"plain, checksum before the start", Super{Header: good.Header, Meta: Meta{NeedsCsum: true, CsumStart: -4}}, ErrChecksum},
	} {
		t.Run(tt.name, func(t *testing.T) {
			arena, frames := []byte("kept"), [][]byte{{1}}
			arena, frames, err := Split(arena, frames, tt.super)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if string(arena) != "kept" || len(frames) != 1 {
				t.Errorf("arena %q and %d frames, want them as they were", arena, len(frames))
			}
		})
	}
}

func TestEveryPrefixOfAHeaderIsRefused(t *testing.T) {
	for _, s := range []Super{
		superFrame(tcp(0, 300).with(six), 100),
		superFrame(udp(0, 300).with(func(p *packet) { p.tags = []byte{0x81, 0, 0, 1} }), 100),
		superFrame(tcp(0, 300).with(func(p *packet) {
			p.v6, p.extProto, p.ext = true, protoHopByHop, []byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}
		}), 100),
	} {
		whole := s.Header
		for n := range len(whole) - 300 {
			s.Header = whole[:n:n]
			if _, _, err := Split(nil, nil, s); !errors.Is(err, ErrHeader) {
				t.Errorf("%v, first %d bytes: got %v, want %v", s.GSO, n, err, ErrHeader)
			}
		}
	}
}

func TestFramesStayWhenTheArenaGrows(t *testing.T) {
	s := superFrame(tcp(0, 5000), 1448)
	want := naiveSplit(s)
	var arena []byte
	var frames [][]byte
	for range 5 {
		var err error
		if arena, frames, err = Split(arena, frames, s); err != nil {
			t.Fatal(err)
		}
	}
	if len(frames) != 5*len(want) {
		t.Fatalf("got %d frames, want %d", len(frames), 5*len(want))
	}
	for i, f := range frames {
		if !bytes.Equal(f, want[i%len(want)]) {
			t.Errorf("frame %d has changed", i)
		}
	}
}

func TestSplitDoesNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	supers := []Super{
		superFrame(tcp(0, 60000), 1448), inPieces(superFrame(tcp(0, 60000).with(six), 1428), r),
		superFrame(udp(0, 20000), 1200), plainSuper(udp(0, 200)),
	}
	arena, frames := make([]byte, 0, 200000), make([][]byte, 0, 200)
	run := func() {
		a, f := arena[:0], frames[:0]
		for _, s := range supers {
			a, f, _ = Split(a, f, s)
		}
		if len(f) < 90 {
			t.Errorf("got %d frames", len(f))
		}
	}
	if got := testing.AllocsPerRun(100, run); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

func TestVirtioHeader(t *testing.T) {
	for _, m := range []Meta{
		{},
		{NeedsCsum: true, CsumStart: 34, CsumOffset: 6},
		{GSO: TCPv4, NeedsCsum: true, Size: 1448, HdrLen: 66, CsumStart: 34, CsumOffset: 16},
		{GSO: TCPv4, ECN: true, NeedsCsum: true, Size: 1448, HdrLen: 66, CsumStart: 34, CsumOffset: 16},
		{GSO: TCPv6, NeedsCsum: true, Size: 1428, HdrLen: 86, CsumStart: 54, CsumOffset: 16},
		{GSO: UDP, NeedsCsum: true, Size: 1200, HdrLen: 42, CsumStart: 34, CsumOffset: 6},
	} {
		b := bytes.Repeat([]byte{0xff}, VirtioLen)
		m.PutVirtio(b)
		got, err := ParseVirtio(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Errorf("%v after a round trip (-want +got):\n%s", m.GSO, diff)
		}
	}
}

// The layout is the kernel's: struct virtio_net_hdr in linux/virtio_net.h.
func TestVirtioHeaderAsTheKernelWritesIt(t *testing.T) {
	b := []byte{1, 0x84, 0, 0, 0, 0, 0, 0, 0, 0}
	for i, v := range []uint16{86, 1428, 54, 16} {
		binary.NativeEndian.PutUint16(b[2+2*i:], v)
	}
	got, err := ParseVirtio(b)
	if err != nil {
		t.Fatal(err)
	}
	want := Meta{GSO: TCPv6, ECN: true, NeedsCsum: true, Size: 1428, HdrLen: 86, CsumStart: 54, CsumOffset: 16}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b[1] = 3 // UFO, which is never negotiated
	if _, err := ParseVirtio(b); err == nil {
		t.Error("a type that was not negotiated is accepted")
	}
}
