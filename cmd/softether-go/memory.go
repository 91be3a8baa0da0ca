package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	// quietCheck is how often a look is taken whether a burst is over.
	quietCheck = 5 * time.Second
	// quietBatches is how many batches of frames between two looks still count as
	// quiet: keep-alives, a few shells.
	quietBatches = 500
	// worthwhile is how much more memory than after the last time must be in use for
	// the work of giving some back.
	worthwhile = 16 << 20
)

// A reclaimer gives memory back to the system when a burst is over. The runtime by
// itself keeps what the garbage of the busiest moment took, for minutes, and what the
// next collection would free for as long as nothing is allocated.
type reclaimer struct {
	carried func() uint64 // batches so far

	before uint64 // batches at the last look
	floor  uint64 // bytes resident after the last time, or at the start
	times  int    // that memory was given back
}

// run looks every so often until ctx ends.
func (r *reclaimer) run(ctx context.Context) error {
	r.floor = countProcess().ResidentBytes
	t := time.NewTicker(quietCheck)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			r.look()
		}
	}
}

// look gives memory back if it is quiet and there is much of it.
func (r *reclaimer) look() {
	n := r.carried()
	quiet := n-r.before < quietBatches
	r.before = n
	if !quiet || countProcess().ResidentBytes < r.floor+worthwhile {
		return
	}
	runtime.GC() // pools let go at the second collection, which is FreeOSMemory's
	debug.FreeOSMemory()
	r.floor = countProcess().ResidentBytes
	r.times++
}
