package offload

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// A script makes a batch of frames of a few flows from fuzzed bytes, four for each
// frame: flow, length, what is odd about it, and how. Most frames continue their flow.
func script(program []byte) [][]byte {
	var frames [][]byte
	var seq, id [8]uint32
	sizes := []int{0, 1, 2, 99, 100, 100, 536, 1460}
	for ; len(program) >= 4 && len(frames) < 500; program = program[4:] {
		fl, n, odd, how := program[0]&7, sizes[program[1]&7], program[2], program[3]
		p := packet{flow: fl, payload: text(n, how), seq: seq[fl], id: uint16(id[fl]), window: 9}
		p.udp, p.v6, p.noDF = fl&1 != 0, fl&2 != 0, fl == 0
		switch program[1] >> 6 {
		case 1:
			p.flags = flagACK | flagPSH
		case 2:
			p.tags = []byte{0x81, 0, 0, program[1] & 8}
		}
		p.spoil(odd, how)
		seq[fl] += uint32(n)
		id[fl]++
		frames = append(frames, p.frame())
	}
	return frames
}

// spoil makes p odd in one of the ways there are.
func (p *packet) spoil(odd, how byte) {
	switch odd % 32 {
	case 1:
		p.tos = how
	case 2:
		p.ttl = how
	case 3:
		p.ack = uint32(how)
	case 4:
		p.window = uint16(how)
	case 5:
		p.flags = how
	case 6:
		p.tcpOpts = []byte{1, 1, 1, how}
	case 7:
		p.badL4 = true
	case 8:
		p.badIP = true
	case 9:
		p.noCsum = true
	case 10:
		p.pad = int(how % 50)
	case 11:
		p.slack = text(int(how%9), 1)
	case 12:
		p.frag = uint16(how) << 8
	case 13:
		p.options = []byte{1, 1, 1, how}
	case 14:
		p.extProto, p.ext = []byte{0, 43, 44, 50, 60}[how%5], []byte{p.proto(), 0, 1, how & 1, 0, 0, 0, 0}
	case 15:
		p.label = how
	case 16:
		p.urgent = uint16(how)
	case 17:
		p.seq += uint32(how)
	case 18:
		p.id = uint16(how)
	case 19:
		p.noDF = !p.noDF
	case 20:
		p.transfer = func(f []byte) { f[int(how)%len(f)] ^= 1 << (how >> 5) }
	case 22:
		p.ack = uint32(how & 15)
		p.tcpOpts = []byte{1, 1, 5, 10, 0, 0, 0, 16 + how>>6, 0, 0, 0, 20 + how>>4&3}
	case 21:
		p.transfer = func(f []byte) { f[min(len(f)-1, 12+int(how%60))] ^= 0x80 >> (how & 7) }
	}
}

// FuzzCoalesce holds the Coalescer, and Split behind it, to what the package comment
// promises about runs of almost equal frames, and about acknowledgements.
func FuzzCoalesce(f *testing.F) {
	run := func(flow, n byte) []byte { return bytes.Repeat([]byte{flow, n, 0, 0}, 5) }
	for fl := range byte(8) {
		f.Add(run(fl, 7), false)
	}
	f.Add(bytes.Repeat([]byte{0, 4, 0, 0, 5, 4, 0, 0, 2, 7, 0, 0}, 20), true)
	f.Add(bytes.Repeat([]byte{4, 0x87, 0, 0}, 60), true)
	for how := range byte(60) { // acknowledgements of more and more
		f.Add([]byte{0, 0, 22, how, 0, 0, 22, how * 3, 0, 0, 22, how + 16, 0, 0, 22, how * 7}, true)
		f.Add([]byte{0, 0, 3, how, 2, 0, 3, how, 0, 0, 3, how + 1, 2, 0, 3, how + 1, 0, 0, 3, how + 2}, true)
	}
	for odd := range byte(23) {
		f.Add(slices.Concat(run(0, 4), []byte{0, 4, odd, 0x13}, run(0, 4)), true)
		f.Add(slices.Concat(run(3, 4), []byte{3, 4, odd, 0x21}, run(3, 4)), true)
		f.Add(slices.Concat(run(6, 4), []byte{6, 0x44, odd, 0x40}, run(6, 4)), true)
	}
	f.Fuzz(func(t *testing.T, program []byte, all bool) {
		checkBatch(t, script(program), all)
	})
}

