package offload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// merge pushes frames as one batch and returns copies of what comes out.
func merge(c *Coalescer, frames [][]byte) []Super {
	for _, f := range frames {
		c.Push(f)
	}
	var out []Super
	c.Flush(func(s Super) {
		s.Header = slices.Clone(s.Header)
		s.Payload = slices.Clone(s.Payload)
		out = append(out, s)
	})
	return out
}

// shape tells how many frames are in each super-frame, in order, by flow:
// "a2 b1" is two frames of flow a in one, then one of flow b.
func shape(supers []Super) string {
	var out []string
	for _, s := range supers {
		var l layout
		name := "?"
		if l.locate(s.Header) == flow {
			name = string('a' + rune(l.addresses(s.Header)[len(l.addresses(s.Header))-1]))
		}
		out = append(out, fmt.Sprintf("%s%d", name, s.Frames()))
	}
	return strings.Join(out, " ")
}

func build(packets ...packet) [][]byte {
	var frames [][]byte
	for _, p := range packets {
		frames = append(frames, p.frame())
	}
	return frames
}

// tcp is a segment of flow a with n bytes that begin at seq.
func tcp(seq, n int) packet {
	return packet{seq: uint32(seq), payload: text(n, byte(seq)), id: uint16(seq / 100), window: 500}
}

// udp is a datagram of flow a.
func udp(id, n int) packet {
	return packet{udp: true, id: uint16(id), payload: text(n, byte(id))}
}

// with returns p changed.
func (p packet) with(change func(*packet)) packet {
	change(&p)
	return p
}

func on(flow byte) func(*packet) { return func(p *packet) { p.flow = flow } }

func six(p *packet) { p.v6 = true }

