package pace

import (
	"testing"
	"time"
)

func TestTheRateIsOfLate(t *testing.T) {
	for _, row := range []struct {
		name  string
		every time.Duration // between reads
		came  int           // by each
		want  int           // in a millisecond
	}{
		{"hardly any", 10 * time.Millisecond, 1, 0},
		{"some, now and then", 8 * time.Millisecond, 40, 5},
		{"exactly one a look", time.Millisecond, 16, 16},
		{"a burst, and then nothing", 50 * time.Millisecond, 100, 2},
		{"many, one by one", 10 * time.Microsecond, 1, 100},
		{"many, gathered", 250 * time.Microsecond, 25, 100},
	} {
		t.Run(row.name, func(t *testing.T) {
			var m Meter
			now := time.Now()
			for range 1000 {
				now = now.Add(row.every)
				m.Count(row.came, now)
			}
			if m.Rate() != row.want {
				t.Errorf("%d in a millisecond, want %d", m.Rate(), row.want)
			}
			m.Count(1, now.Add(time.Second))
			if m.Rate() != 0 {
				t.Errorf("%d in a millisecond after a second of silence", m.Rate())
			}
		})
	}
}
