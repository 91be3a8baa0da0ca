package session

import (
	"strings"
	"testing"
	"time"

	"softether-go/pkg/udpaccel"
)

const (
	lean   = 20 * time.Millisecond
	queued = 200 * time.Millisecond
)

// Proves what TCP is and is not accused of.
func TestVerdictOnTCP(t *testing.T) {
	clean := tcpSample{out: 50, in: 50, rtt: lean, leanRTT: lean}
	lossy := tcpSample{out: 50, in: 50, outOfOrder: 2, retransmits: 1, rtt: lean, leanRTT: lean}
	full := lossy
	full.rtt = queued
	stalled := tcpSample{stalled: true, rtt: lean, leanRTT: lean, retransmits: 1}
	rare := tcpSample{out: 5000, in: 5000, outOfOrder: 1, rtt: lean, leanRTT: lean}
	for _, row := range []struct {
		name string
		of   func(i int) tcpSample
		want bool
	}{
		{"nothing is lost", func(int) tcpSample { return clean }, false},
		{"much is lost", func(int) tcpSample { return lossy }, true},
		{"something is lost in every second sample", func(i int) tcpSample { return []tcpSample{clean, lossy}[i%2] }, true},
		{"something is lost in one burst", func(i int) tcpSample { return []tcpSample{clean, lossy}[min(1, i/15)] }, false},
		{"it is lost because the queue is full", func(int) tcpSample { return full }, false},
		{"retransmissions are lost", func(int) tcpSample { return stalled }, true},
		{"a very small share is lost", func(int) tcpSample { return rare }, false},
		{"there is nothing to say", func(int) tcpSample { return tcpSample{} }, false},
	} {
		var r tcpRecord
		for i := range samples {
			r.add(row.of(i))
		}
		got, why := r.verdict()
		if got != row.want || got != strings.Contains(why, "TCP loses packets") {
			t.Errorf("%s: got %v %q, want %v", row.name, got, why, row.want)
		}
	}
}

func TestVerdictOnUDP(t *testing.T) {
	good := udpaccel.Quality{Seen: 20, RoundTrip: lean}
	for _, row := range []struct {
		name   string
		usable bool
		change func(*udpaccel.Quality)
		want   string
	}{
		{"as good as can be", true, func(*udpaccel.Quality) {}, ""},
		{"not usable", false, func(*udpaccel.Quality) {}, "does not get through"},
		{"unknown", true, func(q *udpaccel.Quality) { q.Seen = 3 }, "too little"},
		{"lossy", true, func(q *udpaccel.Quality) { q.Loss = 0.3 }, "UDP loses 30 %"},
		{"slow", true, func(q *udpaccel.Quality) { q.RoundTrip = queued }, "a round trip by UDP takes 200ms, by TCP 20ms"},
	} {
		q := good
		row.change(&q)
		got := judgeUDP(row.usable, q, lean)
		if row.want == "" && got != "" || !strings.Contains(got, row.want) {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

func TestPeakRate(t *testing.T) {
	var m rateMeter
	now := time.Now()
	bytes := uint64(0)
	for _, perPeriod := range []uint64{0, 2000, 8000, 100} {
		now = now.Add(ratePeriod)
		bytes += perPeriod
		m.note(now, bytes)
	}
	if got := m.peak(); got != 4000 {
		t.Errorf("peak: got %v bytes per second, want 4000", got)
	}
	for range ratePeriods {
		now = now.Add(ratePeriod)
		m.note(now, bytes)
	}
	if got := m.peak(); got != 0 {
		t.Errorf("after a while of nothing: got %v", got)
	}
}

func TestHistory(t *testing.T) {
	var h UDPHistory
	if h.wants() {
		t.Error("without experience UDP is asked for")
	}
	if !h.blame() || !h.wants() {
		t.Error("TCP is to blame, and UDP is not asked for")
	}
	h.giveUp()
	if h.blame() || h.wants() {
		t.Error("UDP was of no use, and is asked for")
	}
}
