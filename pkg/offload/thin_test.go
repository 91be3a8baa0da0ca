package offload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// ackOf is an acknowledgement of flow a, without data.
func ackOf(ack int) packet { return packet{ack: uint32(ack), seq: 7, window: 500, id: uint16(ack)} }

func TestWhichAcknowledgementsAreLeftOut(t *testing.T) {
	times := func(value, echo byte) func(*packet) {
		return func(p *packet) { p.tcpOpts = []byte{1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, echo} }
	}
	selective := func(blocks ...uint32) func(*packet) {
		return func(p *packet) {
			p.tcpOpts = []byte{1, 1, 5, byte(2 + 4*len(blocks))}
			for _, edge := range blocks {
				p.tcpOpts = binary.BigEndian.AppendUint32(p.tcpOpts, edge)
			}
		}
	}
	second := func(change func(*packet)) [][]byte { return build(ackOf(100), ackOf(200).with(change)) }
	both := func(change func(*packet)) [][]byte {
		return build(ackOf(100).with(change), ackOf(200).with(change))
	}
	flags := func(f byte) func(*packet) { return func(p *packet) { p.flags = f } }
	fragment := udp(0, 100).with(func(p *packet) { p.frag = moreFragments })
	for _, tt := range []struct {
		name   string
		frames [][]byte
		want   int // frames that remain
	}{
		{"three", build(ackOf(100), ackOf(200), ackOf(300)), 1},
		{"IPv6", both(six), 1},
		{"the number wraps", build(ackOf(-100), ackOf(100)), 1},
		{"an older one behind", build(ackOf(200), ackOf(100)), 2},
		{"repeated", build(ackOf(100), ackOf(100), ackOf(100)), 3},
		{"repeated, and then more", build(ackOf(100), ackOf(100), ackOf(200)), 2},
		{"another window as well", second(func(p *packet) { p.window = 9 }), 1},
		{"another window alone", build(ackOf(100), ackOf(100).with(func(p *packet) { p.window = 9 })), 2},
		{"data between", build(ackOf(100), tcp(7, 10), ackOf(200).with(func(p *packet) { p.seq = 17 })), 3},
		{"data behind", build(ackOf(100), tcp(7, 10).with(func(p *packet) { p.ack = 200 })), 2},
		{"data before", build(tcp(-3, 10).with(func(p *packet) { p.ack = 50 }), ackOf(100), ackOf(200)), 2},
		{"a keep-alive", second(func(p *packet) { p.seq = 6 }), 2},
		{"another flow between", build(ackOf(100), ackOf(100).with(on(1)), ackOf(200)), 2},
		{"a fragment between", build(ackOf(100), fragment, ackOf(200)), 3},
		{"an unreadable frame of its own flow between", build(ackOf(100), ackOf(150).with(flags(flagACK|flagURG)), ackOf(200)), 3},
		{"FIN", second(flags(flagACK | flagFIN)), 2},
		{"RST", second(flags(flagACK | flagRST)), 2},
		{"PSH", both(flags(flagACK | flagPSH)), 2},
		{"ECE on both", both(flags(flagACK | flagECE)), 2},
		{"CWR on the first", build(ackOf(100).with(flags(flagACK|flagCWR)), ackOf(200)), 2},
		{"accurate ECN", second(func(p *packet) { p.transfer = resum(func(tcp []byte) { tcp[12] |= 1 }) }), 2},
		{"CE on the second", second(func(p *packet) { p.tos = 3 }), 2},
		{"other TTL", second(func(p *packet) { p.ttl = 63 }), 2},
		{"other MAC address", second(func(p *packet) { p.transfer = func(f []byte) { f[11] = 9 } }), 2},
		{"other VLAN", second(func(p *packet) { p.tags = []byte{0x81, 0, 0, 5} }), 2},
		{"time stamps", build(ackOf(100).with(times(5, 9)), ackOf(200).with(times(6, 9))), 1},
		{"an earlier time stamp", build(ackOf(100).with(times(5, 9)), ackOf(200).with(times(4, 9))), 2},
		{"an earlier echo", build(ackOf(100).with(times(5, 9)), ackOf(200).with(times(5, 8))), 2},
		{"time stamps on the second only", second(times(5, 9)), 2},
		{"as selective as before", both(selective(300, 400)), 1},
		{"selectively more", build(ackOf(100).with(selective(300, 400)), ackOf(100).with(selective(300, 500))), 1},
		{"selectively more after none", build(ackOf(100), ackOf(100).with(selective(300, 400))), 1},
		{"a hole filled", build(ackOf(100).with(selective(300, 400)), ackOf(400)), 1},
		{"another hole", build(ackOf(100).with(selective(300, 400)), ackOf(100).with(selective(500, 600, 300, 400))), 1},
		{"a block forgotten", build(ackOf(100).with(selective(300, 400)), ackOf(100).with(selective(500, 600))), 2},
		{"less of a block", build(ackOf(100).with(selective(300, 400)), ackOf(200).with(selective(300, 399))), 2},
		{"the same blocks again", build(ackOf(100).with(selective(300, 400)), ackOf(100).with(selective(300, 400))), 2},
		{"bytes that came twice", build(ackOf(100).with(selective(50, 60)), ackOf(200)), 2},
		{"bytes that came twice, beyond", build(ackOf(100).with(selective(300, 310, 300, 400)), ackOf(400)), 2},
		{"no selective ones any more", build(ackOf(100).with(selective(300, 400)), ackOf(100)), 2},
		{"selective with a time stamp", both(func(p *packet) {
			times(5, 9)(p)
			p.tcpOpts = append(p.tcpOpts, 1, 1, 5, 10, 0, 0, 1, 44, 0, 0, 1, 99)
		}), 1},
		{"half a block", both(func(p *packet) { p.tcpOpts = []byte{1, 1, 5, 6, 0, 0, 0, 1} }), 2},
		{"wrong checksum", second(func(p *packet) { p.badL4 = true }), 2},
		{"wrong IPv4 checksum", second(func(p *packet) { p.badIP = true }), 2},
		{"IPv4 options", both(func(p *packet) { p.options = []byte{1, 1, 1, 1} }), 2},
		{"padded", both(func(p *packet) { p.pad = 6 }), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := merge(&Coalescer{Thin: true}, tt.frames)
			if len(out) != tt.want {
				t.Errorf("%d frames remain, want %d", len(out), tt.want)
			}
			checkThinned(t, tt.frames, out)
			if kept := merge(&Coalescer{}, tt.frames); len(kept) != len(tt.frames) {
				t.Errorf("without Thin %d frames remain", len(kept))
			}
		})
	}
}

