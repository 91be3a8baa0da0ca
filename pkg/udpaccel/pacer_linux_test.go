package udpaccel

import (
	"testing"
	"time"
)

func TestOnlyAFastStreamGathers(t *testing.T) {
	for _, row := range []struct {
		name  string
		every time.Duration // between reads
		came  int           // by each
		want  bool
	}{
		{"a datagram now and then", 10 * time.Millisecond, 1, false},
		{"a game", 8 * time.Millisecond, 4, false},
		{"a video of 100 Mbit/s", 100 * time.Microsecond, 1, false},
		{"a burst, and then nothing", 50 * time.Millisecond, readBatch, false},
		{"a fast stream, one by one", 12 * time.Microsecond, 1, true},
		{"a fast stream, gathered", 300 * time.Microsecond, 25, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			var p pacer
			now := time.Now()
			for range 1000 {
				now = now.Add(row.every)
				p.count(row.came, now)
			}
			if p.busy != row.want {
				t.Errorf("it is busy: %v, want %v", p.busy, row.want)
			}
			p.count(1, now.Add(time.Second))
			if p.busy {
				t.Error("it is busy after a second of silence")
			}
		})
	}
}

// A signal of the runtime's ends a rest early, and a busy machine ends it late; so that
// it is right once is what counts.
func TestOnlyABusyReaderRests(t *testing.T) {
	for _, busy := range []bool{false, true} {
		p, right := pacer{busy: busy}, 0
		for range 50 {
			begun := time.Now()
			p.rest()
			if d := time.Since(begun); busy == (d >= restFor) && d <= 10*restFor {
				right++
			}
		}
		if right == 0 {
			t.Errorf("busy is %v, and not one of 50 rests is as it should be", busy)
		}
	}
}
