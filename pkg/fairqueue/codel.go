package fairqueue

import (
	"math"
	"time"
)

const (
	// target is the delay that a flow may keep standing, interval how long it may take
	// to get down to it: the worst round trip that is usual (RFC 8289, 4.2 and 4.3).
	target   = 5 * time.Millisecond
	interval = 100 * time.Millisecond
)

// A codel decides for one flow when to tell its sender to slow down (RFC 8289, 5).
// Times are since any fixed moment.
type codel struct {
	above     time.Duration // when the delay will have been above target for an interval; 0 while it is not
	next      time.Duration // when to tell again
	count     uint32        // how often it was told since dropping began
	lastCount uint32        // count when dropping last began
	dropping  bool
}

// tooLong reports whether the delay has been above target for an interval. A flow's
// last frame is never the cause of a delay.
func (c *codel) tooLong(now, sojourn time.Duration, last bool) bool {
	if sojourn < target || last {
		c.above = 0
		return false
	}
	if c.above == 0 {
		c.above = now + interval
		return false
	}
	return now >= c.above
}

// tell reports whether the sender should be told now, by the frame whose delay is
// tooLong.
func (c *codel) tell(now time.Duration, tooLong bool) bool {
	switch {
	case !tooLong:
		c.dropping = false
		return false
	case c.dropping:
		if now < c.next {
			return false
		}
		c.count++
		c.next += c.pause()
		return true
	}
	c.dropping = true
	// Soon after the last time: the rate that was right then is near the right one.
	delta := c.count - c.lastCount
	c.count = 1
	if delta > 1 && now-c.next < 16*interval {
		c.count = delta
	}
	c.next = now + c.pause()
	c.lastCount = c.count
	return true
}

// pause is the time until the sender is told again (RFC 8289, 3.3, control law).
func (c *codel) pause() time.Duration {
	return time.Duration(float64(interval) / math.Sqrt(float64(c.count)))
}
