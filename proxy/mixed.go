package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Mixed serves SOCKS5, SOCKS4 and HTTP clients on one port. What a client speaks shows
// in its first byte: the version in SOCKS, a letter in HTTP, the type of a handshake
// record in TLS.
type Mixed struct {
	*server
	http *HTTP
}

// NewMixed returns a server that is ready to Serve.
func NewMixed(c Config) *Mixed {
	s := newServer(c)
	return &Mixed{server: s, http: newHTTP(s)}
}

// beginsTLS is the first byte of a client's TLS: ContentType handshake, RFC 8446
// section 5.1.
const beginsTLS = 22

// beginsHTTP reports whether b can be the first byte of a method.
func beginsHTTP(b byte) bool { return 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z' }

// Serve serves the clients of ln until ctx ends, or Shutdown or Close is called,
// and returns when they are gone. It closes ln. Several listeners may be served at
// once.
func (m *Mixed) Serve(ctx context.Context, ln net.Listener) error {
	srv := m.http.newServer()
	r, err := m.begin(ctx, ln, srv.Shutdown)
	if err != nil {
		return err
	}
	r.owns(srv)
	web := newHandover(ln.Addr())
	served := make(chan struct{})
	go func() { // awaited below
		defer close(served)
		_ = srv.Serve(web) // says only that web was closed
	}()
	for {
		c, err := r.Accept()
		if err != nil {
			break
		}
		go m.tell(r, c, web) // awaited in finish
	}
	err = r.finish()
	_ = web.Close()
	<-served
	m.http.CloseIdle()
	return err
}

// CloseIdle closes connections to targets that carry no request.
func (m *Mixed) CloseIdle() { m.http.CloseIdle() }

// tell finds out what a client speaks and has it served.
func (m *Mixed) tell(r *run, c net.Conn, web *handover) {
	_ = c.SetDeadline(time.Now().Add(m.HandshakeTimeout))
	in := newAhead(c)
	first, ref := in.first()
	switch {
	case ref != nil:
	case first == byte(socks5) || first == byte(socks4):
		m.serveSOCKS(r.ctx, c, in, func() { r.remove(c) })
		return
	case beginsHTTP(first):
		_ = c.SetWriteDeadline(time.Time{}) // net/http sets that of reading alone
		if web.give(&peeked{Conn: c, in: in}) {
			return
		}
		ref = &refusal{why: Canceled, err: net.ErrClosed}
	case first == beginsTLS:
		ref = &refusal{why: Malformed, answer: []byte(noTLS), err: errors.New("TLS, for which there is no certificate")}
	default:
		ref = &refusal{why: Malformed, err: fmt.Errorf("neither SOCKS nor HTTP: the first byte is %#02x", first)}
	}
	m.refuse(c, ref)
	r.remove(c)
}

// noTLS is the fatal alert handshake_failure, RFC 8446 section 6.
const noTLS = "\x15\x03\x01\x00\x02\x02\x28"

// A peeked is a connection of which something has been read ahead.
type peeked struct {
	net.Conn // as it was accepted
	in       *ahead
}

// Read gives what was read ahead, then what comes.
func (p *peeked) Read(b []byte) (int, error) {
	if p.in.Buffered() > 0 {
		return p.in.Read(b)
	}
	return p.Conn.Read(b)
}

// accepted returns the connection as it was accepted.
func accepted(c net.Conn) net.Conn {
	if p, ok := c.(*peeked); ok {
		return p.Conn
	}
	return c
}

// A handover is a listener whose connections are given to it by another.
type handover struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands c to whoever accepts. It reports false if nobody will.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

// Accept returns the next connection that is given.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close ends giving and accepting.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr returns the address that clients connected to.
func (h *handover) Addr() net.Addr { return h.addr }
