// Package seldom says when to log what strangers can make happen as often as they like: the
// first time, and then once a minute at most, with how often it happened meanwhile.
package seldom

import (
	"sync"
	"time"
)

const pause = time.Minute

// A Line is a line of the log that seldom comes. It may be used by several goroutines at a
// time; the zero Line is ready.
type Line struct {
	mu    sync.Mutex // guards what follows
	at    time.Time  // it came last
	count uint64     // times since
}

// Again counts that it happened, and reports whether it is to be logged now, and how often
// it has happened since it was, this time included.
func (l *Line) Again() (count uint64, now bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	count = l.count
	if now = l.at.IsZero() || time.Since(l.at) >= pause; now {
		l.at, l.count = time.Now(), 0
	}
	return count, now
}
