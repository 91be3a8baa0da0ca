package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A strict is a client's connection of HTTP/1 on which a request that could be understood
// in two ways is found: with a length and chunks, with chunks in HTTP/1.0, or with a header
// continued on the next line. net/http would settle on one reading and not tell, and whoever
// stands before us may have settled on the other.
//
// It follows the framing of what is read, no more: bodies are counted, not looked at. It
// lets net/http have one request at a time, so that each request that net/http comes to can
// be compared with what was followed. Where the two do not agree, and where a body is broken,
// nothing more is read.
type strict struct {
	net.Conn
	ended atomic.Bool // nothing more is read

	mu      sync.Mutex // guards these, as net/http may have a body read when the protocol changes
	framing framing
	rest    []byte // has come, and is of a later request
	served  int    // requests that net/http has come to
	broken  error  // what a body failed by
	left    bool   // nothing more is HTTP
}

func newStrict(c net.Conn) *strict { return &strict{Conn: c} }

// NetConn returns the connection itself.
func (s *strict) NetConn() net.Conn { return s.Conn }

// Read reads no further than to the end of a request.
func (s *strict) Read(p []byte) (n int, err error) {
	if s.ended.Load() {
		return 0, io.EOF
	}
	s.mu.Lock()
	n = copy(p, s.rest)
	s.rest = s.rest[n:]
	s.mu.Unlock()
	if n == 0 {
		n, err = s.Conn.Read(p)
	}
	return s.follow(p[:n], err)
}

// follow returns how much of b may be read, and keeps what is after it. err came with b.
func (s *strict) follow(b []byte, err error) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return len(b), err
	}
	n, broken := s.framing.follow(b)
	switch {
	case broken != nil:
		s.broken, err = broken, io.EOF
		s.ended.Store(true)
	case n < len(b):
		s.rest, err = slices.Concat(b[n:], s.rest), nil // err comes again
	case err != nil && s.framing.amidBody():
		s.broken = err
		s.ended.Store(true) // net/http would take what comes later for a request
	}
	return n, err
}

// admit returns why a request is not to be served. It is called once for each.
func (s *strict) admit(req *http.Request) (why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.served++
	switch h := &s.framing.last; {
	case s.served != s.framing.heads:
		why = errAstray
	case h.folded:
		why = errFolded
	case h.chunks && h.sized:
		why = errTwoLengths
	case h.chunks && !req.ProtoAtLeast(1, 1):
		why = errOldChunks
	case !h.is(req):
		why = errAstray
	}
	if why != nil {
		s.ended.Store(true)
	}
	return why
}

// brokenBody returns what the body of a request failed by.
func (s *strict) brokenBody() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// end has nothing more read.
func (s *strict) end() { s.ended.Store(true) }

// leave has what comes read as it is, beginning with what net/http has read ahead.
func (s *strict) leave(ahead *bufio.Reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
	s.rest = append(buffered(ahead), s.rest...)
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
