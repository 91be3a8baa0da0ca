package stats

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSizesByPowersOfTwo(t *testing.T) {
	var s Sizes
	for _, n := range []int{0, 1, 1, 2, 3, 4, 1023, 1024, 1 << 30} {
		s.Count(n)
	}
	h := s.Snapshot()
	if got, want := h.String(), "0:1 1:2 2-3:2 4-7:1 512-1023:1 1024+:2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := h.Total(); got != 9 {
		t.Errorf("total: got %d, want 9", got)
	}
	if got := (Histogram{}).String(); got != "" {
		t.Errorf("of nothing: got %q", got)
	}
}

func TestCountingSizesAllocatesNothing(t *testing.T) {
	var s Sizes
	if n := testing.AllocsPerRun(100, func() { s.Count(5) }); n != 0 {
		t.Errorf("got %v allocations", n)
	}
}

type reason int

func (r reason) String() string { return [...]string{"too-slow", "away"}[r] }

// sample has a field of each kind.
type sample struct {
	InFrames   uint64
	TCPResets  uint64
	NotForUs   int
	Open       int64
	Batches    Histogram
	Refused    map[reason]uint64
	unexported int
}

var sections = []Section{
	{Name: "stack", Counts: sample{InFrames: 7, NotForUs: 2, Batches: Histogram{0, 3, 1}, Refused: map[reason]uint64{0: 4, 1: 5}, unexported: 9}},
	{Name: "idle", Counts: sample{}},
	{Name: "port", Of: ":80", Counts: struct{ Open uint64 }{1}},
	{Name: "port", Of: ":81", Counts: struct{ Open uint64 }{2}},
}

func TestTableHasEveryCounter(t *testing.T) {
	var b bytes.Buffer
	if err := WriteTable(&b, sections); err != nil {
		t.Fatal(err)
	}
	words := strings.Join(strings.Fields(b.String()), " ")
	want := "stack in_frames 7 tcp_resets 0 not_for_us 2 open 0 batches 1:3 2-3:1 refused_away 5 refused_too_slow 4" +
		" idle in_frames 0 tcp_resets 0 not_for_us 0 open 0 batches port :80 open 1 port :81 open 2"
	if words != want {
		t.Errorf("got  %s\nwant %s", words, want)
	}
}

func TestLogLineHasWhatIsNotZero(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	log.LogAttrs(t.Context(), slog.LevelInfo, "statistics", Attrs(sections)...)
	want := `level=INFO msg=statistics stack.in_frames=7 stack.not_for_us=2 stack.batches="1:3 2-3:1"` +
		" stack.refused_away=5 stack.refused_too_slow=4 port.of=:80 port.open=1 port.of=:81 port.open=2\n"
	if b.String() != want {
		t.Errorf("got  %swant %s", b.String(), want)
	}
}

// The names tell whose documentation to read.
func ExampleWriteTable() {
	type counters struct{ InboundNotForUs uint64 }
	var b strings.Builder
	_ = WriteTable(&b, []Section{{Name: "netstack", Counts: counters{3}}})
	fmt.Print(b.String())
	// Output:
	// netstack
	//   inbound_not_for_us  3
}

func TestProgramsReadEveryCounterByItsKind(t *testing.T) {
	all := append(sections, Section{Name: "idle", Of: `a "second"`, Counts: sample{Open: -3, Refused: map[reason]uint64{1: 6}}},
		Section{Name: "path", Counts: struct {
			Usable, Required bool
			Why              string
		}{Usable: true, Why: "it loses less"}})
	var b bytes.Buffer
	if err := WritePrometheus(&b, "vpn", all); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE vpn_stack_in_frames_total counter\nvpn_stack_in_frames_total 7\n",
		"# TYPE vpn_stack_not_for_us gauge\nvpn_stack_not_for_us 2\n",
		"# TYPE vpn_stack_batches histogram\n" + `vpn_stack_batches_bucket{le="0"} 0` + "\n" +
			`vpn_stack_batches_bucket{le="1"} 3` + "\n" + `vpn_stack_batches_bucket{le="3"} 4` + "\n",
		`vpn_stack_batches_bucket{le="+Inf"} 4` + "\nvpn_stack_batches_count 4\n",
		"# TYPE vpn_stack_refused_total counter\n" + `vpn_stack_refused_total{reason="away"} 5` + "\n" +
			`vpn_stack_refused_total{reason="too-slow"} 4` + "\n",
		"# TYPE vpn_idle_open gauge\nvpn_idle_open 0\n" + `vpn_idle_open{of="a \"second\""} -3` + "\n",
		"# TYPE vpn_path_usable gauge\nvpn_path_usable 1\n", "\nvpn_path_required 0\n",
		"# TYPE vpn_path_why_info gauge\n" + `vpn_path_why_info{is="it loses less"} 1` + "\n",
		`vpn_idle_refused_total{of="a \"second\"",reason="away"} 6` + "\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("misses %q", want)
		}
	}
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "# TYPE") && strings.Count(b.String(), line) != 1 {
			t.Errorf("more than once: %s", line)
		}
	}
	if t.Failed() {
		t.Logf("in\n%s", b.String())
	}
}
