package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"softether-go/pkg/relay"
)

// A visitor is who asks for targets on one connection, and by which of our addresses.
type visitor struct {
	user  User                              // nil where nobody has to log in
	local netip.AddrPort                    // the proxy's end of the connection; invalid if it has no such address
	own   func(string, netip.AddrPort) bool // Config.Own; may be nil
}

func (s *server) newVisitor(client net.Conn, user User) visitor {
	v := visitor{user: user, own: s.Own}
	if a, ok := client.LocalAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		v.local = netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return v
}

type visitorKey struct{}

func withVisitor(ctx context.Context, v visitor) context.Context {
	return context.WithValue(ctx, visitorKey{}, v)
}

func visitorOf(ctx context.Context) visitor {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	return v
}

// UserOf returns the name of the user for whom a Dialer is called with ctx, or "" where
// nobody has to log in.
func UserOf(ctx context.Context) string {
	if v := visitorOf(ctx); v.user != nil {
		return v.user.String()
	}
	return ""
}

// enter counts the visitor in until left is called, which calls done. The context that it
// returns is for dialing, and ends when the user may no longer be here.
func (v visitor) enter(ctx context.Context, done func()) (_ context.Context, left func(), err error) {
	ctx = withVisitor(ctx, v)
	if v.user == nil {
		return ctx, done, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	leave, err := v.user.Enter(func() { cancel(errUserGone) })
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	return ctx, func() {
		leave()
		cancel(nil)
		done()
	}, nil
}

var errUserGone = errors.New("the user is no longer there, or has another password")

// A notPermitted is a target that a visitor may not reach, by our rules or the user's.
type notPermitted struct {
	why Reason
	err error
}

func (e *notPermitted) Error() string { return e.err.Error() }
func (e *notPermitted) Unwrap() error { return e.err }

// permits tells whether the visitor may reach an address. host is the name that it is
// of, or empty.
func (v visitor) permits(host string, to netip.AddrPort) error {
	addr := to.Addr().Unmap()
	if what := special(addr); what != "" {
		return &notPermitted{NotPermitted, fmt.Errorf("%s is a %s address, which nothing behind the tunnel has", addr, what)}
	}
	at := netip.AddrPortFrom(addr, to.Port())
	if at == v.local || v.own != nil && v.own("tcp", at) {
		return &notPermitted{Loop, fmt.Errorf("%s is a port of this program itself", at)}
	}
	if v.user == nil {
		return nil
	}
	if err := v.user.Permits(host, addr, to.Port()); err != nil {
		return &notPermitted{NotPermitted, err}
	}
	return nil
}

// permitsName tells whether the visitor may reach a port of a name, as far as that can be
// said before it is resolved.
func (v visitor) permitsName(host string, port uint16) error {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761 section 6.3
		return &notPermitted{NotPermitted, fmt.Errorf("%s is a loopback name, and no matter of a name server behind the tunnel", host)}
	}
	if v.user == nil {
		return nil
	}
	if err := v.user.Permits(host, netip.Addr{}, port); err != nil {
		return &notPermitted{NotPermitted, err}
	}
	return nil
}

// special says what kind of address it is that no target has, or "". What is on a link is
// that of the tunnel, where link-local addresses are the hub's own business.
func special(a netip.Addr) string {
	switch {
	case a.IsLoopback():
		return "loopback"
	case a.IsUnspecified():
		return "unspecified"
	case a.IsLinkLocalUnicast():
		return "link-local"
	case a.IsMulticast():
		return "multicast"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "broadcast"
	}
	return ""
}

// A permittedDialer is a Dialer that asks before it dials one of a name's addresses.
type permittedDialer interface {
	// DialPermitted is DialContext, but for addresses of which permit returns an error.
	// If that is so of all, it returns the first of those errors, which may be wrapped.
	DialPermitted(ctx context.Context, network, address string, permit func(netip.AddrPort) error) (net.Conn, error)
}

// permitsTarget tells whether the visitor may reach a target, as far as that can be said
// before a name is resolved.
func (v visitor) permitsTarget(address string) error {
	host, addr, port := splitTarget(address)
	if addr.IsValid() {
		return v.permits("", netip.AddrPortFrom(addr, port))
	}
	return v.permitsName(host, port)
}

// splitTarget takes apart what target has put together. addr is invalid for a name.
func splitTarget(address string) (host string, addr netip.Addr, port uint16) {
	host, text, _ := net.SplitHostPort(address)
	n, _ := strconv.ParseUint(text, 10, 16)
	addr, _ = netip.ParseAddr(host)
	return host, addr, uint16(n)
}

// dial dials what the visitor in ctx may reach, on the account of the visitor's user.
func (s *server) dial(ctx context.Context, address string) (net.Conn, error) {
	v := visitorOf(ctx)
	if err := v.permitsTarget(address); err != nil {
		return nil, err
	}
	conn, err := s.dialPermitted(ctx, v, address)
	if err != nil || v.user == nil {
		return conn, err
	}
	return v.user.Limit(conn), nil
}

// dialPermitted dials a target that may be reached, if that depends on the addresses of a
// name those of them that may.
func (s *server) dialPermitted(ctx context.Context, v visitor, address string) (net.Conn, error) {
	host, addr, port := splitTarget(address)
	d, asks := s.Dialer.(permittedDialer)
	switch {
	case addr.IsValid():
		return s.Dialer.DialContext(ctx, "tcp", address)
	case asks:
		return d.DialPermitted(ctx, "tcp", address, func(to netip.AddrPort) error { return v.permits(host, to) })
	}
	conn, err := s.Dialer.DialContext(ctx, "tcp", address)
	if err != nil || v.user == nil {
		return conn, err
	}
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		if err := v.user.Permits(host, a.AddrPort().Addr().Unmap(), port); err != nil {
			relay.Reset(conn) // before a byte of the client's
			return nil, &notPermitted{NotPermitted, err}
		}
	}
	return conn, nil
}
