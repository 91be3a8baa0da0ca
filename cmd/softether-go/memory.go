package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	// quietCheck is how often a look is taken whether a burst is over.
	quietCheck = 2 * time.Second
	// quietBatches is how many batches of frames between two looks still count as
	// quiet: keep-alives, a few shells.
	quietBatches = 200
	// worthwhile is how much more memory must be in use than at the start, and than
	// after the last time, for the work of giving some back.
	worthwhile = 16 << 20
	// againAfter is how many looks after a time that left much another is tried, and
	// againAtMost what that grows to, some eight minutes: what was in use then, such as
	// connections that waited out their end, need not be any more.
	againAfter, againAtMost = 2, 256
)

// A reclaimer gives memory back to the system when a burst is over. The runtime by
// itself keeps what the garbage of the busiest moment took, for minutes, and what the
// next collection would free for as long as nothing is allocated.
type reclaimer struct {
	carried func() uint64 // batches so far

	start  int64         // bytes resident at the start
	before uint64        // batches at the last look
	last   processCounts // after the last time, or at the start
	times  int           // that memory was given back
	again  int           // looks until another try, as much was left; 0 means none
	looks  int           // since the last time
}

// run looks every so often until ctx ends.
func (r *reclaimer) run(ctx context.Context) error {
	r.last = countProcess()
	r.start = r.last.ResidentBytes
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
	if !quiet || !r.worthwhile(countProcess()) {
		return
	}
	r.giveBack()
}

func (r *reclaimer) giveBack() {
	runtime.GC() // pools let go at the second collection, which is FreeOSMemory's
	debug.FreeOSMemory()
	r.last = countProcess()
	r.times++
	r.looks = 0
	if r.last.ResidentBytes < r.start+worthwhile {
		r.again = 0
	} else {
		r.again = min(max(againAfter, 2*r.again), againAtMost)
	}
}

// worthwhile says whether more is in use than after the last time, or whoever held it
// then has probably gone: a client of the proxies has goroutines, and what it held
// only a collection finds. Or it is time to see.
func (r *reclaimer) worthwhile(now processCounts) bool {
	r.looks++
	return now.ResidentBytes >= r.last.ResidentBytes+worthwhile ||
		now.ResidentBytes >= r.start+worthwhile &&
			(now.Goroutines <= r.last.Goroutines/2 || r.again > 0 && r.looks >= r.again)
}
