package client

import (
	"io"
	"log/slog"
	"testing"
	"time"
)

func logTo(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestBackoff(t *testing.T) {
	b := backoff{base: 5 * time.Second, most: time.Minute}
	for i, full := range []time.Duration{5, 10, 20, 40, 60, 60, 60} {
		full *= time.Second
		if d := b.next(false); d < full/2 || d > full {
			t.Errorf("failure %d: %v, want %v to %v", i+1, d, full/2, full)
		}
	}
	if d := b.afterStable(); d > promptly {
		t.Errorf("after a stable session: %v", d)
	}
	if d := b.next(false); d > 5*time.Second {
		t.Errorf("a stable session did not reset the delays: %v", d)
	}
	b.reset()
	if d := b.next(true); d < 10*time.Second || d > 20*time.Second {
		t.Errorf("busy: %v, want 10s to 20s", d)
	}
	for range 1000 {
		if d := b.next(true); d > time.Minute {
			t.Fatalf("%v is beyond the cap", d)
		}
	}
}

func TestStatesHaveNames(t *testing.T) {
	for s, want := range map[State]string{Idle: "Idle", Up: "Up", Stopped: "Stopped", 99: "State(99)"} {
		if got := s.String(); got != want {
			t.Errorf("State %d is %q, want %q", s, got, want)
		}
	}
}
