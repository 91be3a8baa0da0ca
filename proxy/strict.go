package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A strict is a client's connection of HTTP/1 on which a request that could be understood
// in two ways is turned into one that is refused: with a length and chunks, with chunks in
// HTTP/1.0, or with a header continued on the next line. net/http would settle on one
// reading, and whoever stands before us may have settled on the other.
//
// It follows the framing of what is read, no more: bodies are counted, not looked at.
type strict struct {
	net.Conn
	refused func(error) // told of such a request
	framing framing
	poison  []byte      // to be read in place of the request
	ended   atomic.Bool // nothing but poison is read any more
}

// badRequest makes any part of a header before it no request, and is none by itself: a
// line of it is neither a request line nor a header. net/http answers that by 400.
const badRequest = "\x00\r\n\x00\r\n\r\n"

func newStrict(c net.Conn, refused func(error)) *strict { return &strict{Conn: c, refused: refused} }

// NetConn returns the connection itself.
func (s *strict) NetConn() net.Conn { return s.Conn }

func (s *strict) Read(p []byte) (int, error) {
	if s.ended.Load() {
		if len(s.poison) == 0 {
			return 0, io.EOF
		}
		n := copy(p, s.poison)
		s.poison = s.poison[n:]
		return n, nil
	}
	n, err := s.Conn.Read(p)
	good, why := s.framing.follow(p[:n])
	if why == nil {
		return n, err
	}
	s.refused(why)
	s.poison = []byte(badRequest)
	s.ended.Store(true)
	if good == 0 {
		return s.Read(p)
	}
	return good, nil
}

// Close lets a client that was refused read why: what it has sent and nobody has read
// would have the system reset the connection.
func (s *strict) Close() error {
	c := s.Conn
	if p, ok := c.(*peeked); ok {
		c = p.Conn
	}
	if hc, ok := c.(interface{ CloseWrite() error }); ok && s.ended.Load() && hc.CloseWrite() == nil {
		_ = s.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, s.Conn, lingerBytes)
	}
	return s.Conn.Close()
}

// framing follows a stream of HTTP/1 requests (RFC 9112 section 6).
type framing struct {
	state  framingState
	line   []byte // the beginning of the line that is being read
	first  bool   // a line of the header has been read: the request line
	length int64  // of the body, or what is left of it or of a chunk
	sized  bool   // there is a Content-Length
	chunks bool   // there is a Transfer-Encoding
	old    bool   // HTTP/1.0
	leave  bool   // after this header the stream may be something else
}

type framingState uint8

const (
	inHead     framingState = iota // reading a request line and headers
	inBody                         // length bytes are left
	inSize                         // reading the line before a chunk
	inChunk                        // length bytes are left
	inChunkEnd                     // the line end after them
	inTrailers                     // reading lines up to an empty one
	elsewhere                      // after CONNECT or Upgrade, or what cannot be read
)

// maxFramingLine is what is kept of a line: enough for any length, not for a cookie.
const maxFramingLine = 128

var (
	errTwoLengths = errors.New("a request with a length and with chunks")
	errOldChunks  = errors.New("a request with chunks in HTTP/1.0")
	errFolded     = errors.New("a header continued on the next line")
)

// follow goes on with b. If there is a request in it that is not to be served, it returns
// how many bytes precede that, and why.
func (f *framing) follow(b []byte) (good int, why error) {
	for i := 0; i < len(b); {
		if f.state == inHead && !f.first && len(f.line) == 0 {
			good = i // a request begins
		}
		n, err := f.step(b[i:])
		if err != nil {
			return good, err
		}
		i += n
	}
	return len(b), nil
}

// step goes on with a part of b and returns how long that was.
func (f *framing) step(b []byte) (int, error) {
	switch f.state {
	case elsewhere:
		return len(b), nil
	case inBody, inChunk:
		n := min(int64(len(b)), f.length)
		f.length -= n
		switch {
		case f.length > 0:
		case f.state == inChunk:
			f.state = inChunkEnd
		default:
			f.state = inHead
		}
		return int(n), nil
	}
	end := bytes.IndexByte(b, '\n')
	part := b
	if end >= 0 {
		part = b[:end]
	}
	f.line = append(f.line, part[:min(len(part), maxFramingLine-len(f.line))]...)
	if end < 0 {
		return len(b), nil
	}
	line := strings.TrimSuffix(string(f.line), "\r")
	f.line = f.line[:0]
	return end + 1, f.readLine(line)
}

func (f *framing) readLine(line string) error {
	switch f.state {
	case inHead:
		return f.headLine(line)
	case inSize:
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseInt(strings.TrimSpace(size), 16, 64)
		switch {
		case err != nil || n < 0:
			f.state = elsewhere // an error to whoever reads the body, too
		case n == 0:
			f.state = inTrailers
		default:
			f.state, f.length = inChunk, n
		}
	case inChunkEnd:
		f.state = inSize
	case inTrailers:
		if line == "" {
			*f = framing{line: f.line}
		}
	}
	return nil
}

// headLine reads a line of a header.
func (f *framing) headLine(line string) error {
	switch {
	case !f.first:
		f.first = true
		f.leave = strings.HasPrefix(line, "CONNECT ")
		f.old = strings.HasSuffix(line, " HTTP/1.0")
		return nil
	case line == "":
		return f.endHead()
	case line[0] == ' ' || line[0] == '\t':
		return errFolded
	}
	name, value, _ := strings.Cut(line, ":")
	switch strings.ToLower(name) {
	case "content-length":
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		if err != nil || n < 0 {
			f.leave = true // net/http refuses it
		}
		f.sized, f.length = true, n
	case "transfer-encoding":
		f.chunks = true
	case "upgrade":
		f.leave = true
	}
	return nil
}

// endHead knows what follows a header.
func (f *framing) endHead() error {
	is := *f
	*f = framing{line: f.line}
	switch {
	case is.chunks && is.sized:
		return errTwoLengths
	case is.chunks && is.old:
		return errOldChunks
	case is.leave:
		f.state = elsewhere
	case is.chunks:
		f.state = inSize
	case is.length > 0:
		f.state, f.length = inBody, is.length
	}
	return nil
}