func TestWhatIsGlued(t *testing.T) {
	timestamp := func(ts byte) func(*packet) {
		return func(p *packet) { p.tcpOpts = []byte{1, 1, 8, 10, 0, 0, 0, ts, 0, 0, 0, 9} }
	}
	vlan := func(tags ...byte) func(*packet) { return func(p *packet) { p.tags = tags } }
	second := func(change func(*packet)) [][]byte { return build(tcp(0, 100), tcp(100, 100).with(change)) }
	both := func(change func(*packet)) [][]byte {
		return build(tcp(0, 100).with(change), tcp(100, 100).with(change))
	}
	flags := func(f byte) func(*packet) { return func(p *packet) { p.flags = f } }
	udps := func(change func(*packet)) [][]byte { return build(udp(0, 100), udp(1, 100).with(change)) }

	for _, tt := range []struct {
		name   string
		frames [][]byte
		want   string
	}{
		{"a run of segments", build(tcp(0, 100), tcp(100, 100), tcp(200, 100)), "a3"},
		{"IPv6", both(six), "a2"},
		{"the sequence number wraps", build(tcp(-50, 100), tcp(50, 100)), "a2"},
		{"a single segment", build(tcp(0, 100)), "a1"},

		{"a short tail joins and ends the run", build(tcp(0, 100), tcp(100, 50), tcp(150, 50)), "a2 a1"},
		{"a longer segment begins anew", build(tcp(0, 100), tcp(100, 101)), "a1 a1"},
		{"PSH joins and ends the run", build(tcp(0, 100), tcp(100, 100).with(flags(flagACK|flagPSH)), tcp(200, 100)), "a2 a1"},
		{"PSH on the first ends the run", build(tcp(0, 100).with(flags(flagACK|flagPSH)), tcp(100, 100)), "a1 a1"},
		{"a gap", build(tcp(0, 100), tcp(200, 100)), "a1 a1"},
		{"out of order is not repaired", build(tcp(100, 100), tcp(0, 100), tcp(200, 100)), "a1 a1 a1"},
		{"a run does not go on past a frame that could not join", build(tcp(0, 100), tcp(100, 100).with(func(p *packet) { p.ack, p.flags = 7, flagACK|flagPSH }), tcp(100, 100)), "a1 a1 a1"},
		{"a retransmission", build(tcp(0, 100), tcp(0, 100)), "a1 a1"},

		{"other TTL", second(func(p *packet) { p.ttl = 63 }), "a1 a1"},
		{"other ToS", second(func(p *packet) { p.tos = 0x20 }), "a1 a1"},
		{"CE and not CE", second(func(p *packet) { p.tos = 3 }), "a1 a1"},
		{"CE and CE", both(func(p *packet) { p.tos = 3 }), "a2"},
		{"other acknowledgement", second(func(p *packet) { p.ack = 7 }), "a1 a1"},
		{"other window", second(func(p *packet) { p.window = 501 }), "a1 a1"},
		{"other urgent pointer without URG", second(func(p *packet) { p.urgent = 1 }), "a1 a1"},
		{"other MAC address", second(func(p *packet) { p.transfer = func(f []byte) { f[11] = 9 } }), "a1 a1"},
		{"other flow", build(tcp(0, 100), tcp(100, 100).with(on(1))), "a1 b1"},
		{"IPv6, other traffic class", build(tcp(0, 100).with(six), tcp(100, 100).with(six).with(func(p *packet) { p.tos = 4 })), "a1 a1"},
		{"IPv6, other flow label", build(tcp(0, 100).with(six), tcp(100, 100).with(six).with(func(p *packet) { p.label = 4 })), "a1 a1"},
		{"IPv6, other hop limit", build(tcp(0, 100).with(six), tcp(100, 100).with(six).with(func(p *packet) { p.ttl = 4 })), "a1 a1"},

		{"equal options", both(timestamp(5)), "a2"},
		{"other time stamp", build(tcp(0, 100).with(timestamp(5)), tcp(100, 100).with(timestamp(6))), "a1 a1"},
		{"options on the second only", second(timestamp(5)), "a1 a1"},

		{"many options, then none on a short frame", build(tcp(0, 100).with(func(p *packet) { p.tcpOpts = make([]byte, 40) }), tcp(100, 1)), "a1 a1"},

		{"SYN", both(flags(flagACK | flagSYN)), "a1 a1"},
		{"FIN", both(flags(flagACK | flagFIN)), "a1 a1"},
		{"RST", both(flags(flagACK | flagRST)), "a1 a1"},
		{"URG", both(flags(flagACK | flagURG)), "a1 a1"},
		{"no ACK", both(flags(flagPSH)), "a1 a1"},
		{"ECE on both", both(flags(flagACK | flagECE)), "a2"},
		{"ECE on the second", second(flags(flagACK | flagECE)), "a1 a1"},
		{"CWR on the first", build(tcp(0, 100).with(flags(flagACK|flagCWR)), tcp(100, 100)), "a2"},
		{"CWR on the second", second(flags(flagACK | flagCWR)), "a1 a1"},
		{"CWR on both", both(flags(flagACK | flagCWR)), "a1 a1"},
		{"reserved bit on the second", second(func(p *packet) { p.transfer = resum(func(tcp []byte) { tcp[12] |= 1 }) }), "a1 a1"},

		{"DF, any identification", second(func(p *packet) { p.id = 999 }), "a2"},
		{"no DF, identification counts", build(tcp(0, 100).with(noDF(7)), tcp(100, 100).with(noDF(8)), tcp(200, 100).with(noDF(9))), "a3"},
		{"no DF, identification wraps", build(tcp(0, 100).with(noDF(65535)), tcp(100, 100).with(noDF(0))), "a2"},
		{"no DF, identification jumps", build(tcp(0, 100).with(noDF(7)), tcp(100, 100).with(noDF(9))), "a1 a1"},
		{"no DF, same identification", build(tcp(0, 100).with(noDF(7)), tcp(100, 100).with(noDF(7))), "a1 a1"},
		{"DF on the first only", build(tcp(0, 100), tcp(100, 100).with(noDF(2))), "a1 a1"},

		{"IPv4 options", both(func(p *packet) { p.options = []byte{1, 1, 1, 1} }), "a1 a1"},
		{"IPv6 extension header", both(func(p *packet) {
			p.v6, p.extProto, p.ext = true, protoHopByHop, []byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}
		}), "a1 a1"},
		{"fragments", both(func(p *packet) { p.frag = moreFragments }), "?1 ?1"},
		{"wrong TCP checksum", second(func(p *packet) { p.badL4 = true }), "a1 a1"},
		{"wrong TCP checksum on the first", build(tcp(0, 100).with(func(p *packet) { p.badL4 = true }), tcp(100, 100)), "a1 a1"},
		{"wrong IPv4 checksum", second(func(p *packet) { p.badIP = true }), "a1 a1"},

		{"VLAN", both(vlan(0x81, 0, 0, 5)), "a2"},
		{"QinQ", both(vlan(0x88, 0xa8, 0, 5, 0x81, 0, 0, 6)), "a2"},
		{"other VLAN", build(tcp(0, 100).with(vlan(0x81, 0, 0, 5)), tcp(100, 100).with(vlan(0x81, 0, 0, 6))), "a1 a1"},
		{"other priority in the tag", build(tcp(0, 100).with(vlan(0x81, 0, 0, 5)), tcp(100, 100).with(vlan(0x81, 0, 0x20, 5))), "a1 a1"},
		{"tag on the second only", second(vlan(0x81, 0, 0, 5)), "a1 a1"},
		{"three tags", both(vlan(0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x81, 0, 0, 7)), "?1 ?1"},

		{"padded short tail", build(tcp(0, 100), tcp(100, 2).with(func(p *packet) { p.pad = 4 })), "a2"},
		{"padding on every frame", both(func(p *packet) { p.pad = 4 }), "a2"},

		{"datagrams", build(udp(0, 100), udp(1, 100), udp(2, 100)), "a3"},
		{"datagrams over IPv6", build(udp(0, 100).with(six), udp(1, 100).with(six)), "a2"},
		{"a short datagram ends the run", build(udp(0, 100), udp(1, 10), udp(2, 10)), "a2 a1"},
		{"a longer datagram begins anew", build(udp(0, 100), udp(1, 101)), "a1 a1"},
		{"UDP without a checksum", udps(func(p *packet) { p.noCsum = true }), "a1 a1"},
		{"wrong UDP checksum", udps(func(p *packet) { p.badL4 = true }), "a1 a1"},
		{"UDP shorter than its packet", udps(func(p *packet) { p.slack = []byte{1, 2} }), "a1 a1"},
		{"an empty datagram", build(udp(0, 100), udp(1, 0), udp(2, 100)), "a1 a1 a1"},
		{"TCP and UDP on the same ports", build(tcp(0, 100), udp(1, 100)), "a1 a1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Coalescer{UDP: true}
			supers := merge(&c, tt.frames)
			if got := shape(supers); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			checkEqual(t, tt.frames, supers)
		})
	}
}

