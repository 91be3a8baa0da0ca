package client

import (
	"math/rand/v2"
	"time"
)

// stableAfter is how long a session must have been up for its loss to count as
// news and not as one more failure in a row.
const stableAfter = 30 * time.Second

// promptly bounds the wait after the loss of a stable session. It is not zero, so
// that the clients of a server that restarts do not all come back at once.
const promptly = time.Second

// busyFactor stretches the wait when the server is busy or the hub offline.
const busyFactor = 4

// unsureDelay is between attempts of a user whom the server refuses after it has let
// him in before, and whom others judge: those may count attempts and lock a user out.
// Three to six in half an hour is less than people need who mistype.
const unsureDelay = 10 * time.Minute

// backoff yields the delays between attempts: exponential from base, capped at
// most, and spread over the upper half of each step.
type backoff struct {
	base, most time.Duration
	failures   int
}

func (b *backoff) reset() { b.failures = 0 }

// next returns the wait after one more failure.
func (b *backoff) next(busy bool) time.Duration {
	d := b.base
	for range min(b.failures, 30) {
		if d >= b.most {
			break
		}
		d *= 2
	}
	b.failures++
	if busy {
		d = max(d, busyFactor*b.base)
	}
	return jitter(min(d, b.most))
}

// afterStable returns the wait after a session that had been up long.
func (b *backoff) afterStable() time.Duration {
	b.reset()
	return rand.N(min(promptly, b.base) + 1)
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
