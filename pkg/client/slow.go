package client

import (
	"log/slog"
	"sync"
	"time"
)

// slowReporter logs a step that takes longer than slowStep, again and again, so
// that somebody who waits knows for what.
type slowReporter struct {
	log   *slog.Logger
	mu    sync.Mutex // guards the fields below
	name  string
	begun time.Time
	timer *time.Timer
}

func newSlowReporter(log *slog.Logger) *slowReporter { return &slowReporter{log: log} }

// step says that another step has begun.
func (r *slowReporter) step(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.name, r.begun = name, time.Now()
	if r.timer == nil {
		r.timer = time.AfterFunc(slowStep, r.report)
	} else {
		r.timer.Reset(slowStep)
	}
}

func (r *slowReporter) report() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.name == "" {
		return
	}
	r.log.Info("still waiting", "for", r.name, "since", time.Since(r.begun).Round(time.Second))
	r.timer.Reset(slowStep)
}

// stop ends the reports.
func (r *slowReporter) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.name = ""
	if r.timer != nil {
		r.timer.Stop()
	}
}
