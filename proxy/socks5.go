package proxy

import (
	"bufio"
	"context"
	"net"
	"time"

	"github.com/things-go/go-socks5/statute"
)

// SOCKS5 is a SOCKS5 server.
type SOCKS5 struct{ *server }

// NewSOCKS5 returns a server that is ready to Serve.
func NewSOCKS5(c Config) *SOCKS5 { return &SOCKS5{newServer(c)} }

// Serve serves the clients of ln until ctx ends, or Shutdown or Close is called,
// and returns when they are gone. It closes ln. Several listeners may be served at
// once.
func (s *SOCKS5) Serve(ctx context.Context, ln net.Listener) error {
	r, err := s.begin(ctx, ln, nil)
	if err != nil {
		return err
	}
	for {
		c, err := r.Accept()
		if err != nil {
			return r.finish()
		}
		go s.serveClient(r.ctx, c, func() { r.remove(c) }) // awaited in finish
	}
}

// readAhead is the size of a client's buffer. It holds the longest handshake
// (257 + 513 + 262 bytes) and what may come ahead of the answer.
const readAhead = 4 << 10

// serveClient sees one client through and calls done at the end, which closes the
// connection. It may return before.
func (s *SOCKS5) serveClient(ctx context.Context, client net.Conn, done func()) {
	_ = client.SetDeadline(time.Now().Add(s.HandshakeTimeout))
	h := &handshake{server: s.server, client: client, in: lastError{Reader: client}}
	h.buf = bufio.NewReaderSize(&h.in, readAhead)
	address, ref := h.run()
	if ref != nil {
		s.refuse(client, ref)
		done()
		return
	}
	_ = client.SetDeadline(time.Time{})
	s.serveTunnel(ctx, &tunnel{
		client: client, buf: h.buf, address: address,
		granted: func(bound net.Addr) []byte { return reply(statute.RepSuccess, bound) },
		denied:  func(why Reason, _ error) []byte { return reply(reasons[why].reply, nil) },
	}, done)
}

// reply returns a SOCKS5 reply; bound is the tunnel's end of the connection, if
// there is one.
func reply(code uint8, bound net.Addr) []byte {
	rep := statute.Reply{
		Version:  statute.VersionSocks5,
		Response: code,
		BndAddr:  statute.AddrSpec{AddrType: statute.ATYPIPv4, IP: net.IPv4zero},
	}
	if a, ok := bound.(*net.TCPAddr); ok && len(a.IP) > 0 {
		rep.BndAddr.IP, rep.BndAddr.Port = a.IP, a.Port
		if a.IP.To4() == nil {
			rep.BndAddr.AddrType = statute.ATYPIPv6
		}
	}
	return rep.Bytes()
}
