package netstack

import (
	"sync"
	"time"
)

// deadline is a point in time that blocked operations can wait for and that can
// be moved while they wait. The zero value is no deadline.
type deadline struct {
	mu    sync.Mutex // guards timer and ch
	timer *time.Timer
	ch    chan struct{} // closed when the deadline has passed; nil until asked for
}

// passed returns a channel that is closed once the deadline is over.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.chanLocked()
}

func (d *deadline) chanLocked() chan struct{} {
	if d.ch == nil {
		d.ch = make(chan struct{})
	}
	return d.ch
}

// stop lets go of the timer, which would hold memory until its time.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}

// set moves the deadline to t; the zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		// The timer has run or is about to: it closes its own channel only.
		d.ch = nil
	}
	d.timer = nil
	ch := d.chanLocked()
	select {
	case <-ch: // an earlier deadline has passed; this is a new one
		d.ch = nil
		ch = d.chanLocked()
	default:
	}
	if t.IsZero() {
		return
	}
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(ch) })
		return
	}
	close(ch)
}
