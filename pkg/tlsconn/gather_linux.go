package tlsconn

import (
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// gatherFor is how long the bytes of a busy stream gather, by its speed of late.
	gatherFor = 400 * time.Microsecond
	// gatherLimit bounds the wait for what the speed of late promised.
	gatherLimit = time.Millisecond

	// lookEvery is how often the speed is looked at, and quiet a silence after which a
	// stream is busy no more.
	lookEvery = time.Millisecond
	quiet     = 4 * lookEvery

	// Below leastGathered, 41 Mbit/s, it is not worth it. Above mostGathered nothing
	// more is won.
	leastGathered = 2 << 10
	mostGathered  = 128 << 10
)

// A gatherer lets the bytes of a busy stream gather in the kernel before the reader is
// woken, as network cards let packets gather before they interrupt: as many as come in
// gatherFor (SO_RCVLOWAT), but for gatherLimit at most. The reader is not held up while
// it works, only when there is little to read; and an end of the stream wakes it at once.
//
// vpnserver sends records of 16 KiB one by one. To wake up for each costs more than to
// decrypt it.
type gatherer struct {
	socket  syscall.RawConn
	least   int         // bytes that must wait; 0 means any
	timer   *time.Timer // ends that
	expired atomic.Bool // it has

	since time.Time // bytes are counted since
	bytes int
}

func newGatherer(socket syscall.RawConn) *gatherer {
	g := &gatherer{socket: socket}
	g.timer = time.AfterFunc(time.Hour, g.expire)
	g.timer.Stop()
	return g
}

// came counts bytes that were read, and prepares for the next.
func (g *gatherer) came(n int) {
	g.bytes += n
	now := time.Now()
	if d := now.Sub(g.since); d >= lookEvery {
		least := 0
		if d < quiet {
			least = min(int(int64(g.bytes)*int64(gatherFor)/int64(d)), mostGathered)
		}
		g.since, g.bytes = now, 0
		g.want(least)
	}
	if g.least > 0 {
		if g.expired.Swap(false) {
			g.set(g.least)
		}
		g.timer.Reset(gatherLimit)
	}
}

// want makes least what must wait, if that is worth a system call.
func (g *gatherer) want(least int) {
	if least < leastGathered {
		least = 0
	}
	if least == g.least || least > 0 && least >= g.least-g.least/4 && least <= g.least+g.least/4 {
		return
	}
	g.least = least
	g.expired.Store(false)
	g.set(least)
}

// expire lets the reader have what there is.
func (g *gatherer) expire() {
	g.expired.Store(true)
	g.set(0)
}

// set cannot fail but on a closed socket.
func (g *gatherer) set(least int) {
	_ = g.socket.Control(func(fd uintptr) { setLeast(int(fd), max(least, 1)) })
}