func TestOneOfSixteenAcknowledgementsRemains(t *testing.T) {
	var frames [][]byte
	for i := range 40 {
		frames = append(frames, ackOf(100*i).frame())
	}
	out := merge(&Coalescer{Thin: true}, frames)
	var got []int
	for _, s := range out {
		got = append(got, s.Thinned)
	}
	if len(got) != 3 || got[0] != 15 || got[1] != 15 || got[2] != 7 {
		t.Errorf("frames stand for %v more, want 15 15 7", got)
	}
	checkThinned(t, frames, out)
}

// checkThinned checks that nothing but superseded acknowledgements is missing: it makes
// the batch that would have given out without Thin, and has that checked.
func checkThinned(t testing.TB, in [][]byte, out []Super) {
	t.Helper()
	thinned := 0
	for _, s := range out {
		thinned += s.Thinned
	}
	left := missing(in, out)
	if len(left) != thinned {
		t.Fatalf("%d frames are missing, and %d are counted", len(left), thinned)
	}
	var kept [][]byte
	for i, f := range in {
		if !left[i] {
			kept = append(kept, f)
			continue
		}
		next := successor(in, i)
		if next == nil || !naiveSupersedes(next, f) {
			t.Fatalf("frame %d is missing: %x\nbehind it is %x", i, f, next)
		}
	}
	checkEqual(t, kept, out)
}

// missing returns the indexes of the acknowledgements that are not in out. Those of a
// flow that remain are in order.
func missing(in [][]byte, out []Super) map[int]bool {
	pending := map[string][][]byte{}
	for _, s := range out {
		if d := dissect(s.Header); s.Frames() == 1 && isNaiveAck(s.Header, d) {
			pending[d.key] = append(pending[d.key], s.Header)
		}
	}
	left := map[int]bool{}
	for i, f := range in {
		d := dissect(f)
		if !isNaiveAck(f, d) {
			continue
		}
		if p := pending[d.key]; len(p) > 0 && bytes.Equal(p[0], f) {
			pending[d.key] = p[1:]
		} else {
			left[i] = true
		}
	}
	return left
}

