package offload

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/inet"
)

func TestOrder(t *testing.T) {
	ack := func(flow byte) packet { return packet{flow: flow, ack: 5} }
	fragment := udp(0, 100).with(func(p *packet) { p.frag = moreFragments })
	arp := packet{payload: text(40, 0), transfer: func(f []byte) { f[12], f[13] = 8, 6 }}
	icmp := packet{payload: text(40, 0), transfer: func(f []byte) { f[23] = 1 }}
	b := func(seq int) packet { return tcp(seq, 100).with(on(1)) }
	truncated := packet{payload: text(40, 0), transfer: func(f []byte) { f[16] = 0xff }}

	for _, tt := range []struct {
		name    string
		packets []packet
		want    string
	}{
		{"flows are glued through each other", []packet{tcp(0, 100), b(0), tcp(100, 100), b(100)}, "a2 b2"},
		{"an acknowledgement ends its own flow's run only", []packet{tcp(0, 100), b(0), ack(0), tcp(100, 100), b(100)}, "a1 b2 a1 a1"},
		{"an acknowledgement of another flow keeps its place", []packet{tcp(0, 100), ack(2), b(0), tcp(100, 100), b(100)}, "a2 c1 b2"},
		{"a frame with a wrong checksum ends its flow's run", []packet{tcp(0, 100), b(0), tcp(7, 9).with(func(p *packet) { p.badL4 = true }), tcp(100, 100), b(100)}, "a1 b2 a1 a1"},
		{"a fragment ends every run", []packet{tcp(0, 100), b(0), fragment, tcp(100, 100), b(100)}, "a1 b1 ?1 a1 b1"},
		{"a malformed packet ends every run", []packet{tcp(0, 100), truncated, tcp(100, 100)}, "a1 a1 a1"},
		{"ARP ends none", []packet{tcp(0, 100), arp, tcp(100, 100)}, "a2 ?1"},
		{"ICMP ends none", []packet{tcp(0, 100), icmp, tcp(100, 100)}, "a2 ?1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c Coalescer
			frames := build(tt.packets...)
			supers := merge(&c, frames)
			if got := shape(supers); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			checkEqual(t, frames, supers)
		})
	}
}

func TestBatchesDoNotMix(t *testing.T) {
	var c Coalescer
	fragment := udp(0, 100).with(func(p *packet) { p.frag = moreFragments })
	merge(&c, build(tcp(-100, 100), fragment, fragment))
	for i := range 3 {
		supers := merge(&c, build(tcp(i*200, 100), tcp(i*200+100, 100)))
		if got, want := shape(supers), "a2"; got != want {
			t.Errorf("batch %d: got %s, want %s", i, got, want)
		}
	}
	if got := shape(merge(&c, nil)); got != "" {
		t.Errorf("empty batch: got %s, want nothing", got)
	}
}

// Two flows in one slot of the table end each other's runs, and are never mixed up.
func TestFlowsWithTheSameHash(t *testing.T) {
	hash := func(p packet) uint8 {
		r := run{first: p.frame()}
		r.parse(r.first)
		return r.hash()
	}
	for _, tt := range []struct {
		name string
		at   int // of a byte of the frame that tells the flows apart
		base packet
	}{
		{"IPv4 source", 28, tcp(0, 100)},
		{"IPv4 destination", 31, tcp(0, 100)},
		{"source port", 34, tcp(0, 100)},
		{"destination port", 36, tcp(0, 100)},
		{"IPv6 source prefix", 26, tcp(0, 100).with(six)},
		{"IPv6 source", 34, tcp(0, 100).with(six)},
		{"IPv6 destination prefix", 42, tcp(0, 100).with(six)},
		{"IPv6 destination", 50, tcp(0, 100).with(six)},
		{"UDP port", 36, udp(0, 100)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := tt.base
			b := a.with(func(p *packet) { p.seq += uint32(len(p.payload)); p.id++ })
			c := b.with(func(p *packet) { p.seq += uint32(len(p.payload)); p.id++ })
			twin := b
			for i := 1; hash(twin) != hash(a) || i == 1; i++ {
				if i > 1<<16 {
					t.Fatal("no flow has the same hash")
				}
				twin.transfer = func(f []byte) { moveTo(f, tt.at, uint16(i)) }
			}
			co := Coalescer{UDP: true}
			frames := build(a, twin, b, c)
			supers := merge(&co, frames)
			var got []int
			for _, s := range supers {
				got = append(got, s.Frames())
			}
			if diff := cmp.Diff([]int{1, 1, 2}, got); diff != "" {
				t.Errorf("frames in each (-want +got):\n%s", diff)
			}
			checkEqual(t, frames, supers)
		})
	}
}

// moveTo adds to a word of the frame f that all of its checksums cover, and makes
// them right.
func moveTo(f []byte, at int, add uint16) {
	binary.BigEndian.PutUint16(f[at:], binary.BigEndian.Uint16(f[at:])+add)
	d := dissect(f)
	ip, l4 := f[d.l3:d.l4], f[d.l4:d.end]
	addresses, proto := ip[8:], ip[6]
	if ip[0]>>4 == 4 {
		addresses, proto = ip[12:], ip[9]
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], inet.Checksum(ip))
	}
	sum := l4[tcpCsum:]
	if proto == protoUDP {
		sum = l4[udpCsum:]
	}
	sum[0], sum[1] = 0, 0
	binary.BigEndian.PutUint16(sum, naiveChecksum(addresses, proto, l4))
}
