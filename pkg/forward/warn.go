package forward

import (
	"context"
	"log/slog"
)

// unreached notes that a client's target was not reached, unless we are ending.
func (f *Forward) unreached(ctx context.Context, client any, cause error) {
	f.counters.failed.Add(1)
	if ctx.Err() != nil {
		return
	}
	level := slog.LevelDebug
	count, now := f.missed.Again()
	if now && !f.cfg.Unreliable {
		level = slog.LevelWarn
	}
	f.cfg.Log.Log(ctx, level, "forward: target not reached", "forward", f.cfg.Name, "client", client, "cause", cause, "failures", count)
}
