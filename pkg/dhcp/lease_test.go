package dhcp

import (
	"testing"
	"time"
)

func TestSchedule(t *testing.T) {
	const s, m, h = time.Second, time.Minute, time.Hour
	for _, row := range []struct {
		name           string
		length, t1, t2 time.Duration // as told
		w1, w2, wend   time.Duration // as kept; zero is never
	}{
		{"only a length: a half and seven eighths", 2 * h, 0, 0, h, 105 * m, 2 * h},
		{"all told: as told", 2 * h, 10 * m, 20 * m, 10 * m, 20 * m, 2 * h},
		{"no length: an hour", 0, 0, 0, 30 * m, 52*m + 30*s, h},
		{"no length, but T1 and T2", 0, 10 * m, 20 * m, 10 * m, 20 * m, h},
		{"T1 only", 2 * h, 10 * m, 0, 10 * m, 105 * m, 2 * h},
		{"T2 only", 2 * h, 0, 90 * m, h, 90 * m, 2 * h},
		{"T2 before the half", 2 * h, 0, 30 * m, 30 * m, 30 * m, 2 * h},
		{"T1 after T2", 2 * h, 100 * m, 90 * m, h, 90 * m, 2 * h},
		{"T1 after T2, which is early", 2 * h, 100 * m, 30 * m, 30 * m, 30 * m, 2 * h},
		{"T2 at the end", 2 * h, h, 2 * h, h, 105 * m, 2 * h},
		{"T1 and T2 after the end", h, 2 * h, 3 * h, 30 * m, 52*m + 30*s, h},
		{"T1 at once", 2 * h, s, 0, 5 * s, 105 * m, 2 * h},
		{"T1 and T2 at once", 2 * h, s, s, 5 * s, 105 * m, 2 * h},
		{"one second", s, 0, 0, 5 * s, 8750 * time.Millisecond, 10 * s},
		{"without end", forever, h, 2 * h, 0, 0, 0},
		{"a second short of that", forever - s, 0, 0, (forever - s) / 2, (forever - s) / 8 * 7, forever - s},
		{"T1 and T2 never", h, forever, forever, 30 * m, 52*m + 30*s, h},
	} {
		t.Run(row.name, func(t *testing.T) {
			start := time.Now()
			since := func(at time.Time) time.Duration {
				if at.IsZero() {
					return 0
				}
				return at.Sub(start)
			}
			var l Lease
			l.schedule(start, row.length, row.t1, row.t2)
			got := [3]time.Duration{since(l.T1), since(l.T2), since(l.Expiry)}
			if want := [3]time.Duration{row.w1, row.w2, row.wend}; got != want {
				t.Errorf("T1, T2, expiry: got %v, want %v", got, want)
			}
		})
	}
}

func TestLeaseExpires(t *testing.T) {
	now := time.Now()
	for _, row := range []struct {
		name   string
		expiry time.Time
		want   bool
	}{
		{"just before", now.Add(1), false},
		{"on time", now, true},
		{"after", now.Add(-1), true},
		{"never", time.Time{}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := (Lease{Expiry: row.expiry}).expired(now); got != row.want {
				t.Errorf("expired %v, want %v", got, row.want)
			}
		})
	}
}
