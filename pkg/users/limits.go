package users

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// limits of a user; 0 means none.
type limits struct {
	connections int
	up, down    uint64 // bytes a second of all connections together
}

// An account counts what a user has open and carries. It lasts as long as the name is in
// the file, and longer for those who were cut off.
type account struct {
	up, down bucket

	mu    sync.Mutex // guards all below
	limit int
	open  map[*func()]struct{} // what cuts each connection
}

func newAccount(l limits) *account {
	a := &account{open: make(map[*func()]struct{})}
	a.set(l)
	return a
}

// set changes the limits. What is open stays so.
func (a *account) set(l limits) {
	a.up.set(l.up)
	a.down.set(l.down)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limit = l.connections
}

// cut ends all that is open.
func (a *account) cut() {
	a.mu.Lock()
	var all []func()
	for c := range a.open {
		all = append(all, *c)
	}
	a.mu.Unlock()
	for _, c := range all {
		c()
	}
}

// Enter counts a connection in, which cut ends. leave counts it out.
func (u *user) Enter(cut func()) (leave func(), err error) {
	a := u.account
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.limit > 0 && len(a.open) >= a.limit {
		return nil, fmt.Errorf("%s has %d connections, as many as allowed", u.name, a.limit)
	}
	a.open[&cut] = struct{}{}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.open, &cut)
	}, nil
}

// Limit returns c, or a connection on c that is as fast as the user may be.
func (u *user) Limit(c net.Conn) net.Conn {
	a := u.account
	if a.up.rate() == 0 && a.down.rate() == 0 {
		return c
	}
	return &paced{Conn: c, up: &a.up, down: &a.down, closed: make(chan struct{})}
}

// MaySend counts datagrams of n bytes to targets, if they are within the rate.
func (u *user) MaySend(n int) bool { return u.account.up.spare(n) }

// MayReceive counts datagrams of n bytes from targets, if they are within the rate.
func (u *user) MayReceive(n int) bool { return u.account.down.spare(n) }

// A paced connection is held to the rates that several share.
type paced struct {
	net.Conn
	up, down *bucket
	once     sync.Once
	closed   chan struct{}
}

// Read gives what has come when it is time for it.
func (c *paced) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), c.down.piece())])
	if n > 0 && !c.wait(c.down.take(n)) && err == nil {
		err = net.ErrClosed
	}
	return n, err
}

// Write sends in pieces, each when it is time for it.
func (c *paced) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := min(len(p), c.up.piece())
		if !c.wait(c.up.take(piece)) {
			return n, net.ErrClosed
		}
		m, err := c.Conn.Write(p[:piece])
		n += m
		if err != nil {
			return n, err
		}
		p = p[piece:]
	}
	return n, nil
}

// wait reports whether the connection is still open then.
func (c *paced) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.closed:
		return false
	}
}

func (c *paced) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// CloseWrite passes on the end of what is sent.
func (c *paced) CloseWrite() error {
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return c.Close()
}

// SetLinger passes on whether Close is a reset.
func (c *paced) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

const (
	// burst is how much of a rate may have been saved: enough for the latency of a
	// request not to suffer, too little to be seen in a second's count.
	burst = 250 * time.Millisecond
	// slice is how much of a rate is one piece: a connection waits no longer for its own.
	slice = 50 * time.Millisecond
	// minPiece is a full segment.
	minPiece = 1460
)

// A bucket paces what several connections carry in one direction.
type bucket struct {
	mu   sync.Mutex // guards all below
	perS uint64     // 0 means any
	free time.Time  // when all that was taken is paid for
}

func (b *bucket) set(perS uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.perS = perS
}

func (b *bucket) rate() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.perS
}

// piece is how much is to be taken at once.
func (b *bucket) piece() int {
	rate := b.rate()
	if rate == 0 {
		return 1 << 20
	}
	return int(max(minPiece, min(rate*uint64(slice)/uint64(time.Second), 1<<20)))
}

// take books n bytes and returns how long to wait for them.
func (b *bucket) take(n int) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.book(n)
}

// spare books n bytes if they need not wait, and reports whether that is so.
func (b *bucket) spare(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.perS != 0 && b.free.After(time.Now()) {
		return false
	}
	b.book(n)
	return true
}

// book is take with mu held.
func (b *bucket) book(n int) time.Duration {
	if b.perS == 0 {
		return 0
	}
	now := time.Now()
	if earliest := now.Add(-burst); b.free.Before(earliest) {
		b.free = earliest
	}
	b.free = b.free.Add(time.Duration(float64(n) / float64(b.perS) * float64(time.Second)))
	return b.free.Sub(now)
}
