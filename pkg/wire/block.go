package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"softether-go/pkg/frame"
)

// The data phase, each direction of each connection alike (Cedar/Connection.c,
// ConnectionSend and ConnectionReceive):
//
//	stream := unit*
//	unit   := u32 n,  n == 0xffffffff : u32 size, size bytes     a keep-alive
//	                  otherwise       : n × ( u32 size, bytes )   a batch of blocks
const (
	keepAliveMark = 0xffffffff

	// MaxKeepAlive is the longest keep-alive accepted (MAX_KEEPALIVE_SIZE).
	MaxKeepAlive = 512
	// MaxBlock is the longest block accepted; a longer one ends the connection
	// (twice MAX_PACKET_SIZE). A block longer than a frame is dropped.
	MaxBlock = 2 * frame.MaxLen

	lenLen = 4
)

// A fatal framing error: the stream cannot be understood any more.
var (
	ErrLongBlock     = fmt.Errorf("the server sent a block longer than %d bytes", MaxBlock)
	ErrLongKeepAlive = fmt.Errorf("the server sent a keep-alive longer than %d bytes", MaxKeepAlive)
)

// parserBuffer holds some four TLS records of 16 KiB, so that what was read ahead
// becomes one batch, and is a small part of a core's second-level cache.
const parserBuffer = 64 << 10

type parserState int

const (
	awaitCount         parserState = iota // between units
	awaitSize                             // in a batch, before a block
	awaitBody                             // in a block
	awaitKeepAliveSize                    // after the mark
	awaitKeepAliveBody
)

// A Parser cuts the stream of the data phase into frames, in place: the frames
// are views of its buffer. It is not safe for concurrent use.
type Parser struct {
	buf    []byte
	r, w   int // buf[r:w] is unparsed
	state  parserState
	blocks uint32 // still to come in this batch
	size   int    // of the block or keep-alive under way
	frames [][]byte
	stats  ParserStats
	read   int

	inflater *inflater // nil unless blocks are compressed
	more     bool      // it was full before all was parsed
}

// ParserStats counts what a Parser has seen.
type ParserStats struct {
	Frames     uint64
	Bytes      uint64 // of frames
	KeepAlives uint64
	Runts      uint64 // blocks shorter than an Ethernet header, dropped
	Giants     uint64 // blocks longer than frame.MaxLen, dropped
	Corrupt    uint64 // blocks that were to be compressed and were not, dropped
}

// NewParser returns a Parser. What was already read from the stream is given as
// early; it is copied.
func NewParser(early []byte) *Parser {
	p := &Parser{buf: make([]byte, max(parserBuffer, 2*len(early)))}
	p.w = copy(p.buf, early)
	return p
}

// NewInflatingParser returns a Parser for a session whose blocks are compressed.
func NewInflatingParser(early []byte) *Parser {
	p := NewParser(early)
	p.inflater = newInflater()
	return p
}

// Stats returns the counters.
func (p *Parser) Stats() ParserStats { return p.stats }

// Next reads once from src, unless something complete is waiting, and returns the
// frames that are now whole. They are valid until the next call. alive reports
// whether a whole block or keep-alive came, the only sign of life that counts.
// Neither frames nor an error means that more must come first.
//
// An error of src is returned as it is, with the stream in good order: after a
// time-out Next may be called again.
func (p *Parser) Next(src io.Reader) (frames [][]byte, alive bool, err error) {
	if (p.read > 0 || p.w == 0) && !p.more { // not for what came early
		p.compact()
		n, err := src.Read(p.buf[p.w:])
		p.w += n
		if n == 0 && err != nil {
			return nil, false, err
		}
	}
	p.read++
	before := p.stats.units()
	p.frames = p.frames[:0]
	if p.inflater != nil {
		p.inflater.reset()
	}
	err = p.parse()
	return p.frames, p.stats.units() != before, err
}

func (s *ParserStats) units() uint64 { return s.Frames + s.KeepAlives + s.Runts + s.Giants + s.Corrupt }

// compact moves the unparsed rest, at most one partial block, to the front.
func (p *Parser) compact() {
	if p.r > 0 {
		p.w = copy(p.buf, p.buf[p.r:p.w])
		p.r = 0
	}
}

// parse consumes all that is whole.
func (p *Parser) parse() error {
	p.more = false
	for {
		if p.inflater != nil && p.inflater.full() {
			p.more = true
			return nil
		}
		switch p.state {
		case awaitCount:
			n, ok := p.u32()
			if !ok {
				return nil
			}
			if n == keepAliveMark {
				p.state = awaitKeepAliveSize
			} else if n > 0 {
				p.blocks, p.state = n, awaitSize
			}
		case awaitSize, awaitKeepAliveSize:
			n, ok := p.u32()
			if !ok {
				return nil
			}
			if err := p.begin(n); err != nil {
				return err
			}
		case awaitBody, awaitKeepAliveBody:
			if p.w-p.r < p.size {
				return nil
			}
			p.finish(p.buf[p.r : p.r+p.size : p.r+p.size])
			p.r += p.size
		}
	}
}

func (p *Parser) u32() (uint32, bool) {
	if p.w-p.r < lenLen {
		return 0, false
	}
	n := binary.BigEndian.Uint32(p.buf[p.r:])
	p.r += lenLen
	return n, true
}

// begin starts a block or keep-alive of n bytes.
func (p *Parser) begin(n uint32) error {
	if p.state == awaitKeepAliveSize {
		if n > MaxKeepAlive {
			return ErrLongKeepAlive
		}
		p.size, p.state = int(n), awaitKeepAliveBody
		return nil
	}
	if n > MaxBlock {
		return ErrLongBlock
	}
	p.size, p.state = int(n), awaitBody
	return nil
}

// finish takes the whole body of a block or keep-alive.
func (p *Parser) finish(body []byte) {
	if p.state == awaitKeepAliveBody {
		p.stats.KeepAlives++
		p.state = awaitCount
		return
	}
	readable := true
	if p.inflater != nil {
		body, readable = p.inflater.unpack(body)
	}
	switch {
	case !readable:
		p.stats.Corrupt++
	case len(body) < frame.HeaderLen:
		p.stats.Runts++
	case len(body) > frame.MaxLen:
		p.stats.Giants++
	default:
		p.stats.Frames++
		p.stats.Bytes += uint64(len(body))
		p.frames = append(p.frames, body)
	}
	p.state = awaitSize
	if p.blocks--; p.blocks == 0 {
		p.state = awaitCount
	}
}

// AppendBatch appends frames to b as one unit and returns the result. Frames the
// tunnel cannot carry are left out; dropped says how many.
func AppendBatch(b []byte, frames [][]byte) (out []byte, dropped int) {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	n := 0
	for _, f := range frames {
		if len(f) < frame.HeaderLen || len(f) > frame.MaxLen {
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
		n++
	}
	if n == 0 {
		return b[:start], len(frames)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(n))
	return b, len(frames) - n
}

// BatchOverhead is what a unit of n frames takes beyond the frames, in bytes.
func BatchOverhead(n int) int { return lenLen + n*lenLen }

// AppendKeepAlive appends a keep-alive with the given content, at most
// MaxKeepAlive-1 bytes, which is what the reference implementation sends at most.
func AppendKeepAlive(b, content []byte) []byte {
	if len(content) >= MaxKeepAlive {
		panic(errors.New("wire: keep-alive too long")) // ours
	}
	b = binary.BigEndian.AppendUint32(b, keepAliveMark)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	return append(b, content...)
}
