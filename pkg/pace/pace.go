// Package pace tells a flood of small reads from an ordinary stream, and lets a reader of
// one rest a little.
//
// Theory of operation: a reader that wakes up for each frame of a flood spends more on
// waking up than on the frame, and what follows it has nothing to put into one record, one
// segment or one system call. Network cards meet that by letting frames gather before they
// interrupt. A reader here does the same: it counts what its reads bring (Meter), and when
// the rate is that of a flood it rests before it reads again (Rest, on Linux). Below that
// nothing waits, so a call or a game beside nothing else is never held up.
package pace

import "time"

const (
	lookEvery = time.Millisecond

	// RestFor is how long a rest is. What comes meanwhile must have room in the kernel.
	RestFor = 250 * time.Microsecond
)

// A Meter measures how much comes of late. It is for one goroutine; the zero Meter is ready.
type Meter struct {
	since time.Time // came is counted since
	came  int
	rate  int
}

// Count takes what a read brought, and when.
func (m *Meter) Count(n int, now time.Time) {
	m.came += n
	if d := now.Sub(m.since); d >= lookEvery {
		m.rate = int(time.Duration(m.came) * lookEvery / d)
		m.since, m.came = now, 0
	}
}

// Rate is how much comes in a millisecond, in whole ones.
func (m *Meter) Rate() int { return m.rate }
