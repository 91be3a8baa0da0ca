package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"softether-go/pkg/relay"
)

// A tunnel is a client's wish for a connection of its own to a target, by SOCKS5
// or CONNECT: what they have in common after it was understood.
type tunnel struct {
	client  net.Conn
	buf     *bufio.Reader // of client; may hold bytes for the target
	address string
	granted func(conn net.Conn) []byte         // the answer to success
	denied  func(why Reason, err error) []byte // the answer to failure
}

// serveTunnel dials, answers, and relays until the end, when it calls done. It may
// return before: the relay has goroutines of its own, because a dial in the stack
// and a handshake leave 16 KiB of stack behind, and most relays are idle.
func (s *server) serveTunnel(ctx context.Context, t *tunnel, done func()) {
	s.serveOpened(ctx, t, s.dialTunnel, done)
}

// An opener connects a tunnel to its target. It also returns what the client sent ahead.
type opener func(ctx context.Context, t *tunnel) (net.Conn, []byte, *refusal)

// serveOpened is serveTunnel with another way to connect.
func (s *server) serveOpened(ctx context.Context, t *tunnel, open opener, done func()) {
	rel := s.openTunnel(ctx, t, open)
	if rel == nil {
		done()
		return
	}
	address := t.address // t's buffer must not live as long as the relay
	go func() {          // awaited by done
		defer done()
		if err := rel.Run(ctx); err != nil {
			s.Log.Debug("relay ended early", "client", rel.Client.RemoteAddr(), "target", address, "cause", err)
		}
	}()
}

// openTunnel connects and answers. It returns nil if the client was turned away.
func (s *server) openTunnel(ctx context.Context, t *tunnel, open opener) *relay.Relay {
	conn, early, ref := open(ctx, t)
	if ref != nil {
		s.refuse(t.client, ref)
		return nil
	}
	client := t.client
	if err := s.answer(client, t.granted(conn)); err != nil {
		relay.Reset(conn)
		s.refused(client.RemoteAddr(), Canceled, err)
		return nil
	}
	s.counters.requests.Add(1)
	r := s.relayTo(conn, client)
	r.Early = early
	return r
}

// relayTo is the relay between a client and its target.
func (s *server) relayTo(target, client net.Conn) *relay.Relay {
	return &relay.Relay{
		Client: client, Target: target, Outbound: &s.counters.outbound, Inbound: &s.counters.inbound,
		HalfClose: s.HalfCloseTimeout, Buffers: &s.buffers,
	}
}

// answer tells a client how its request went, within the time of a handshake.
func (s *server) answer(client net.Conn, b []byte) error {
	_ = client.SetWriteDeadline(time.Now().Add(s.HandshakeTimeout))
	if _, err := client.Write(b); err != nil {
		return err
	}
	return client.SetWriteDeadline(time.Time{})
}

// dialTunnel connects for a client that may hang up meanwhile. It returns the
// connection and what the client sent ahead.
func (s *server) dialTunnel(ctx context.Context, t *tunnel) (net.Conn, []byte, *refusal) {
	ctx, w := watchClient(ctx, t.client, t.buf)
	conn, why, err := s.connect(ctx, t.address)
	early := w.stop()
	if err == nil {
		return conn, early, nil
	}
	ref := &refusal{why: why, err: err}
	if why != Canceled {
		ref.answer = t.denied(why, err)
	}
	return nil, nil, ref
}

// connect dials within the limits, and tells why it could not.
func (s *server) connect(ctx context.Context, address string) (net.Conn, Reason, error) {
	dialCtx, cancel := context.WithTimeout(ctx, s.DialTimeout)
	defer cancel()
	conn, err := s.dial(dialCtx, address)
	switch {
	case ctx.Err() != nil: // whatever the dialer says
		if err == nil {
			relay.Reset(conn)
		}
		return nil, Canceled, fmt.Errorf("connect to %s: %w", address, context.Cause(ctx))
	case err != nil:
		return nil, dialReason(err), fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, 0, nil
}

// A refusal is how a client is turned away.
type refusal struct {
	why    Reason
	answer []byte // to the client; may be empty
	err    error  // for the log; nil if there is nothing to report
}

// How long and how much a client that was turned away may go on sending before it
// has read the answer. RFC 1928 section 6 allows 10 s.
const (
	lingerTime  = time.Second
	lingerBytes = 64 << 10
)

// refuse counts, answers, and gives the client time to read the answer: closing
// with bytes unread would make it a reset, and the answer be lost.
func (s *server) refuse(client net.Conn, ref *refusal) {
	if ref.err == nil {
		return
	}
	s.refused(client.RemoteAddr(), ref.why, ref.err)
	if len(ref.answer) == 0 {
		return
	}
	_ = client.SetDeadline(time.Now().Add(lingerTime))
	if _, err := client.Write(ref.answer); err != nil {
		return
	}
	hc, ok := client.(interface{ CloseWrite() error })
	if !ok || hc.CloseWrite() != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, client, lingerBytes)
}