// The fuzzer explores; this one makes sure that every run of the tests meets batches
// of mostly ordinary traffic, with and without runs.
func TestRandomBatches(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	glued := 0
	for range 300 {
		program := make([]byte, 4*r.IntN(100))
		for i := range program {
			program[i] = byte(r.Uint32())
			if i%4 == 2 && r.IntN(4) > 0 {
				program[i] = 0 // not odd
			}
		}
		frames := script(program)
		checkBatch(t, frames, true)
		c := Coalescer{UDP: true}
		glued += len(frames) - len(merge(&c, frames))
	}
	if glued < 1000 {
		t.Errorf("only %d frames were glued to another", glued)
	}
}

// FuzzFrames is the same for bytes that have not met a builder: frames, each after
// two bytes of length.
func FuzzFrames(f *testing.F) {
	pack := func(frames ...[]byte) (b []byte) {
		for _, x := range frames {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(x))), x...)
		}
		return b
	}
	f.Add(pack(build(tcp(0, 100), tcp(100, 100))...))
	f.Add(pack(build(udp(0, 100).with(six), udp(1, 100).with(six))...))
	f.Add(pack(nil, []byte{1}, text(13, 1), text(60, 2)))
	f.Add(pack(build(tcp(0, 9).with(func(p *packet) { p.tags = []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 6} }),
		tcp(0, 9).with(func(p *packet) { p.options = []byte{1, 1, 1, 1} }),
		tcp(0, 9).with(func(p *packet) { p.v6, p.ext = true, []byte{protoTCP, 0, 1, 4, 0, 0, 0, 0} }))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var frames [][]byte
		for len(b) >= 2 {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
			frames = append(frames, b[2:2+n:2+n])
			b = b[2+n:]
		}
		checkBatch(t, frames, true)
	})
}

// checkBatch sends one batch through a Coalescer and Split.
func checkBatch(t *testing.T, frames [][]byte, all bool) {
	t.Helper()
	for i, f := range frames {
		var l layout
		if got, want := l.parse(f), dissect(f).kind; got != want {
			t.Fatalf("frame %d is of kind %d, want %d: %x", i, got, want, f)
		}
	}
	c := Coalescer{UDP: all, VerifyAll: all}
	for _, f := range frames {
		c.Push(f)
	}
	var out []Super
	c.Flush(func(s Super) {
		checkSuper(t, s)
		s.Header, s.Payload = slices.Clone(s.Header), slices.Clone(s.Payload)
		out = append(out, s)
	})
	checkEqual(t, frames, out)
	checkThinned(t, frames, merge(&Coalescer{UDP: all, VerifyAll: all, Thin: true}, frames))
}

// checkSuper checks that Split and the reference cut s alike, and correctly.
func checkSuper(t *testing.T, s Super) {
	t.Helper()
	_, frames, err := Split(nil, nil, s)
	if err != nil {
		t.Fatalf("split %v: %v", s.GSO, err)
	}
	want := naiveSplit(s)
	if len(frames) != len(want) {
		t.Fatalf("%v: got %d frames, want %d", s.GSO, len(frames), len(want))
	}
	for i, f := range frames {
		if !bytes.Equal(f, want[i]) {
			t.Fatalf("%v, frame %d of %d:\n got %x\nwant %x", s.GSO, i, len(frames), f, want[i])
		}
		if v := Verify(f); s.GSO != Plain && v != Correct {
			t.Fatalf("%v, frame %d of %d: checksums are %v", s.GSO, i, len(frames), v)
		}
	}
}

// FuzzSplit gives Split headers and metadata that need not agree.
func FuzzSplit(f *testing.F) {
	add := func(s Super) {
		f.Add(s.Header, uint8(s.GSO), s.NeedsCsum, s.Size, s.CsumStart, s.CsumOffset, uint64(1))
	}
	add(superFrame(tcp(0, 500), 100))
	add(superFrame(tcp(0, 500).with(six), 99))
	add(superFrame(udp(0, 500), 100))
	add(superFrame(udp(0, 1000).with(six).with(func(p *packet) { p.tags = []byte{0x81, 0, 0, 1} }), 1))
	add(plainSuper(udp(0, 99)))
	add(Super{Header: text(60, 3)})
	f.Fuzz(func(t *testing.T, whole []byte, gso uint8, needs bool, size, start, offset int, seed uint64) {
		s := Super{Header: whole, Meta: Meta{GSO: Type(gso), NeedsCsum: needs, Size: size, CsumStart: start, CsumOffset: offset}}
		var l layout
		if l.locate(whole) == flow && l.locateData(whole) {
			s.HdrLen = l.data
			if s.GSO != Plain {
				s = inPieces(s, rand.New(rand.NewPCG(seed, 0)))
				s.CsumStart = l.l4
			}
		}
		if _, _, err := Split(nil, nil, s); err == nil && (s.GSO == Plain || l.plain || !l.v6) {
			checkSuper(t, s)
		}
	})
}
