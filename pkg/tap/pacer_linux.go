package tap

import (
	"time"

	"softether-go/pkg/pace"
)

const (
	// busyReads within a millisecond are many: 32,000 a second, several times what a bulk
	// transfer by super-frames takes.
	busyReads = 32

	// The kernel's queue has 500 places. When restUntil were taken at the last time there
	// is no rest.
	restUntil = 128
)

// A pacer keeps the reader of a flood of small frames from being woken for each: when it
// has read all that there was it rests a little, so that what comes meanwhile is read in
// one go, and becomes one TLS record and one system call. See package pace.
type pacer struct {
	meter pace.Meter
	last  int // reads of the last batch
}

// count takes the reads of a batch.
func (p *pacer) count(reads int, now time.Time) {
	p.last = reads
	p.meter.Count(reads, now)
}

// due reports whether a rest is worth it, and safe.
func (p *pacer) due() bool { return p.meter.Rate() >= busyReads && p.last < restUntil }
