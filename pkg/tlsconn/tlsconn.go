// Package tlsconn is TLS for bulk data: crypto/tls with one system call for many
// records in each direction.
//
// # Theory of operation
//
// crypto/tls reads about one record of at most 16 KiB from the network at a time,
// and writes one at a time. A Conn puts a buffer below it, both ways. Inbound, the
// buffer takes what the network has, and Read decrypts all of it that is whole, so
// that what came together is returned together. Outbound, Write gathers the records
// of one call and sends them at once. Nothing is ever held back for later: when Read
// returns there is nothing more to be had without waiting, and when Write returns
// everything is on its way.
//
// On Linux what comes fast is let gather in the kernel for a fraction of a millisecond,
// so that the reader is woken for some ten records and not for each.
//
// The TLS is crypto/tls's, all of it.
package tlsconn

import (
	"crypto/tls"
	"net"
	"sync"
)

// bufferLen is what is read or written at once: some four records of 16 KiB. More
// saves no measurable time and costs cache.
const bufferLen = 64 << 10

// A Conn is a TLS connection. One Read and one Write may be under way at a time;
// Close and deadlines as in tls.Conn.
type Conn struct {
	*tls.Conn
	link *link
}

// Client returns the client's end of TLS over raw. The handshake runs with the
// first use.
func Client(raw net.Conn, cfg *tls.Config) *Conn {
	l := newLink(raw)
	return &Conn{Conn: tls.Client(l, cfg), link: l}
}

// Server returns the server's end of TLS over raw.
func Server(raw net.Conn, cfg *tls.Config) *Conn {
	l := newLink(raw)
	return &Conn{Conn: tls.Server(l, cfg), link: l}
}

// Read waits for data and returns all of it that is there, up to the length of b.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		return n, err
	}
	c.link.noWait = true
	defer func() { c.link.noWait = false }()
	for n < len(b) {
		m, err := c.Conn.Read(b[n:])
		n += m
		if err != nil {
			break // nothing whole any more, or an error that the next Read meets again
		}
	}
	return n, nil
}

// Write sends b. After an error the connection is unusable.
func (c *Conn) Write(b []byte) (int, error) {
	// The handshake waits for answers to what it writes, so none of that is gathered.
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	c.link.begin()
	n, err := c.Conn.Write(b)
	if e := c.link.end(); err == nil {
		err = e
	}
	return n, err
}

// link is the connection below TLS.
type link struct {
	net.Conn

	in     []byte // the reader's alone
	r, w   int    // in[r:w] is read ahead
	noWait bool   // reads are served from the buffer only

	mu     sync.Mutex // guards the fields below; crypto/tls may write from the reader
	out    []byte     // gathered and not yet written
	gather bool
	err    error // of a write; TLS has counted it as sent, so nothing may follow
}

func newLink(c net.Conn) *link { return &link{Conn: bulk(c), in: make([]byte, bufferLen)} }

func (l *link) Read(b []byte) (int, error) {
	if l.r == l.w {
		if l.noWait {
			return 0, errNothingNow
		}
		n, err := l.Conn.Read(l.in)
		l.r, l.w = 0, n
		if n == 0 {
			return 0, err
		}
	}
	n := copy(b, l.in[l.r:l.w])
	l.r += n
	return n, nil
}

func (l *link) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	if !l.gather {
		return l.Conn.Write(b)
	}
	if len(l.out)+len(b) > bufferLen {
		if err := l.flush(); err != nil {
			return 0, err
		}
	}
	l.out = append(l.out, b...)
	return len(b), nil
}

func (l *link) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gather = true
}

func (l *link) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gather = false
	return l.flush()
}

// flush writes what was gathered. The caller holds mu.
func (l *link) flush() error {
	if len(l.out) > 0 && l.err == nil {
		_, l.err = l.Conn.Write(l.out)
		l.out = l.out[:0]
	}
	return l.err
}

// errNothingNow tells crypto/tls that there is nothing to read now. It is
// temporary, so that the connection stays usable.
var errNothingNow net.Error = nothingNow{}

type nothingNow struct{}

func (nothingNow) Error() string   { return "nothing read ahead" }
func (nothingNow) Timeout() bool   { return true }
func (nothingNow) Temporary() bool { return true }
