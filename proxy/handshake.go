package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/things-go/go-socks5/statute"
)

// A handshake is what a SOCKS5 client and the server say until the target is
// known: methods, credentials, request. Deadlines are the caller's.
type handshake struct {
	server *server
	client net.Conn
	in     lastError
	buf    *bufio.Reader // reads in; keeps what follows the request
}

// lastError keeps the last error of a Reader, as the codec does not wrap them.
type lastError struct {
	io.Reader
	err error
}

func (l *lastError) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	l.err = err
	return n, err
}

// run returns the address the client asks for.
func (h *handshake) run() (string, *refusal) {
	if ref := h.version(); ref != nil {
		return "", ref
	}
	if ref := h.authenticate(); ref != nil {
		return "", ref
	}
	return h.request()
}

// httpHint answers an HTTP client, which has no use for a SOCKS5 reply.
const httpHint = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" +
	"This is a SOCKS5 proxy, not an HTTP proxy: configure it as socks5h://host:port.\n"

// version looks at the first byte, which the codec would only after more.
func (h *handshake) version() *refusal {
	b, err := h.buf.Peek(1)
	switch {
	case errors.Is(err, io.EOF): // a port scan or a health check
		return &refusal{}
	case err != nil:
		return h.broken("version", err)
	case b[0] == statute.VersionSocks5:
		return nil
	}
	ref := &refusal{why: Malformed, err: fmt.Errorf("protocol version %d instead of 5", b[0])}
	if b[0] >= 'A' && b[0] <= 'Z' {
		ref.answer = []byte(httpHint)
		ref.err = errors.New("an HTTP client on the SOCKS5 port")
	}
	return ref
}

// authenticate agrees on a method and goes through it (RFC 1928 section 3).
func (h *handshake) authenticate() *refusal {
	req, err := statute.ParseMethodRequest(h.buf)
	if err != nil {
		return h.broken("methods", err)
	}
	method := statute.MethodNoAuth
	if h.server.Auth != nil {
		method = statute.MethodUserPassAuth
	}
	if !bytes.Contains(req.Methods, []byte{method}) {
		return &refusal{
			why:    Unauthorized,
			answer: []byte{statute.VersionSocks5, statute.MethodNoAcceptable},
			err:    fmt.Errorf("client offers authentication methods %v, not %d", req.Methods, method),
		}
	}
	if _, err := h.client.Write([]byte{statute.VersionSocks5, method}); err != nil {
		return h.broken("method", err)
	}
	if method == statute.MethodNoAuth {
		return nil
	}
	return h.password()
}

// password is RFC 1929.
func (h *handshake) password() *refusal {
	req, err := statute.ParseUserPassRequest(h.buf)
	if err != nil {
		return h.broken("user and password", err)
	}
	if !h.server.Auth.permits(req.User, req.Pass) {
		return &refusal{
			why:    Unauthorized,
			answer: []byte{statute.UserPassAuthVersion, statute.AuthFailure},
			err:    errors.New("wrong user or password"),
		}
	}
	if _, err := h.client.Write([]byte{statute.UserPassAuthVersion, statute.AuthSuccess}); err != nil {
		return h.broken("user and password", err)
	}
	return nil
}

// request reads what the client wants and returns the address.
func (h *handshake) request() (string, *refusal) {
	req, err := statute.ParseRequest(h.buf)
	switch {
	case errors.Is(err, statute.ErrUnrecognizedAddrType):
		return "", refuseWith(BadAddressType, err)
	case err != nil:
		return "", h.broken("request", err)
	case req.Command != statute.CommandConnect:
		return "", refuseWith(BadCommand, fmt.Errorf("command %d instead of CONNECT", req.Command))
	}
	host := req.DstAddr.FQDN
	if req.DstAddr.AddrType != statute.ATYPDomain {
		host = req.DstAddr.IP.String()
	}
	address, err := target(host, req.DstAddr.Port)
	if err != nil {
		return "", refuseWith(BadTarget, err)
	}
	return address, nil
}

// refuseWith answers a request by its reason.
func refuseWith(why Reason, err error) *refusal {
	return &refusal{why: why, answer: reply(reasons[why].reply, nil), err: err}
}

// broken is for a client that cannot be answered: it stopped amid a message, or
// does not speak the protocol.
func (h *handshake) broken(what string, err error) *refusal {
	if h.in.err != nil {
		err = h.in.err
	}
	why := Malformed
	if isTimeout(err) {
		why = Slow
	}
	return &refusal{why: why, err: fmt.Errorf("read %s: %w", what, err)}
}
