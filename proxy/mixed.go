package proxy

import (
	"context"
	"crypto/tls"
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
	http    *HTTP
	tls     *tls.Config // Config.TLS with what is spoken inside; one, as sessions are resumed by it
	onlyTLS bool
}

// NewMixed returns a server that is ready to Serve.
func NewMixed(c Config) *Mixed {
	s := newServer(c)
	m := &Mixed{server: s, http: newHTTP(s)}
	if s.TLS != nil {
		m.tls = s.TLS.Clone()
		m.tls.NextProtos = []string{"h2", "http/1.1"}
	}
	return m
}

// NewHTTPS returns a server that is ready to Serve HTTP clients inside TLS, and no others.
// Config.TLS is required.
func NewHTTPS(c Config) *Mixed {
	if c.TLS == nil {
		panic("proxy: Config.TLS is nil")
	}
	m := NewMixed(c)
	m.onlyTLS = true
	return m
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
	case first == beginsTLS && m.tls != nil:
		if ref = m.serveTLS(r, &peeked{Conn: c, in: in}, web); ref == nil {
			return
		}
	case m.onlyTLS:
		ref = &refusal{why: Malformed, err: errors.New("no TLS, which this port is for")}
		if beginsHTTP(first) {
			ref.answer = []byte(tlsHint)
		}
	case first == byte(socks5) || first == byte(socks4):
		m.serveSOCKS(r.ctx, c, in, func() { r.remove(c) })
		return
	case beginsHTTP(first):
		_ = c.SetWriteDeadline(time.Time{}) // net/http sets that of reading alone
		if web.give(newStrict(&peeked{Conn: c, in: in})) {
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

// serveTLS agrees with the client on TLS and the version of HTTP inside.
func (m *Mixed) serveTLS(r *run, c *peeked, web *handover) *refusal {
	ctx, cancel := context.WithTimeout(r.ctx, m.HandshakeTimeout)
	defer cancel()
	t := tls.Server(c, m.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		why := Malformed
		if isTimeout(err) || ctx.Err() != nil {
			why = Slow
		}
		return &refusal{why: why, err: fmt.Errorf("TLS: %w", err)}
	}
	_ = c.SetDeadline(time.Time{})
	var client net.Conn = t // net/http knows by the type that it is HTTP/2
	if t.ConnectionState().NegotiatedProtocol != "h2" {
		client = newStrict(t)
	}
	if !web.give(client) {
		return &refusal{why: Canceled, err: net.ErrClosed}
	}
	return nil
}

// tlsHint answers an HTTP client without TLS.
const tlsHint = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" +
	"This is an HTTPS proxy: configure it as https://host:port.\n"

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

// NetConn returns the connection itself.
func (p *peeked) NetConn() net.Conn { return p.Conn }

// accepted returns the connection as it was accepted, whatever has been put around it.
func accepted(c net.Conn) net.Conn {
	for {
		outer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = outer.NetConn()
	}
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
