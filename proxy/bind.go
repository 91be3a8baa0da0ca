package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"softether-go/pkg/relay"
)

// A Listener waits for connections in the tunnel, for BIND.
//
// Listen is called with the network "tcp4" or "tcp6" and the address ":0". It listens on
// the tunnel's own address of that family, and Addr tells it, for peers to be told.
type Listener interface {
	Listen(ctx context.Context, network, address string) (net.Listener, error)
}

// A bind waits for one connection from the peer that a client named.
type bind struct {
	srv   *server
	req   *request
	peers []netip.Addr // those who may connect; empty means anybody
	ln    net.Listener
}

// serveBind is BIND of either version: an answer with the address at which the peer is
// awaited, another with the peer's, then a relay. It calls done at the end, and may return
// before.
func (s *server) serveBind(ctx context.Context, client net.Conn, in *ahead, req *request, done func()) {
	b := &bind{srv: s, req: req}
	if ref := b.listen(ctx); ref != nil {
		s.refuse(client, ref)
		done()
		return
	}
	s.serveOpened(ctx, &tunnel{
		client: client, buf: in.Reader, address: req.host,
		granted: func(conn net.Conn) []byte { return req.version.granted(conn.RemoteAddr()) },
		denied:  func(why Reason, _ error) []byte { return req.version.denied(why) },
	}, b.accept, done)
}

// listen finds out whom to wait for and where.
func (b *bind) listen(ctx context.Context) *refusal {
	version := b.req.version
	if b.srv.Listener == nil {
		return version.refuse(BadCommand, errors.New("no BIND here"))
	}
	if _, err := target(b.req.host, 1); err != nil { // the port does not matter
		return version.refuse(BadTarget, err)
	}
	if _, err := netip.ParseAddr(b.req.host); err != nil {
		if err := visitorOf(ctx).permitsName(b.req.host, uint16(b.req.port)); err != nil {
			return version.refuse(NotPermitted, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, b.srv.DialTimeout)
	defer cancel()
	var err error
	if b.peers, err = b.srv.peersOf(ctx, b.req.host); err != nil {
		return version.refuse(dialReason(err), err)
	}
	network := "tcp4"
	if len(b.peers) > 0 && !slices.ContainsFunc(b.peers, netip.Addr.Is4) {
		network = "tcp6"
	}
	if b.ln, err = b.srv.Listener.Listen(ctx, network, ":0"); err != nil {
		return version.refuse(dialReason(err), fmt.Errorf("listen in the tunnel: %w", err))
	}
	return nil
}

// peersOf returns the addresses of the host that a client expects a connection from. One
// that says nothing expects anybody.
func (s *server) peersOf(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.IsUnspecified() {
			return nil, nil
		}
		return []netip.Addr{addr.Unmap().WithZone("")}, nil
	}
	if s.Resolver == nil {
		return nil, &net.DNSError{Err: "no resolver", Name: host}
	}
	addrs, err := s.Resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
	}
	addrs = slices.Clone(addrs)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

// accept tells the client where the peer is awaited, and waits for it. A client that
// hangs up ends that.
func (b *bind) accept(ctx context.Context, t *tunnel) (net.Conn, []byte, *refusal) {
	defer b.ln.Close()
	if err := b.srv.answer(t.client, b.req.version.granted(b.ln.Addr())); err != nil {
		return nil, nil, &refusal{why: Canceled, err: err}
	}
	ctx, w := watchClient(ctx, t.client, t.buf)
	conn, why, err := b.await(ctx)
	early := w.stop()
	if err == nil {
		return conn, early, nil
	}
	ref := &refusal{why: why, err: fmt.Errorf("wait for %s: %w", b.req.host, err)}
	if why != Canceled {
		ref.answer = t.denied(why, err)
	}
	return nil, nil, ref
}

// await takes connections until one is the peer's. The others, who may have been waiting
// for such a port to open, are turned away.
func (b *bind) await(ctx context.Context) (net.Conn, Reason, error) {
	waiting, cancel := context.WithTimeout(ctx, b.srv.BindTimeout)
	defer cancel()
	stop := context.AfterFunc(waiting, func() { b.ln.Close() })
	defer stop()
	for {
		conn, err := b.ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				relay.Reset(conn)
			}
			return nil, Canceled, context.Cause(ctx)
		case err == nil && !b.expects(conn.RemoteAddr()):
			b.srv.refused(conn.RemoteAddr(), Stranger, fmt.Errorf("a connection for a client that waits for %s", b.req.host))
			relay.Reset(conn)
		case err == nil:
			return b.admit(visitorOf(ctx), conn)
		case waiting.Err() != nil:
			return nil, Timeout, waiting.Err()
		default:
			return nil, dialReason(err), err
		}
	}
}

// admit lets the peer's connection to the client, by the rules and limits of the user.
func (b *bind) admit(v visitor, conn net.Conn) (net.Conn, Reason, error) {
	if v.user == nil {
		return conn, 0, nil
	}
	host := b.req.host
	if _, err := netip.ParseAddr(host); err == nil {
		host = ""
	}
	from := addrPort(conn.RemoteAddr())
	if err := v.user.Permits(host, from.Addr(), from.Port()); err != nil {
		relay.Reset(conn)
		return nil, NotPermitted, err
	}
	return v.user.Limit(conn), 0, nil
}

// expects reports whether a connection is from the peer that the client named. Its port
// is free: servers rarely know theirs before.
func (b *bind) expects(from net.Addr) bool {
	return len(b.peers) == 0 || slices.Contains(b.peers, addrPort(from).Addr())
}
