package underlay

import (
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A tuner keeps what waits unsent in the sockets to what suits the speed of their way.
type tuner struct {
	mu     sync.Mutex // guards the fields below
	looked time.Time  // when the ways were last looked at
	conns  []*tuned
}

// A tuned is a connection that is looked after.
type tuned struct {
	conn   net.Conn
	raw    syscall.RawConn
	room   int              // bytes that may wait unsent
	unsent int              // bytes that did when last asked for; negative if that failed
	ask    func(fd uintptr) // sets unsent; made once
}

// lookEvery is how often the speed of the ways is looked at.
const lookEvery = 10 * time.Millisecond

// besideRoom is more than anybody writes at once.
const besideRoom = 256 << 10

// Unsent returns how many bytes wait in an open connection for their first
// transmission, and how many may: as many as it sends in a few milliseconds. Of
// several connections it is the fullest that counts, as a batch may go by any. Both
// are 0 if nothing can be said. It does not block, and is cheap enough to be asked
// before every write.
func (d *Dialer) Unsent() (bytes, room int) {
	if d.Beside != nil && d.Beside() {
		return 0, besideRoom
	}
	t := &d.tuner
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.looked) >= lookEvery {
		t.looked = now
		t.follow(d.live())
	}
	for _, c := range t.conns {
		if c.raw.Control(c.ask) != nil {
			c.unsent = -1
		}
	}
	c := t.fullest()
	if c == nil {
		t.looked = time.Time{} // there may be another connection the next time
		return 0, 0
	}
	return c.unsent, c.room
}

// AwaitRoom waits until no more than half of what may wait in the fullest connection
// does, or it is closed. Who writes to that connection meanwhile waits too.
func (d *Dialer) AwaitRoom() {
	if d.Beside != nil && d.Beside() {
		return
	}
	d.tuner.mu.Lock()
	c := d.tuner.fullest()
	d.tuner.mu.Unlock()
	if c != nil {
		_ = c.raw.Write(isWritable) // an error is met again by who writes
	}
}

// fullest returns the connection that was when last asked, of those that are as full
// the fastest; nil if there is none that could be asked. The caller holds mu.
func (t *tuner) fullest() (fullest *tuned) {
	for _, c := range t.conns {
		switch {
		case c.unsent < 0:
		case fullest == nil:
			fullest = c
		default:
			a, b := c.unsent*fullest.room, fullest.unsent*c.room
			if a > b || a == b && c.room > fullest.room {
				fullest = c
			}
		}
	}
	return fullest
}

// follow looks at the connections that are open.
func (t *tuner) follow(open []connection) {
	known := t.conns
	t.conns = nil
	for _, o := range open {
		var c *tuned
		if i := slices.IndexFunc(known, func(k *tuned) bool { return k.conn == o.conn }); i >= 0 {
			c = known[i]
		} else {
			c = newTuned(o.conn)
		}
		if c != nil && c.look() {
			t.conns = append(t.conns, c)
		}
	}
}

// newTuned returns nil for a connection that cannot be asked.
func newTuned(conn net.Conn) *tuned {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	c := &tuned{conn: conn, raw: raw}
	c.ask = func(fd uintptr) { c.unsent = unsentBytes(int(fd)) }
	return c
}

// look makes room what suits the way now. It reports whether the connection is open
// and can be asked.
func (c *tuned) look() (ok bool) {
	err := c.raw.Control(func(fd uintptr) { ok = c.suit(int(fd)) })
	return err == nil && ok
}
