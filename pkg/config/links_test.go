package config

import (
	"strings"
	"testing"
	"time"
)

func TestNumbersOfConnections(t *testing.T) {
	for s, want := range map[string]int{"1": 1, "8": 8, "32": 32, "0": 0, "33": 0, "-1": 0, "many": 0, "": 0} {
		if n, err := parseLinks(s); n != want || (err == nil) != (want > 0) {
			t.Errorf("%q: got %d, %v, want %d", s, n, err, want)
		}
	}
}

func TestAgesOfConnections(t *testing.T) {
	for s, want := range map[string]time.Duration{"0s": 0, "5s": 5 * time.Second, "10m": 10 * time.Minute} {
		if d, err := parseTTL(s); d != want || err != nil {
			t.Errorf("%q: got %v, %v", s, d, err)
		}
	}
	for _, s := range []string{"4s", "-1m", "10", "old"} {
		if _, err := parseTTL(s); err == nil || !strings.Contains(err.Error(), "such as 10m") {
			t.Errorf("%q: %v", s, err)
		}
	}
}
