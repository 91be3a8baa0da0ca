package proxy

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/things-go/go-socks5/statute"
)

// SOCKS5 is a SOCKS5 server. It serves clients of SOCKS4 and 4a too.
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
		go func() { // awaited in finish
			_ = c.SetDeadline(time.Now().Add(s.HandshakeTimeout))
			s.serveSOCKS(r.ctx, c, newAhead(c), func() { r.remove(c) })
		}()
	}
}

// reply5 returns a SOCKS5 reply; bound is the address it tells, if there is
// one.
func reply5(code uint8, bound net.Addr) []byte {
	rep := statute.Reply{
		Version:  statute.VersionSocks5,
		Response: code,
		BndAddr:  statute.AddrSpec{AddrType: statute.ATYPIPv4, IP: net.IPv4zero},
	}
	if ap := addrPort(bound); ap.IsValid() {
		rep.BndAddr.IP, rep.BndAddr.Port = ap.Addr().AsSlice(), int(ap.Port())
		if ap.Addr().Is6() {
			rep.BndAddr.AddrType = statute.ATYPIPv6
		}
	}
	return rep.Bytes()
}

// addrPort returns the address of TCP or UDP that a is, or none.
func addrPort(a net.Addr) netip.AddrPort {
	ip, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	ap := ip.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