// isNaiveAck is true for TCP segments without data.
func isNaiveAck(f []byte, d dissection) bool {
	return strings.HasSuffix(d.key, fmt.Sprint(" ", protoTCP)) && d.l4+int(f[d.l4+12]>>4)*4 == d.end
}

// successor returns the next frame of the flow of frame i, or what may be of any flow.
func successor(in [][]byte, i int) []byte {
	key := dissect(in[i]).key
	for _, f := range in[i+1:] {
		if d := dissect(f); d.kind == opaque || d.kind == flow && d.key == key {
			return f
		}
	}
	return nil
}

// naiveSupersedes reports whether b says all that a says, both being of one flow: they
// differ in nothing but the acknowledgement, the window, options, checksums, the lengths
// and the identification, and b's acknowledgements are a's and more.
func naiveSupersedes(b, a []byte) bool {
	da, db := dissect(a), dissect(b)
	if db.kind != flow || !isNaiveAck(a, da) || !isNaiveAck(b, db) || Verify(b) != Correct || da.l4 != db.l4 {
		return false
	}
	if da.l4-da.l3 != map[byte]int{4: 20, 6: 40}[a[da.l3]>>4] || a[da.l4+13] != 0x10 {
		return false
	}
	x, y := bytes.Clone(a[:da.l4+20]), bytes.Clone(b[:db.l4+20])
	for _, f := range [][]byte{x, y} {
		ip, tcp := f[da.l3:], f[da.l4:]
		if ip[0]>>4 == 4 {
			clear(ip[2:6])
			clear(ip[10:12])
		} else {
			clear(ip[4:6])
		}
		clear(tcp[8:12])
		tcp[12] &= 0x0f
		clear(tcp[14:18])
	}
	return bytes.Equal(x, y) && naiveSaysMore(b[db.l4:db.end], a[da.l4:da.end])
}

// naiveSaysMore compares what two TCP headers acknowledge, options read one by one.
func naiveSaysMore(b, a []byte) bool {
	type says struct{ numbers, blocks []uint32 } // the acknowledgement and times; edges
	read := func(h []byte) (s says, ok bool) {
		s.numbers = []uint32{binary.BigEndian.Uint32(h[8:])}
		for o := h[20:]; len(o) > 0; {
			switch {
			case o[0] == 1:
				o = o[1:]
				continue
			case len(o) < 2 || int(o[1]) > len(o) || o[1] < 2:
				return s, false
			case o[0] == 8 && o[1] == 10:
				s.numbers = append(s.numbers, binary.BigEndian.Uint32(o[2:]), binary.BigEndian.Uint32(o[6:]))
			case o[0] == 5 && o[1]%8 == 2:
				for e := o[2:o[1]]; len(e) > 0; e = e[4:] {
					s.blocks = append(s.blocks, binary.BigEndian.Uint32(e))
				}
			default:
				return s, false
			}
			o = o[o[1]:]
		}
		return s, true
	}
	p, ok1 := read(a)
	q, ok2 := read(b)
	if !ok1 || !ok2 || len(p.numbers) != len(q.numbers) {
		return false
	}
	for i := range p.numbers {
		if int32(q.numbers[i]-p.numbers[i]) < 0 {
			return false
		}
	}
	if q.numbers[0] == p.numbers[0] && (len(q.blocks) == 0 || slices.Equal(p.blocks, q.blocks)) {
		return false
	}
	for i := 0; i < len(p.blocks); i += 2 {
		known := int32(q.numbers[0]-p.blocks[i+1]) >= 0
		for j := 0; j < len(q.blocks); j += 2 {
			known = known || int32(p.blocks[i]-q.blocks[j]) >= 0 && int32(q.blocks[j+1]-p.blocks[i+1]) >= 0
		}
		if !known || i == 0 && int32(p.numbers[0]-p.blocks[0]) > 0 {
			return false
		}
	}
	return true
}
