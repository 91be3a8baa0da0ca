package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/tlsconn"
	"softether-go/pkg/wire"
)

const (
	// stepTimeout is our patience with each step of a negotiation
	// (Cedar/Cedar.h, CONNECTING_TIMEOUT).
	stepTimeout = 15 * time.Second
	// closeGrace bounds how long a connection's end may take.
	closeGrace = time.Second
	// chunk is the most that one TLS write carries. A deadline covers each, so a
	// slow peer that does read is not taken for a dead one.
	chunk = 128 << 10
)

var errSilent = errors.New("the peer was silent for the session's time-out")

// A conn is one connection of a client.
type conn struct {
	h   *Hub
	id  int64
	raw net.Conn
	tls *tlsconn.Conn
	// stream is tls, or in the data phase of a session without encryption raw.
	stream io.ReadWriter
	dir    wire.Direction // of the data phase, as the client sees it
	packer *wire.Packer   // the writer's; nil unless blocks are compressed

	ctx    context.Context // of the data phase, for faults that wait
	cancel context.CancelCauseFunc
	life   atomic.Int64  // when the peer last showed life, in Unix nanoseconds
	poke   chan struct{} // asks the writer to look for faults

	// The rest belongs to the goroutine that writes.
	hit     map[*Fault]bool // those that have struck here
	sent    int64           // bytes of the data phase
	trickle *Fault          // if not nil, one byte at a time
	views   [][]byte        // of what is sent by UDP
	armed   time.Time       // when the write deadline was last moved

	mute    atomic.Bool // the end comes without TLS's notice
	stalled atomic.Pointer[stall]
}

// serveConn serves a client from the first byte to the last.
func (h *Hub) serveConn(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	below := raw
	if h.cfg.Cleartext {
		below = tlsconn.Records(raw)
	}
	secure := tlsconn.Server(below, h.tls)
	c := &conn{h: h, id: h.connID.Add(1), raw: raw, tls: secure, stream: secure,
		ctx: ctx, cancel: cancel, poke: make(chan struct{}, 1), hit: make(map[*Fault]bool)}
	defer raw.Close()
	c.life.Store(time.Now().UnixNano())
	log := h.cfg.Log.With("conn", c.id, "peer", raw.RemoteAddr())
	s, early, err := c.negotiate(ctx)
	if err != nil {
		log.Debug("negotiation ended", "err", err)
		h.stats.negotiationsFailed.Add(1)
		c.hangUp()
		return
	}
	log.Info("joined", "session", s.name)
	c.begin(s)
	err = c.carry(ctx, s, early)
	log.Info("left", "session", s.name, "why", err)
	last := h.leave(s, c)
	c.hangUp()
	if last {
		h.linger(ctx, s)
	}
}

// begin prepares for what the session agreed on.
func (c *conn) begin(s *session) {
	if s.cleartext {
		c.stream = c.raw // TLS is forgotten, without a notice
	}
	if s.compress {
		c.packer = wire.NewPacker()
	}
}

