package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/things-go/go-socks5/statute"
)

// readAhead is the size of a client's buffer. It holds the longest handshake
// (257 + 513 + 262 bytes in SOCKS5, 8 + 256 + 256 in SOCKS4) and what may come ahead
// of the answer.
const readAhead = 4 << 10

// An ahead is the buffer of a client's connection. It keeps the last error of the
// connection, as the codec does not wrap them.
type ahead struct {
	*bufio.Reader
	client net.Conn
	err    error
}

func newAhead(client net.Conn) *ahead {
	a := &ahead{client: client}
	a.Reader = bufio.NewReaderSize((*aheadSource)(a), readAhead)
	return a
}

// An aheadSource is what an ahead buffers.
type aheadSource ahead

func (a *aheadSource) Read(p []byte) (int, error) {
	n, err := a.client.Read(p)
	a.err = err
	return n, err
}

// first returns the first byte without taking it. It tells the protocols apart.
func (a *ahead) first() (byte, *refusal) {
	b, err := a.Peek(1)
	switch {
	case errors.Is(err, io.EOF): // a port scan or a health check
		return 0, &refusal{}
	case err != nil:
		return 0, a.broken("first byte", err)
	}
	return b[0], nil
}

// broken is for a client that cannot be answered: it stopped amid a message, or
// does not speak the protocol.
func (a *ahead) broken(what string, err error) *refusal {
	if a.err != nil {
		err = a.err
	}
	why := Malformed
	if isTimeout(err) {
		why = Slow
	}
	return &refusal{why: why, err: fmt.Errorf("read %s: %w", what, err)}
}

// A request is what a SOCKS client asks for.
type request struct {
	version socksVersion
	command uint8
	host    string // an IP address or a name, not checked yet
	port    int
	user    User // nil if nobody has to log in
}

// A socksVersion is the dialect a client is answered in.
type socksVersion uint8

const (
	socks4 socksVersion = 4
	socks5 socksVersion = 5
)

// granted is the answer to success; bound is the tunnel's end, or whatever address
// the command has to tell.
func (v socksVersion) granted(bound net.Addr) []byte {
	if v == socks4 {
		return reply4(granted4, bound)
	}
	return reply5(statute.RepSuccess, bound)
}

// denied is the answer to failure.
func (v socksVersion) denied(why Reason) []byte {
	if v == socks4 {
		return reply4(why.reply4(), nil)
	}
	return reply5(reasons[why].reply, nil)
}

// refuse answers a request by its reason.
func (v socksVersion) refuse(why Reason, err error) *refusal {
	return &refusal{why: why, answer: v.denied(why), err: err}
}

// serveSOCKS sees one client of either version through and calls done at the end,
// which closes the connection. It may return before. The client's deadline is that of
// the handshake.
func (s *server) serveSOCKS(ctx context.Context, client net.Conn, in *ahead, done func()) {
	req, ref := s.socksRequest(ctx, client, in)
	if ref != nil {
		s.refuse(client, ref)
		done()
		return
	}
	ctx, left, err := s.newVisitor(client, req.user).enter(ctx, done)
	if err != nil {
		s.refuse(client, req.version.refuse(UserLimit, err))
		done()
		return
	}
	done = left
	_ = client.SetDeadline(time.Time{})
	switch req.command {
	case statute.CommandConnect:
		s.connectSOCKS(ctx, client, in, req, done)
	case statute.CommandBind:
		s.serveBind(ctx, client, in, req, done)
	case statute.CommandAssociate:
		s.serveAssociate(ctx, client, req, done)
	default:
		s.refuse(client, req.version.refuse(BadCommand, fmt.Errorf("command %d", req.command)))
		done()
	}
}

// connectSOCKS is CONNECT of either version.
func (s *server) connectSOCKS(ctx context.Context, client net.Conn, in *ahead, req *request, done func()) {
	address, err := target(req.host, req.port)
	if err != nil {
		s.refuse(client, req.version.refuse(BadTarget, err))
		done()
		return
	}
	s.serveTunnel(ctx, &tunnel{
		client: client, buf: in.Reader, address: address,
		granted: func(conn net.Conn) []byte { return req.version.granted(conn.LocalAddr()) },
		denied:  func(why Reason, _ error) []byte { return req.version.denied(why) },
	}, done)
}

// socksRequest reads what the client wants, in whichever version it speaks.
func (s *server) socksRequest(ctx context.Context, client net.Conn, in *ahead) (*request, *refusal) {
	b, ref := in.first()
	if ref != nil {
		return nil, ref
	}
	switch {
	case b == byte(socks5):
		return (&handshake{ctx: ctx, server: s, client: client, in: in}).run()
	case b == byte(socks4):
		return s.request4(in)
	}
	ref = &refusal{why: Malformed, err: fmt.Errorf("protocol version %d instead of 4 or 5", b)}
	if beginsHTTP(b) {
		ref.answer = []byte(httpHint)
		ref.err = errors.New("an HTTP client on the SOCKS port")
	}
	return nil, ref
}

// httpHint answers an HTTP client, which has no use for a SOCKS5 reply.
const httpHint = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" +
	"This is a SOCKS5 proxy, not an HTTP proxy: configure it as socks5h://host:port.\n"
