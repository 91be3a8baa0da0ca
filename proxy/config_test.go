package proxy

import (
	"log/slog"
	"strings"
	"testing"
)

func TestDefaultMaxConns(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files uint64
		known bool
		want  int
	}{
		{"unknown", 0, false, 16384},
		{"plenty", 1 << 20, true, 16384},
		{"just enough", 16384 + 64, true, 16384},
		{"usual soft limit", 1024, true, 960},
		{"next to nothing", 10, true, 1},
		{"infinite", 1<<64 - 1, true, 16384},
	} {
		if got := defaultMaxConns(tt.files, tt.known); got != tt.want {
			t.Errorf("%s: %d clients, want %d", tt.name, got, tt.want)
		}
	}
}

// What a person set is neither changed nor remarked on.
func TestMaxConnsSet(t *testing.T) {
	var said strings.Builder
	c := Config{Dialer: newNever(), MaxConns: 100_000, Log: slog.New(slog.NewTextHandler(&said, nil))}.withDefaults()
	if c.MaxConns != 100_000 || said.Len() > 0 {
		t.Errorf("MaxConns %d, logged %q", c.MaxConns, said.String())
	}
}