// carry is the data phase. It returns why it ended, never nil.
func (c *conn) carry(ctx context.Context, s *session, early []byte) error {
	c.raw.SetDeadline(time.Time{})
	g, gctx := errgroup.WithContext(ctx)
	c.ctx = gctx
	stop := context.AfterFunc(gctx, func() {
		c.raw.SetReadDeadline(time.Unix(1, 0))
		// A write that is cut short could not be followed by a proper end.
		c.raw.SetWriteDeadline(time.Now().Add(closeGrace))
	})
	defer stop()
	parser := wire.NewParser(early)
	if s.compress {
		parser = wire.NewInflatingParser(early)
	}
	g.Go(func() error { return c.receive(gctx, s, parser) })
	g.Go(func() error { return c.send(gctx, s) })
	err := g.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// receive switches what the client sends.
func (c *conn) receive(ctx context.Context, s *session, p *wire.Parser) error {
	last, armed := time.Now(), time.Time{}
	for {
		// Moving the deadline costs a timer operation: once a second is enough.
		if last.Sub(armed) >= time.Second {
			if c.dir != wire.InboundOnly { // else the client may not speak
				c.raw.SetReadDeadline(last.Add(s.timeout))
			}
			armed = last
		}
		if ctx.Err() != nil { // after the deadline: else it could undo the one that stops us
			return ctx.Err()
		}
		frames, alive, err := p.Next(c)
		if alive {
			last = time.Now()
			c.life.Store(last.UnixNano())
		}
		if len(frames) > 0 && c.dir == wire.InboundOnly {
			c.h.lan.dropBad.Add(uint64(len(frames)))
		} else if len(frames) > 0 && !s.monitor {
			c.h.lan.forward(s.port, frames)
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && ctx.Err() == nil {
			err = errSilent
		}
		if err != nil {
			return err
		}
	}
}

// Read reads what the client says.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.stream.Read(b)
	c.stalled.Load().wait(c.ctx)
	return n, err
}

// send writes what waits for the session, and keep-alives: one at once and then at
// a steady pace.
func (c *conn) send(ctx context.Context, s *session) error {
	tick := time.NewTicker(s.timeout / 5)
	defer tick.Stop()
	if c.dir == wire.OutboundOnly { // nothing to say here
		<-ctx.Done()
		return ctx.Err()
	}
	var spare []byte
	beat := true
	for {
		batch := s.port.take(spare)
		if c.sendUDP(s, batch) {
			batch = batch[:0]
		}
		batch = c.pack(batch)
		if beat {
			batch = appendKeepAlive(batch)
			beat = false
		}
		if err := c.sendAll(batch, s.timeout); err != nil {
			return err
		}
		spare = batch
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.port.wake:
		case <-c.poke:
		case <-tick.C:
			spare = s.port.trim(spare)
			beat = true
		}
	}
}

// pack returns units as they are sent.
func (c *conn) pack(units []byte) []byte {
	if c.packer == nil || len(units) == 0 {
		return units
	}
	packed, _ := c.packer.AppendBatch(nil, appendViews(nil, units)) // what waits is of the right size
	return packed
}

// appendKeepAlive appends a keep-alive of random content and length.
func appendKeepAlive(b []byte) []byte {
	var content [wire.MaxKeepAlive - 1]byte
	rand.Read(content[:])
	n := int(content[0]) + int(content[1]) // 0 to 510
	return wire.AppendKeepAlive(b, content[:n])
}

func (c *conn) sendAll(batch []byte, timeout time.Duration) error {
	for {
		n := min(len(batch), chunk)
		if now := time.Now(); now.Sub(c.armed) >= time.Second {
			c.armed = now
			c.raw.SetWriteDeadline(now.Add(timeout + time.Second))
			if c.ctx.Err() != nil {
				c.raw.SetWriteDeadline(now.Add(closeGrace))
			}
		}
		if err := c.sendChunk(batch[:n]); err != nil {
			return err
		}
		if batch = batch[n:]; len(batch) == 0 {
			return nil
		}
	}
}

// sendChunk writes b in the data phase, as the faults let it.
func (c *conn) sendChunk(b []byte) error {
	if faults := c.h.faults.load(); len(faults) > 0 || c.trickle != nil {
		return c.sendFaulty(b, faults)
	}
	c.sent += int64(len(b))
	return c.write(b)
}

func (c *conn) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	_, err := c.stream.Write(b)
	return err
}

// Write makes a conn an io.Writer for the negotiation.
func (c *conn) Write(b []byte) (int, error) { return len(b), c.write(b) }

// hangUp ends the connection, properly unless a fault forbids it: the notice of
// TLS, the end of the stream, and then a moment for the peer to read them, which a
// reset for unread bytes would not leave him.
func (c *conn) hangUp() {
	defer c.raw.Close()
	// crypto/tls gives its notice 5 s, too long for who wants to leave.
	cut := time.AfterFunc(closeGrace, func() { c.raw.Close() })
	defer cut.Stop()
	c.raw.SetDeadline(time.Now().Add(closeGrace))
	if !c.mute.Load() && c.stream == io.ReadWriter(c.tls) {
		c.tls.CloseWrite()
	}
	if half, ok := c.raw.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		io.Copy(io.Discard, c.raw)
	}
}
