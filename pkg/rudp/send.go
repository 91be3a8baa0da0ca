package rudp

import "time"

// segment is one on its way.
type segment struct {
	seq   uint64 // 0 means none: acknowledged
	data  [maxData]byte
	n     int
	tries int
	sent  time.Time
	due   time.Time
}

// measure follows the round trip. (RFC 6298, 2)
func (c *Conn) measure(rtt time.Duration) {
	if c.smoothed == 0 {
		c.smoothed, c.variation = max(rtt, time.Millisecond), rtt/2
		return
	}
	c.variation += ((c.smoothed - rtt).Abs() - c.variation) / 4
	c.smoothed = max(c.smoothed+(rtt-c.smoothed)/8, time.Millisecond)
}

func (c *Conn) timeout(tries int) time.Duration {
	rto := firstRTO
	if c.smoothed != 0 {
		rto = max(minRTO, c.smoothed+4*c.variation)
	}
	return min(rto<<min(tries, 10), maxRTO)
}

// push sends what there is to send: new segments as the window allows, what has been
// overtaken, and acknowledgements.
func (c *Conn) push() {
	roomy := len(c.out) >= outLimit
	off := 0
	for off < len(c.out) && c.mayLaunch() {
		n := min(len(c.out)-off, maxData)
		c.launch(c.out[off : off+n])
		off += n
	}
	if off > 0 {
		c.out = c.out[:copy(c.out, c.out[off:])]
	}
	if roomy && len(c.out) < outLimit {
		c.writable.Broadcast()
	}
	for seq := c.first; seq+overtaken <= c.reached; seq++ {
		if f := &c.flying[seq%window]; f.seq == seq && time.Since(f.sent) > c.smoothed {
			c.transmit(f)
		}
	}
	for len(c.acks) > 0 {
		c.sendAcks()
	}
	if len(c.out) == 0 && c.first == c.next {
		c.writable.Broadcast() // for Close
	}
}

// mayLaunch reports whether the window has room. The server drops what is further
// ahead of what it has passed on than the window is wide.
func (c *Conn) mayLaunch() bool {
	return c.first == c.next || c.next-c.first < window && c.next <= c.complete+window
}

// launch sends a new segment.
func (c *Conn) launch(data []byte) {
	f := &c.flying[c.next%window]
	f.seq, f.n, f.tries = c.next, copy(f.data[:], data), 0
	c.next++
	c.stats.sent.Add(1)
	c.transmit(f)
	if c.timer != nil && f.due.Before(c.wake) {
		c.wakeAt(f.due)
	}
}

// wakeAt has tend called at t, and no earlier.
func (c *Conn) wakeAt(t time.Time) {
	c.wake = t
	c.timer.Reset(max(time.Until(t), time.Millisecond))
}

func (c *Conn) transmit(f *segment) {
	if f.tries > 0 {
		c.stats.repeated.Add(1)
	}
	f.sent = time.Now()
	f.due = f.sent.Add(c.timeout(f.tries))
	f.tries++
	c.spoke = f.sent
	c.emit(f.seq, f.data[:f.n])
}

// sendAcks sends a segment without data.
func (c *Conn) sendAcks() { c.emit(c.next, nil) }

// emit seals and sends a segment, with the acknowledgements that wait.
func (c *Conn) emit(seq uint64, data []byte) {
	c.pt = appendPlain(c.pt[:0], c.tick(), c.peerTick, c.have, c.acks, seq, data)
	c.acks = c.acks[:0]
	_, _ = c.sock.Write(c.over.wrap(c.tx, c.keys.seal(c.pt, c.over.mask()))) // lost or not, what matters is repeated
}

// tend repeats what has had no answer in time, shows life and notices the server's
// death.
func (c *Conn) tend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	now := time.Now()
	if now.Sub(c.heard) >= silence {
		c.finish(ErrSilent)
		return
	}
	if c.first == c.next && now.Sub(c.spoke) >= c.aliveIn {
		c.aliveIn = aliveAfter()
		c.launch(c.keys.aliveRequest[:])
	}
	wake := c.heard.Add(silence)
	if alive := c.spoke.Add(c.aliveIn); c.first == c.next && alive.Before(wake) {
		wake = alive
	}
	for seq := c.first; seq < c.next; seq++ {
		f := &c.flying[seq%window]
		if f.seq != seq {
			continue
		}
		if !f.due.After(now) {
			c.transmit(f)
		}
		if f.due.Before(wake) {
			wake = f.due
		}
	}
	c.wakeAt(wake)
}