func noDF(id uint16) func(*packet) { return func(p *packet) { p.noDF, p.id = true, id } }

// resum makes a change to the TCP header of a frame with an IPv4 header, and its
// checksum right again.
func resum(change func(tcp []byte)) func(f []byte) {
	return func(f []byte) {
		tcp := f[ethernetLen+ipv4Len:]
		change(tcp)
		tcp[16], tcp[17] = 0, 0
		binary.BigEndian.PutUint16(tcp[16:], naiveChecksum(f[26:34], protoTCP, tcp))
	}
}

func TestRunsAreBounded(t *testing.T) {
	var long, tiny, many [][]byte
	for i := range 100 {
		long = append(long, tcp(i*1460, 1460).frame())
		many = append(many, udp(i, 10).frame())
	}
	for i := range 1200 {
		tiny = append(tiny, tcp(i, 1).frame())
	}
	for _, tt := range []struct {
		name   string
		frames [][]byte
		want   string
	}{
		{"the packet fits its length field", long, "a44 a44 a12"}, // 44×1460+40 = 64280
		{"segments fit one writev", tiny, "a1022 a178"},
		{"datagrams are as many as the kernel takes", many, "a64 a36"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Coalescer{UDP: true}
			supers := merge(&c, tt.frames)
			if got := shape(supers); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			checkEqual(t, tt.frames, supers)
		})
	}
}

func TestUDPStaysAloneUnlessAskedFor(t *testing.T) {
	var c Coalescer
	if got, want := shape(merge(&c, build(udp(0, 100), udp(1, 100)))), "a1 a1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMetadataOfARun(t *testing.T) {
	tags := []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 6}
	cwr := tcp(0, 100).with(func(p *packet) { p.flags = flagACK | flagCWR })
	for _, tt := range []struct {
		name   string
		frames [][]byte
		want   Meta
	}{
		{"TCPv4", build(tcp(0, 100), tcp(100, 9)),
			Meta{GSO: TCPv4, NeedsCsum: true, Size: 100, HdrLen: 54, CsumStart: 34, CsumOffset: 16}},
		{"TCPv4 with CWR", build(cwr, tcp(100, 9)),
			Meta{GSO: TCPv4, ECN: true, NeedsCsum: true, Size: 100, HdrLen: 54, CsumStart: 34, CsumOffset: 16}},
		{"TCPv6 behind two tags", build(
			tcp(0, 100).with(func(p *packet) { p.v6, p.tags = true, tags }),
			tcp(100, 100).with(func(p *packet) { p.v6, p.tags = true, tags })),
			Meta{GSO: TCPv6, NeedsCsum: true, Size: 100, HdrLen: 82, CsumStart: 62, CsumOffset: 16}},
		{"UDP", build(udp(0, 100), udp(1, 100)),
			Meta{GSO: UDP, NeedsCsum: true, Size: 100, HdrLen: 42, CsumStart: 34, CsumOffset: 6}},
		{"alone", build(tcp(0, 100)), Meta{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Coalescer{UDP: true}
			supers := merge(&c, tt.frames)
			if len(supers) != 1 {
				t.Fatalf("got %s, want one", shape(supers))
			}
			if diff := cmp.Diff(tt.want, supers[0].Meta); diff != "" {
				t.Errorf("meta (-want +got):\n%s", diff)
			}
		})
	}
}

