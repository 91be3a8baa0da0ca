package forward

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// warnPause is for how long a Forward that has warned does not do so again, or each client
// of a target that is not there would be a line.
const warnPause = time.Minute

// warned is when a Forward has warned.
type warned struct {
	mu    sync.Mutex // guards what follows
	at    time.Time
	count uint64 // failures since, which were not told of
}

// again reports whether it is time to warn, and how many failures there were since the last
// warning, with this one.
func (w *warned) again() (count uint64, now bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
	count = w.count
	if now = w.at.IsZero() || time.Since(w.at) >= warnPause; now {
		w.at, w.count = time.Now(), 0
	}
	return count, now
}

// unreached notes that a client's target was not reached, unless we are ending.
func (f *Forward) unreached(ctx context.Context, client any, cause error) {
	f.counters.failed.Add(1)
	if ctx.Err() != nil {
		return
	}
	level := slog.LevelDebug
	count, now := f.warned.again()
	if now && !f.cfg.Unreliable {
		level = slog.LevelWarn
	}
	f.cfg.Log.Log(ctx, level, "forward: target not reached", "forward", f.cfg.Name, "client", client, "cause", cause, "failures", count)
}
