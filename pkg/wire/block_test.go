package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame"
)

func u32(n ...uint32) []byte {
	var b []byte
	for _, v := range n {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func body(n int, fill byte) []byte { return bytes.Repeat([]byte{fill}, n) }

// drain parses all of src and returns copies of the frames.
func drain(p *Parser, src io.Reader) (got [][]byte, err error) {
	for {
		frames, _, err := p.Next(src)
		for _, f := range frames {
			got = append(got, slices.Clone(f))
		}
		if err != nil {
			return got, err
		}
	}
}

func TestParserReadsWhatIsOnTheWire(t *testing.T) {
	small, large := body(14, 1), body(1514, 2)
	for _, row := range []struct {
		name    string
		in      []byte
		want    [][]byte
		wantErr error
	}{
		{"nothing", nil, nil, io.EOF},
		{"an empty batch", u32(0, 0, 0), nil, io.EOF},
		{"one frame", slices.Concat(u32(1, 14), small), [][]byte{small}, io.EOF},
		{"two frames in a batch", slices.Concat(u32(2, 14), small, u32(1514), large), [][]byte{small, large}, io.EOF},
		{"two batches", slices.Concat(u32(1, 14), small, u32(1, 1514), large), [][]byte{small, large}, io.EOF},
		{"a keep-alive between batches", slices.Concat(u32(1, 14), small, u32(keepAliveMark, 3), body(3, 9), u32(1, 14), small), [][]byte{small, small}, io.EOF},
		{"a keep-alive of 0", slices.Concat(u32(keepAliveMark, 0), u32(1, 14), small), [][]byte{small}, io.EOF},
		{"a keep-alive of 512", slices.Concat(u32(keepAliveMark, 512), body(512, 9), u32(1, 14), small), [][]byte{small}, io.EOF},
		{"a keep-alive of 513 is fatal", slices.Concat(u32(1, 14), small, u32(keepAliveMark, 513)), [][]byte{small}, ErrLongKeepAlive},
		{"a block of 0 is dropped", slices.Concat(u32(2, 0, 14), small), [][]byte{small}, io.EOF},
		{"a block of 13 is dropped", slices.Concat(u32(2, 13), body(13, 3), u32(14), small), [][]byte{small}, io.EOF},
		{"a frame of 1600", slices.Concat(u32(1, 1600), body(1600, 4)), [][]byte{body(1600, 4)}, io.EOF},
		{"a block of 1601 is dropped", slices.Concat(u32(2, 1601), body(1601, 3), u32(14), small), [][]byte{small}, io.EOF},
		{"a block of 3200 is dropped", slices.Concat(u32(2, 3200), body(3200, 3), u32(14), small), [][]byte{small}, io.EOF},
		{"a block of 3201 is fatal", slices.Concat(u32(2, 14), small, u32(3201)), [][]byte{small}, ErrLongBlock},
		{"a block cut off", slices.Concat(u32(1, 1514), large[:1000]), nil, io.EOF},
		{"a claim of four billion blocks", slices.Concat(u32(0xfffffffe, 14), small), [][]byte{small}, io.EOF},
	} {
		for how, src := range map[string]io.Reader{
			"at once":      bytes.NewReader(row.in),
			"byte by byte": iotest.OneByteReader(bytes.NewReader(row.in)),
			"error along":  iotest.DataErrReader(bytes.NewReader(row.in)),
		} {
			t.Run(row.name+" "+how, func(t *testing.T) {
				got, err := drain(NewParser(nil), src)
				if !errors.Is(err, row.wantErr) {
					t.Errorf("error %v, want %v", err, row.wantErr)
				}
				if diff := cmp.Diff(row.want, got); diff != "" {
					t.Errorf("frames (-want +got):\n%s", diff)
				}
			})
		}
		t.Run(row.name+" read early", func(t *testing.T) {
			got, err := drain(NewParser(row.in), bytes.NewReader(nil))
			if !errors.Is(err, row.wantErr) {
				t.Errorf("error %v, want %v", err, row.wantErr)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("frames (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnlyWholeUnitsAreLife(t *testing.T) {
	stream := slices.Concat(u32(1, 14), body(14, 1), u32(keepAliveMark, 2), body(2, 2))
	src := iotest.OneByteReader(bytes.NewReader(stream))
	p := NewParser(nil)
	var alive []int
	for i := range stream {
		_, ok, err := p.Next(src)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			alive = append(alive, i+1)
		}
	}
	if want := []int{22, 32}; !slices.Equal(alive, want) {
		t.Errorf("alive after bytes %v, want %v", alive, want)
	}
}

func TestAppendBatchIsWhatParserReads(t *testing.T) {
	frames := [][]byte{body(14, 1), body(13, 2), body(1600, 3), body(1601, 4)}
	b, dropped := AppendBatch([]byte{}, frames)
	if dropped != 2 {
		t.Errorf("dropped %d, want the 13 and the 1601 byte frame", dropped)
	}
	got, _ := drain(NewParser(nil), bytes.NewReader(AppendKeepAlive(b, body(511, 0))))
	if diff := cmp.Diff([][]byte{frames[0], frames[2]}, got); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	if b, dropped := AppendBatch(nil, [][]byte{body(13, 2)}); len(b) != 0 || dropped != 1 {
		t.Errorf("a batch of nothing: %d bytes, %d dropped", len(b), dropped)
	}
}

func TestFramingDoesNotAllocate(t *testing.T) {
	frames := make([][]byte, 40)
	for i := range frames {
		frames[i] = body(1514, byte(i))
	}
	batch, _ := AppendBatch(nil, frames)
	src := bytes.NewReader(nil)
	p := NewParser(nil)
	n := 0
	read := func() {
		src.Reset(batch)
		for {
			got, _, err := p.Next(src)
			n += len(got)
			if err != nil {
				return
			}
		}
	}
	if a := testing.AllocsPerRun(100, read); a != 0 {
		t.Errorf("parsing a batch: %v allocations", a)
	}
	if n == 0 {
		t.Fatal("nothing was parsed")
	}
	if a := testing.AllocsPerRun(100, func() { batch, _ = AppendBatch(batch[:0], frames) }); a != 0 {
		t.Errorf("building a batch: %v allocations", a)
	}
}

// FuzzParser checks against a parser too simple to be wrong.
func FuzzParser(f *testing.F) {
	f.Add(slices.Concat(u32(2, 14), body(14, 1), u32(15), body(15, 1)), uint8(3))
	f.Add(slices.Concat(u32(keepAliveMark, 2), body(2, 2), u32(0)), uint8(1))
	f.Add(u32(1, 3201), uint8(0))
	f.Add(u32(keepAliveMark, 513), uint8(9))
	f.Fuzz(func(t *testing.T, in []byte, chunk uint8) {
		want := naive(in)
		got, _ := drain(NewParser(nil), chunkReader{bytes.NewReader(in), int(chunk) + 1})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("frames (-want +got):\n%s", diff)
		}
	})
}

type chunkReader struct {
	r io.Reader
	n int
}

func (c chunkReader) Read(b []byte) (int, error) { return c.r.Read(b[:min(len(b), c.n)]) }

func naive(in []byte) (frames [][]byte) {
	take := func(n int) (b []byte, ok bool) {
		if len(in) < n {
			in = nil
			return nil, false
		}
		b, in = in[:n], in[n:]
		return b, true
	}
	number := func() (uint32, bool) {
		b, ok := take(4)
		if !ok {
			return 0, false
		}
		return binary.BigEndian.Uint32(b), true
	}
	for {
		n, ok := number()
		if !ok {
			return frames
		}
		if n == keepAliveMark {
			size, ok := number()
			if !ok || size > MaxKeepAlive {
				return frames
			}
			take(int(size))
			continue
		}
		for ; n > 0; n-- {
			size, ok := number()
			if !ok || size > MaxBlock {
				return frames
			}
			b, ok := take(int(size))
			if !ok {
				return frames
			}
			if len(b) >= frame.HeaderLen && len(b) <= frame.MaxLen {
				frames = append(frames, b)
			}
		}
	}
}
