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
	"softether-go/pkg/frame"
	"softether-go/pkg/stats"
	"softether-go/pkg/tap"
)

// batches counts how many frames the two ends of the tunnel exchange at once.
type batches struct {
	frame.Endpoint
	in, out stats.Sizes
}

// WriteFrames counts an inbound batch.
func (b *batches) WriteFrames(frames [][]byte) error {
	b.in.Count(len(frames))
	return b.Endpoint.WriteFrames(frames)
}

// Run counts outbound batches.
func (b *batches) Run(ctx context.Context, dst frame.Writer) error {
	return b.Endpoint.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
		b.out.Count(len(frames))
		return dst.WriteFrames(frames)
	}))
}

// carried returns how many batches there have been.
func (b *batches) carried() uint64 { return b.in.Snapshot().Total() + b.out.Snapshot().Total() }

// batchCounts is what batches has counted.
type batchCounts struct {
	In, Out stats.Histogram // batches by their number of frames
}

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
func (v *vpn) counters() []stats.Section {
	all := []stats.Section{
		{Name: "session", Counts: v.client.Stats()},
		{Name: "batches", Counts: batchCounts{v.carrier.in.Snapshot(), v.carrier.out.Snapshot()}},
	}
	switch end := v.end.(type) {
	case interface{ Stats() netstack.Stats }:
		all = append(all, stats.Section{Name: "netstack", Counts: end.Stats()})
	case interface {
		Stats() tap.Stats
		Offload() tap.Offload
	}:
		all = append(all, stats.Section{Name: "tap", Counts: end.Stats()}, stats.Section{Name: "tap_offload", Counts: end.Offload()})
	}
	if v.queue != nil {
		all = append(all, stats.Section{Name: "queue", Counts: v.queue.Stats()})
	}
	for _, s := range v.proxies.servers {
		all = append(all, stats.Section{Name: s.name, Of: s.ln.Addr().String(), Counts: s.server.Stats()})
	}
	return append(all, stats.Section{Name: "process", Counts: countProcess()})
}

// showCounters writes all of them as a table when asked by a signal, and those that
// are not zero as a log line every so often, if that is wanted.
func (v *vpn) showCounters(ctx context.Context) error {
	asked := make(chan os.Signal, 1)
	if statisticsSignal != nil {
		signal.Notify(asked, statisticsSignal)
		defer signal.Stop(asked)
	}
	var tick <-chan time.Time
	if v.showEvery > 0 {
		t := time.NewTicker(v.showEvery)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-asked:
			if err := stats.WriteTable(v.tables, v.counters()); err != nil {
				v.log.Debug("statistics not written", "cause", err)
			}
		case <-tick:
			v.logCounters("statistics")
		}
	}
}

func (v *vpn) logCounters(what string) {
	v.log.LogAttrs(context.Background(), slog.LevelInfo, what, stats.Attrs(v.counters())...)
}

// noteState closes v.up at the first time, and logs the counters when a session that
// was up has ended. The client calls it from one goroutine.
func (v *vpn) noteState() func(client.State) {
	first, was := true, client.Idle
	return func(s client.State) {
		switch {
		case s == client.Up && first:
			first = false
			close(v.up)
		case was == client.Up && (s == client.Waiting || s == client.Stopped):
			v.logCounters("statistics at the session's end")
		}
		was = s
	}
}
