package tap

import (
	"testing"
	"time"
)

func TestOnlyAFloodOfReadsRests(t *testing.T) {
	for _, row := range []struct {
		name  string
		every time.Duration // between batches
		reads int           // in each
		want  bool
	}{
		{"a frame now and then", 10 * time.Millisecond, 1, false},
		{"a bulk transfer of 8 Gbit/s", 64 * time.Microsecond, 1, false},
		{"a call", 20 * time.Millisecond, 2, false},
		{"a burst, and then nothing", 50 * time.Millisecond, 100, false},
		{"a flood, frame by frame", 10 * time.Microsecond, 1, true},
		{"a flood, batch by batch", 250 * time.Microsecond, 30, true},
		{"more than is safe to let gather", 250 * time.Microsecond, restUntil, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			var p pacer
			now := time.Now()
			for range 1000 {
				now = now.Add(row.every)
				p.count(row.reads, now)
			}
			if p.due() != row.want {
				t.Errorf("a rest is due: %v, want %v", p.due(), row.want)
			}
			p.count(1, now.Add(time.Second))
			if p.due() {
				t.Error("a rest is due after a second of silence")
			}
		})
	}
}
