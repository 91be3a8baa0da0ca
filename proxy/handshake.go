package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/things-go/go-socks5/statute"
)

// A handshake is what a SOCKS5 client and the server say until the target is
// known: methods, credentials, request. Deadlines are the caller's.
type handshake struct {
	ctx    context.Context // of the client
	server *server
	client net.Conn
	in     *ahead // keeps what follows the request
	user   User   // who has logged in; nil if nobody has to
}

// run returns what the client asks for.
func (h *handshake) run() (*request, *refusal) {
	if ref := h.authenticate(); ref != nil {
		return nil, ref
	}
	return h.request()
}

// authenticate agrees on a method and goes through it (RFC 1928 section 3).
func (h *handshake) authenticate() *refusal {
	req, err := statute.ParseMethodRequest(h.in)
	if err != nil {
		return h.in.broken("methods", err)
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
		return h.in.broken("method", err)
	}
	if method == statute.MethodNoAuth {
		return nil
	}
	return h.password()
}

// password is RFC 1929.
func (h *handshake) password() *refusal {
	req, err := statute.ParseUserPassRequest(h.in)
	if err != nil {
		return h.in.broken("user and password", err)
	}
	if h.user = h.server.login(h.ctx, h.client.RemoteAddr(), req.User, req.Pass); h.user == nil {
		return &refusal{
			why:    Unauthorized,
			answer: []byte{statute.UserPassAuthVersion, statute.AuthFailure},
			err:    errors.New("wrong user or password"),
		}
	}
	if _, err := h.client.Write([]byte{statute.UserPassAuthVersion, statute.AuthSuccess}); err != nil {
		return h.in.broken("user and password", err)
	}
	return nil
}

// login asks who it is, within the time that a handshake has. That it is nobody is logged,
// with what was said to be a name, once a minute.
func (s *server) login(ctx context.Context, client net.Addr, name, password []byte) User {
	ctx, cancel := context.WithTimeout(ctx, s.HandshakeTimeout)
	defer cancel()
	user := s.Auth.Login(ctx, name, password)
	if user != nil || ctx.Err() != nil {
		return user
	}
	if count, now := s.loginSaid.Again(); now {
		s.Log.Warn("proxy client refused: no such user, or another password", "client", client,
			"user", string(name[:min(len(name), maxLoggedName)]), "refusals", count)
	}
	return nil
}

// maxLoggedName is how much of a name is logged that is nobody's.
const maxLoggedName = 64

// request reads what the client wants.
func (h *handshake) request() (*request, *refusal) {
	req, err := statute.ParseRequest(h.in)
	switch {
	case errors.Is(err, statute.ErrUnrecognizedAddrType):
		return nil, socks5.refuse(BadAddressType, err)
	case err != nil:
		return nil, h.in.broken("request", err)
	}
	host := req.DstAddr.FQDN
	if req.DstAddr.AddrType != statute.ATYPDomain {
		host = req.DstAddr.IP.String()
	}
	return &request{version: socks5, command: req.Command, host: host, port: req.DstAddr.Port, user: h.user}, nil
}
