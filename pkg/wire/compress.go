package wire

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"

	"softether-go/pkg/frame"
)

// In a compressed session each block is a zlib stream of its own, in both directions;
// keep-alives are as ever. (Cedar/Connection.c, NewBlock and ConnectionReceive)

// inflated bounds what is unpacked before it is handed on, in bytes: blocks of a few
// bytes could make megabytes of one read.
const inflated = 128 << 10

// An inflater unpacks blocks. What a block may become is bounded by what a frame may
// be, and so is the work: it stops there.
type inflater struct {
	src   bytes.Reader
	zlib  io.ReadCloser // nil before the first good header
	arena []byte        // frames unpacked since the last reset
}

func newInflater() *inflater { return &inflater{arena: make([]byte, 0, inflated)} }

func (f *inflater) reset() { f.arena = f.arena[:0] }

// full reports whether there is no room for another block.
func (f *inflater) full() bool { return cap(f.arena)-len(f.arena) <= frame.MaxLen }

// unpack returns what block holds, a view that lasts until reset. It is false for what
// is no zlib stream. Of what is longer than a frame, one byte too many is returned.
func (f *inflater) unpack(block []byte) ([]byte, bool) {
	f.src.Reset(block)
	if f.zlib == nil {
		r, err := zlib.NewReader(&f.src)
		if err != nil {
			return nil, false
		}
		f.zlib = r
	} else if f.zlib.(zlib.Resetter).Reset(&f.src, nil) != nil {
		return nil, false
	}
	start, end := len(f.arena), len(f.arena)
	room := f.arena[:start+frame.MaxLen+1]
	for end < len(room) {
		n, err := f.zlib.Read(room[end:])
		end += n
		if err == io.EOF { // with a checksum that is right
			break
		}
		if err != nil {
			return nil, false
		}
	}
	f.arena = f.arena[:end]
	return f.arena[start:end:end], true
}

// A Packer builds the units of a compressed session. It is not safe for concurrent use.
type Packer struct {
	zlib *zlib.Writer
	out  bytes.Buffer
}

// NewPacker returns a Packer. It compresses lightly: whoever sends fast enough to care
// has little to gain.
func NewPacker() *Packer {
	p := &Packer{}
	p.zlib, _ = zlib.NewWriterLevel(&p.out, zlib.BestSpeed) // the level is valid
	return p
}

// Pack returns f compressed, a view that lasts until the Packer's next use.
func (p *Packer) Pack(f []byte) []byte {
	p.out.Reset()
	p.zlib.Reset(&p.out)
	p.zlib.Write(f) // into memory, which takes all
	p.zlib.Close()
	return p.out.Bytes()
}

// An Unpacker does what a Packer's Pack did. It is not safe for concurrent use.
type Unpacker struct{ inflater *inflater }

// NewUnpacker returns an Unpacker.
func NewUnpacker() *Unpacker { return &Unpacker{newInflater()} }

// Reset forgets what was unpacked.
func (u *Unpacker) Reset() { u.inflater.reset() }

// Unpack returns what was packed, a view that lasts until Reset. It is false for what
// is no frame, and when there is no room before another Reset.
func (u *Unpacker) Unpack(block []byte) ([]byte, bool) {
	if u.inflater.full() {
		return nil, false
	}
	f, ok := u.inflater.unpack(block)
	return f, ok && len(f) <= frame.MaxLen
}

// AppendBatch is AppendBatch with each frame compressed.
func (p *Packer) AppendBatch(b []byte, frames [][]byte) (out []byte, dropped int) {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	n := 0
	for _, f := range frames {
		if len(f) < frame.HeaderLen || len(f) > frame.MaxLen {
			continue
		}
		packed := p.Pack(f)
		b = binary.BigEndian.AppendUint32(b, uint32(len(packed)))
		b = append(b, packed...)
		n++
	}
	if n == 0 {
		return b[:start], len(frames)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(n))
	return b, len(frames) - n
}
