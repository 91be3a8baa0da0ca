package proxy

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// framing follows a stream of HTTP/1 requests (RFC 9112 section 6) as net/http reads it. In
// headers it may be mistaken, as is noticed by comparing; in bodies it takes nothing that
// net/http does not take.
type framing struct {
	state  framingState
	line   []byte // the beginning of the line that is being read
	long   bool   // the line is longer than that
	begun  bool   // the request line has been read
	skip   int    // how many bytes of empty lines may precede that
	reads  head   // the header that is being read
	length uint64 // what is left of a body, of a chunk or of its end

	heads int  // headers that have ended
	last  head // the last of them
}

// A head is what a header says about where its request ends.
type head struct {
	line   string // the request line, or the beginning of a long one
	length int64  // as Content-Length has it
	sized  bool   // there is a Content-Length
	chunks bool   // there is a Transfer-Encoding
	folded bool   // there is a line that continues another
}

type framingState uint8

const (
	inHead     framingState = iota // reading a request line and headers
	inBody                         // length bytes are left
	inSize                         // reading the line before a chunk
	inChunk                        // length bytes are left
	inChunkEnd                     // length bytes of the line end after them are left
	inTrailers                     // reading lines up to an empty one
)

const (
	// maxFramingLine is what is kept of a line: enough for any length, not for a cookie.
	maxFramingLine = 128
	// maxEmptyLines is how many bytes net/http skips after a POST, for clients that end it
	// by an empty line.
	maxEmptyLines = 4
	lineEnd       = "\r\n"
)

var (
	errTwoLengths = errors.New("a request with a length and with chunks")
	errOldChunks  = errors.New("a request with chunks in HTTP/1.0")
	errFolded     = errors.New("a header continued on the next line")
	errAstray     = errors.New("a request of which it is not clear where it begins and ends")
	errChunk      = errors.New("a chunk that does not begin or end as chunks do")
	errTrailer    = errors.New("a trailer that is not a line")
)

// follow goes on with b as far as the end of a request, and returns how far that is. An
// error means that there is no telling where the request ends.
func (f *framing) follow(b []byte) (n int, err error) {
	for n < len(b) {
		k, err := f.step(b[n:])
		if err != nil {
			return n, err
		}
		n += k
		if f.between() {
			break
		}
	}
	return n, nil
}

// between reports whether nothing of a request has been read since the last ended.
func (f *framing) between() bool { return f.state == inHead && !f.begun && len(f.line) == 0 }

// amidBody reports whether there is more to come of a body.
func (f *framing) amidBody() bool { return f.state != inHead }

// step goes on with a part of b and returns how long that was.
func (f *framing) step(b []byte) (int, error) {
	switch f.state {
	case inBody, inChunk:
		n := min(uint64(len(b)), f.length)
		f.length -= n
		switch {
		case f.length > 0:
		case f.state == inChunk:
			f.state, f.length = inChunkEnd, uint64(len(lineEnd))
		default:
			f.state = inHead
		}
		return int(n), nil
	case inChunkEnd:
		if b[0] != lineEnd[len(lineEnd)-int(f.length)] {
			return 0, errChunk
		}
		if f.length--; f.length == 0 {
			f.state = inSize
		}
		return 1, nil
	}
	if f.between() && f.skip > 0 && (b[0] == '\r' || b[0] == '\n') {
		f.skip--
		return 1, nil
	}
	end := bytes.IndexByte(b, '\n')
	part := b[:end+1]
	if end < 0 {
		part = b
	}
	room := min(len(part), maxFramingLine-len(f.line))
	f.line = append(f.line, part[:room]...)
	f.long = f.long || room < len(part)
	if end < 0 {
		return len(b), nil
	}
	line, long := string(f.line), f.long
	f.line, f.long = f.line[:0], false
	return end + 1, f.readLine(line, long)
}

// readLine reads a line with its end, or the beginning of a long one.
func (f *framing) readLine(line string, long bool) error {
	switch f.state {
	case inHead:
		f.headLine(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), long)
	case inSize:
		return f.sizeLine(line)
	case inTrailers:
		switch {
		case line == lineEnd:
			f.state = inHead
		case !long && !strings.HasSuffix(line, lineEnd), line[0] == ' ', line[0] == '\t':
			return errTrailer
		}
	}
	return nil
}

// sizeLine reads the line before a chunk. What comes after the size must not be long; RFC
// 9112 section 7.1.1 asks for a limit.
func (f *framing) sizeLine(line string) error {
	line, ok := strings.CutSuffix(line, lineEnd)
	size, _, _ := strings.Cut(line, ";")
	size = strings.TrimRight(size, " \t")
	n, err := strconv.ParseUint(size, 16, 64)
	switch {
	case !ok, err != nil, len(size) > 16, strings.Contains(line, "\r"):
		return errChunk
	case n == 0:
		f.state = inTrailers
	default:
		f.state, f.length = inChunk, n
	}
	return nil
}

// headLine reads a line of a header.
func (f *framing) headLine(line string, long bool) {
	h := &f.reads
	switch {
	case !f.begun:
		f.begun = true
		h.line = line
		return
	case line == "":
		f.endHead()
		return
	case line[0] == ' ' || line[0] == '\t':
		h.folded = true
		return
	}
	name, value, _ := strings.Cut(line, ":")
	switch strings.ToLower(name) {
	case "content-length":
		n, err := strconv.ParseUint(strings.Trim(value, " \t"), 10, 63)
		h.sized, h.length = true, int64(n)
		if err != nil || long {
			h.length = -1 // which is nobody's
		}
	case "transfer-encoding":
		h.chunks = true
	}
}

// endHead knows what follows a header.
func (f *framing) endHead() {
	h := f.reads
	f.last = h
	f.heads++
	f.reads, f.begun, f.skip = head{}, false, 0
	if strings.HasPrefix(h.line, "POST ") {
		f.skip = maxEmptyLines
	}
	switch {
	case h.chunks:
		f.state = inSize
	case h.length > 0:
		f.state, f.length = inBody, uint64(h.length)
	}
}

// is reports whether h is the header of a request that net/http has read, and both know the
// same end of it.
func (h *head) is(req *http.Request) bool {
	line := req.Method + " " + req.RequestURI + " " + req.Proto
	length := h.length
	if h.chunks {
		length = -1
	}
	return strings.HasPrefix(line, h.line) && req.ContentLength == length &&
		slices.Equal(req.TransferEncoding, []string{"chunked"}) == h.chunks
}