// The receiver of a super-frame that it need not cut takes it as one packet: lengths
// and checksums must be right for that, too.
func TestARunIsOneCorrectPacket(t *testing.T) {
	for _, tt := range []struct {
		name   string
		frames [][]byte
	}{
		{"TCPv4", build(tcp(0, 100), tcp(100, 99).with(func(p *packet) { p.flags = flagACK | flagPSH }))},
		{"TCPv6", build(tcp(0, 101).with(six), tcp(101, 100).with(six))},
		{"UDP", build(udp(0, 100), udp(1, 100))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Coalescer{UDP: true}
			s := merge(&c, tt.frames)[0]
			whole := s.Header
			for _, p := range s.Payload {
				whole = append(whole, p...)
			}
			if err := Complete(whole, s.Meta); err != nil {
				t.Fatal(err)
			}
			if got := Verify(whole); got != Correct {
				t.Errorf("checksums are %v", got)
			}
			var l layout
			if k := l.parse(whole); k != flow || l.end != len(whole) {
				t.Errorf("packet ends at %d of %d", l.end, len(whole))
			}
			last := tt.frames[len(tt.frames)-1]
			if l.proto == protoTCP && whole[l.l4+tcpFlags]&flagPSH != last[l.l4+tcpFlags]&flagPSH {
				t.Error("PSH of the last segment is lost")
			}
		})
	}
}

func TestInputIsNotTouchedNorKept(t *testing.T) {
	frames := build(tcp(0, 100), tcp(100, 100), packet{ack: 5}, tcp(200, 100).with(on(1)))
	var before [][]byte
	for _, f := range frames {
		before = append(before, slices.Clone(f))
	}
	var c Coalescer
	merge(&c, frames)
	if diff := cmp.Diff(before, frames); diff != "" {
		t.Errorf("frames changed (-before +after):\n%s", diff)
	}
	for _, r := range c.runs[:cap(c.runs)] {
		if r.first != nil {
			t.Error("a run still refers to a frame")
		}
	}
	for _, l := range c.joined[:cap(c.joined)] {
		if l.payload != nil {
			t.Error("a link still refers to a frame")
		}
	}
	for _, p := range c.payload[:cap(c.payload)] {
		if p != nil {
			t.Error("the list of payloads still refers to a frame")
		}
	}
}

func TestCoalescingDoesNotAllocate(t *testing.T) {
	c := Coalescer{UDP: true, VerifyAll: true}
	var frames [][]byte
	for i := range 45 {
		frames = append(frames, tcp(i*1448, 1448).frame(), udp(i, 200).with(on(byte(i))).frame(), packet{flow: 9}.frame())
	}
	n := 0
	emit := func(s Super) { n += s.Frames() }
	run := func() {
		for _, f := range frames {
			c.Push(f)
		}
		c.Flush(emit)
	}
	if got := testing.AllocsPerRun(100, run); got != 0 {
		t.Errorf("got %v allocations per batch, want 0", got)
	}
	if n == 0 {
		t.Error("nothing came out")
	}
}

// A checksum of zero may be written 0xffff. Split writes zero, so to glue such a
// frame would change it.
func TestTheOtherFormOfZeroStaysAlone(t *testing.T) {
	first := tcp(0, 100)
	second := tcp(100, 100)
	second.payload[98], second.payload[99] = 0, 0
	f := second.frame()
	copy(second.payload[98:], f[34+tcpCsum:][:2]) // now the checksum is zero
	zero := second.frame()
	other := bytes.Clone(zero)
	other[34+tcpCsum], other[34+tcpCsum+1] = 0xff, 0xff

	third := tcp(100, 100)
	third.id = 0
	ip := third.frame()[14:34]
	third.id = binary.BigEndian.Uint16(ip[10:]) // now the header's checksum is zero
	zeroIP := third.frame()
	otherIP := bytes.Clone(zeroIP)
	otherIP[24], otherIP[25] = 0xff, 0xff

	for _, tt := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"TCP, zero", zero, "a2"},
		{"TCP, 0xffff", other, "a1 a1"},
		{"IPv4, zero", zeroIP, "a2"},
		{"IPv4, 0xffff", otherIP, "a1 a1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Verify(tt.frame); got != Correct {
				t.Fatalf("the frame's checksums are %v", got)
			}
			var c Coalescer
			frames := [][]byte{first.frame(), tt.frame}
			supers := merge(&c, frames)
			if got := shape(supers); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			checkEqual(t, frames, supers)
		})
	}
}
