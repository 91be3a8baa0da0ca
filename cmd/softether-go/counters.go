package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/metrics"
	"time"

	"softether-go/netstack"
	"softether-go/pkg/client"
	"softether-go/pkg/stats"
	"softether-go/pkg/tap"
)

// processCounts is what the program uses of the machine.
type processCounts struct {
	Goroutines     int
	ResidentBytes  int64  // of memory that the Go runtime manages, not given back to the system
	HeapLiveBytes  int64  // in objects, reachable or not yet found unreachable
	Collections    uint64 // of garbage
	AllocatedBytes uint64 // since the start
}

func countProcess() processCounts {
	const total, released, live = "/memory/classes/total:bytes", "/memory/classes/heap/released:bytes", "/memory/classes/heap/objects:bytes"
	const cycles, allocated = "/gc/cycles/total:gc-cycles", "/gc/heap/allocs:bytes"
	s := []metrics.Sample{{Name: total}, {Name: released}, {Name: live}, {Name: cycles}, {Name: allocated}}
	metrics.Read(s)
	return processCounts{
		Goroutines:     runtime.NumGoroutine(),
		ResidentBytes:  int64(s[0].Value.Uint64() - s[1].Value.Uint64()),
		HeapLiveBytes:  int64(s[2].Value.Uint64()),
		Collections:    s[3].Value.Uint64(),
		AllocatedBytes: s[4].Value.Uint64(),
	}
}

// counters collects what every part has counted, from the server to the programs.
func (p *program) counters() []stats.Section {
	all := p.Counters()
	switch end := p.end.(type) {
	case interface{ Stats() netstack.Stats }:
		all = append(all, stats.Section{Name: "netstack", Counts: end.Stats()})
	case interface {
		Stats() tap.Stats
		Offload() tap.Offload
	}:
		all = append(all, stats.Section{Name: "tap", Counts: end.Stats()}, stats.Section{Name: "tap_offload", Counts: end.Offload()})
	}
	for _, s := range p.proxies.servers {
		all = append(all, stats.Section{Name: s.name, Of: s.ln.Addr().String(), Counts: s.server.Stats()})
	}
	all = append(all, p.forwards.counters()...)
	return append(all, stats.Section{Name: "process", Counts: countProcess()})
}

// showCounters writes all of them as a table when asked by a signal, and those that
// are not zero as a log line every so often, if that is wanted.
func (p *program) showCounters(ctx context.Context) error {
	asked := make(chan os.Signal, 1)
	if statisticsSignal != nil {
		signal.Notify(asked, statisticsSignal)
		defer signal.Stop(asked)
	}
	var tick <-chan time.Time
	if p.showEvery > 0 {
		t := time.NewTicker(p.showEvery)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-asked:
			if err := stats.WriteTable(p.tables, p.counters()); err != nil {
				p.log.Debug("statistics not written", "cause", err)
			}
		case <-tick:
			p.logCounters("statistics")
		}
	}
}

func (p *program) logCounters(what string) {
	p.log.LogAttrs(context.Background(), slog.LevelInfo, what, stats.Attrs(p.counters())...)
}

// noteState logs the counters when a session that was up has ended. The client calls it from one goroutine.
func (p *program) noteState() func(client.State) {
	was := client.Idle
	return func(s client.State) {
		if was == client.Up && (s == client.Waiting || s == client.Stopped) {
			p.logCounters("statistics at the session's end")
		}
		p.manager.state(s)
		was = s
	}
}
