package rudp

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// received is one that came before its turn.
type received struct {
	seq  uint64 // 0 means none
	data [maxData]byte
	n    int
}

// receive takes datagrams until the socket is closed.
func (c *Conn) receive() {
	b := make([]byte, 4<<10)
	for failures := 0; ; {
		n, err := c.sock.Read(b)
		switch {
		case err == nil:
			failures = 0
			c.take(b[:n])
		case errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF):
			c.fail(net.ErrClosed)
			return
		default:
			// What the network says of a datagram anybody can say: only silence counts. While
			// the stream is being opened it is worth an answer, though.
			if failures++; failures >= socketErrors || !c.opened() && errors.Is(err, syscall.ECONNREFUSED) && failures >= 3 {
				c.fail(err)
				return
			}
		}
	}
}

// take deals with one datagram.
func (c *Conn) take(b []byte) {
	b, ok := c.over.unwrap(b)
	if !ok {
		c.stats.ignored.Add(1)
		return
	}
	c.mu.Lock()
	s, ok := c.keys.open(b, c.over.mask())
	if ok {
		c.stats.received.Add(1)
		c.segment(s)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	if k := c.bulk.Load(); k != nil {
		if f, ok := k.open(b); ok {
			c.stats.framesIn.Add(1)
			c.deliver(f)
			return
		}
	}
	c.stats.ignored.Add(1)
}

// segment deals with one segment. The caller holds mu, as of all below.
func (c *Conn) segment(s inbound) {
	now := c.tick()
	if c.err != nil || s.yourTick > now || s.complete >= c.next {
		return // in answer to what was never sent
	}
	c.acknowledged(s)
	if s.yourTick > c.echoed {
		c.echoed, c.heard = s.yourTick, time.Now()
		c.measure(time.Duration(now-s.yourTick) * time.Millisecond)
	}
	c.peerTick = max(c.peerTick, s.myTick-min(s.myTick, 1))
	switch {
	case s.seq == 0:
	case s.seq == c.mark:
		c.finish(io.EOF)
		return
	default:
		c.accept(s)
		if !c.isOpen {
			c.isOpen = true
			close(c.established)
			c.timer = time.AfterFunc(0, c.tend)
		}
	}
	if c.isOpen {
		c.push()
	}
}

// acknowledged forgets what has arrived.
func (c *Conn) acknowledged(s inbound) {
	c.complete = max(c.complete, s.complete)
	c.reached = max(c.reached, s.complete)
	for ; c.first <= c.complete; c.first++ {
		c.flying[c.first%window].seq = 0
	}
	for i := range s.acks() {
		seq := s.ack(i)
		if f := &c.flying[seq%window]; seq != 0 && f.seq == seq {
			f.seq = 0
			c.reached = max(c.reached, seq)
		}
	}
	for c.first < c.next && c.flying[c.first%window].seq == 0 {
		c.first++
	}
}

// accept keeps a segment's data and passes on what is in order.
func (c *Conn) accept(s inbound) {
	if len(s.data) == 0 || len(s.data) > maxData || s.seq > c.have+window {
		return // not acknowledged either: it comes again
	}
	c.acks = append(c.acks, s.seq)
	e := &c.early[s.seq%window]
	if s.seq <= c.have || e.seq == s.seq {
		c.stats.duplicate.Add(1)
	} else {
		e.seq, e.n = s.seq, copy(e.data[:], s.data)
		c.advance()
	}
	if len(c.acks) == window {
		c.sendAcks()
	}
}

// advance moves what is in order to the reader, as far as there is room.
func (c *Conn) advance() {
	before := c.in.Len()
	for c.in.Len() < inLimit {
		e := &c.early[(c.have+1)%window]
		if e.seq != c.have+1 {
			break
		}
		c.have++
		e.seq = 0
		switch data := e.data[:e.n]; {
		case c.keys.asks(data):
			if c.first == c.next { // else what is on its way says the same
				c.launch(c.keys.aliveAnswer[:])
			}
		case c.keys.answers(data):
		default:
			c.in.Write(data)
		}
	}
	if c.in.Len() > before {
		c.readable.Broadcast()
	}
}
