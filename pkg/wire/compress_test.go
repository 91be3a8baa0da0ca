package wire

import (
	"bytes"
	"compress/zlib"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame"
)

// deflated is b as one zlib stream.
func deflated(b []byte) []byte {
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// blocks is a unit of these blocks.
func blocks(all ...[]byte) []byte {
	unit := u32(uint32(len(all)))
	for _, b := range all {
		unit = slices.Concat(unit, u32(uint32(len(b))), b)
	}
	return unit
}

func TestCompressedBlocksAreUnpackedWithinLimits(t *testing.T) {
	small, large := body(14, 1), body(1514, 2)
	bomb := deflated(make([]byte, 1<<20))
	if len(bomb) > MaxBlock {
		t.Fatalf("a bomb of %d bytes does not get in", len(bomb))
	}
	flipped := deflated(large)
	flipped[len(flipped)-1] ^= 1
	for _, row := range []struct {
		name string
		in   []byte
		want [][]byte
		bad  ParserStats
	}{
		{"two frames", blocks(deflated(small), deflated(large)), [][]byte{small, large}, ParserStats{}},
		{"a frame not compressed", blocks(small, deflated(large)), [][]byte{large}, ParserStats{Corrupt: 1}},
		{"no block at all", blocks(nil, deflated(small)), [][]byte{small}, ParserStats{Corrupt: 1}},
		{"a wrong checksum", blocks(flipped, deflated(small)), [][]byte{small}, ParserStats{Corrupt: 1}},
		{"a stream cut off", blocks(deflated(large)[:12], deflated(small)), [][]byte{small}, ParserStats{Corrupt: 1}},
		{"a bomb", blocks(bomb, deflated(small)), [][]byte{small}, ParserStats{Giants: 1}},
		{"a frame one byte too long", blocks(deflated(body(1601, 3)), deflated(small)), [][]byte{small}, ParserStats{Giants: 1}},
		{"a frame too short", blocks(deflated(body(13, 3)), deflated(small)), [][]byte{small}, ParserStats{Runts: 1}},
		{"a keep-alive is not compressed", slices.Concat(u32(keepAliveMark, 2), body(2, 9), blocks(deflated(small))), [][]byte{small}, ParserStats{KeepAlives: 1}},
	} {
		for how, src := range map[string]io.Reader{
			"at once":      bytes.NewReader(row.in),
			"byte by byte": iotest.OneByteReader(bytes.NewReader(row.in)),
		} {
			t.Run(row.name+" "+how, func(t *testing.T) {
				p := NewInflatingParser(nil)
				got, err := drain(p, src)
				if err != io.EOF {
					t.Errorf("error %v", err)
				}
				if diff := cmp.Diff(row.want, got); diff != "" {
					t.Errorf("frames (-want +got):\n%s", diff)
				}
				bad := p.Stats()
				bad.Frames, bad.Bytes = 0, 0
				if bad != row.bad {
					t.Errorf("counted %+v, want %+v", bad, row.bad)
				}
			})
		}
	}
}

// One read of the longest frames, each in a few bytes, is handed on in parts.
func TestWhatIsUnpackedAtOnceIsBounded(t *testing.T) {
	one := deflated(make([]byte, frame.MaxLen))
	const n = 1000
	stream := bytes.Repeat(blocks(one), n)
	p := NewInflatingParser(nil)
	src := bytes.NewReader(stream)
	got, most := 0, 0
	for {
		frames, _, err := p.Next(src)
		got += len(frames)
		most = max(most, len(frames)*frame.MaxLen)
		if err == io.EOF {
			break
		}
	}
	if got != n {
		t.Errorf("%d frames of %d", got, n)
	}
	if most > inflated {
		t.Errorf("%d bytes unpacked at once, want at most %d", most, inflated)
	}
}

func TestPackedBatchIsWhatParserReads(t *testing.T) {
	frames := [][]byte{body(14, 1), body(13, 2), body(1600, 3), body(1601, 4)}
	b, dropped := NewPacker().AppendBatch([]byte{}, frames)
	if dropped != 2 {
		t.Errorf("dropped %d, want the 13 and the 1601 byte frame", dropped)
	}
	if len(b) > 200 {
		t.Errorf("%d bytes of such regular frames: nothing was compressed", len(b))
	}
	got, _ := drain(NewInflatingParser(nil), bytes.NewReader(AppendKeepAlive(b, body(511, 0))))
	if diff := cmp.Diff([][]byte{frames[0], frames[2]}, got); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	if b, dropped := NewPacker().AppendBatch(nil, [][]byte{body(13, 2)}); len(b) != 0 || dropped != 1 {
		t.Errorf("a batch of nothing: %d bytes, %d dropped", len(b), dropped)
	}
}

func TestCompressionDoesNotAllocate(t *testing.T) {
	frames := make([][]byte, 40)
	for i := range frames {
		frames[i] = body(1514, byte(i))
	}
	packer := NewPacker()
	batch, _ := packer.AppendBatch(nil, frames)
	if a := testing.AllocsPerRun(100, func() { batch, _ = packer.AppendBatch(batch[:0], frames) }); a != 0 {
		t.Errorf("building a batch: %v allocations", a)
	}
	src := bytes.NewReader(nil)
	p := NewInflatingParser(nil)
	n := 0
	a := testing.AllocsPerRun(100, func() {
		src.Reset(batch)
		for {
			got, _, err := p.Next(src)
			n += len(got)
			if err != nil {
				return
			}
		}
	})
	// The standard library makes tables for some streams, never more than a few.
	if perFrame := a / float64(len(frames)); n == 0 || perFrame > 4 {
		t.Errorf("unpacking a batch: %v allocations a frame, %d frames", perFrame, n)
	}
}

// FuzzInflatingParser checks that no block becomes more than a frame, and that each
// one is either handed on or counted.
func FuzzInflatingParser(f *testing.F) {
	f.Add(blocks(deflated(body(14, 1)), deflated(body(1514, 2))), uint8(3))
	f.Add(blocks(deflated(make([]byte, 1<<20))), uint8(200))
	f.Add(blocks(body(14, 1), nil), uint8(1))
	f.Add(u32(1, 3201), uint8(0))
	f.Fuzz(func(t *testing.T, in []byte, chunk uint8) {
		p := NewInflatingParser(nil)
		got, _ := drain(p, chunkReader{bytes.NewReader(in), int(chunk) + 1})
		for _, g := range got {
			if len(g) < frame.HeaderLen || len(g) > frame.MaxLen {
				t.Errorf("a frame of %d bytes", len(g))
			}
		}
		if n := p.Stats().Frames; n != uint64(len(got)) {
			t.Errorf("%d frames counted, %d handed on", n, len(got))
		}
	})
}
