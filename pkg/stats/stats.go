// Package stats is what counters of all packages have in common: a histogram of
// sizes for the data path, and one way to show snapshots to people.
//
// # Theory of operation
//
// Each package counts by itself, in atomics, and has a method that returns a
// snapshot: a struct of numbers whose fields are documented there. There is no
// registry: whoever assembles a program collects snapshots as Sections and has them
// shown, as a table or as attributes of a log line. Both name a counter after its
// field, InboundNotForUs as inbound_not_for_us, so that the documentation of a
// number is found by its name. Zeros are left out of log lines.
//
// WritePrometheus shows them to programs. An unsigned field only grows, a signed one
// is a measure of now, and so are a bool and a text.
//
// # Concurrency
//
// Sizes may be used by any number of goroutines. Its parts are read one after the
// other: a snapshot is not a moment's.
package stats

import (
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"unicode"
)

// classes is how many classes of size are told apart: 0, 1, 2 to 3, 4 to 7, … and
// 1024 or more. Batches have at most some hundred frames.
const classes = 12

// Sizes counts sizes by powers of two. Counting allocates nothing. The zero value
// is ready.
type Sizes struct{ counts [classes]atomic.Uint64 }

// Count counts one of size n, which is not negative.
func (s *Sizes) Count(n int) { s.counts[min(bits.Len(uint(n)), classes-1)].Add(1) }

// Snapshot returns the counts so far.
func (s *Sizes) Snapshot() (h Histogram) {
	for i := range h {
		h[i] = s.counts[i].Load()
	}
	return h
}

// A Histogram has the counts of Sizes: at index 0 how many were of size 0, at index
// i how many had i binary digits.
type Histogram [classes]uint64

// Total returns how many sizes were counted.
func (h Histogram) Total() (n uint64) {
	for _, c := range h {
		n += c
	}
	return n
}

// String lists the classes that occurred, such as "1:17 2-3:4 1024+:1".
func (h Histogram) String() string {
	var parts []string
	for i, n := range h {
		if n == 0 {
			continue
		}
		low := 1 << i >> 1
		class := fmt.Sprintf("%d-%d", low, 1<<i-1)
		switch {
		case i < 2:
			class = fmt.Sprint(low)
		case i == classes-1:
			class = fmt.Sprintf("%d+", low)
		}
		parts = append(parts, fmt.Sprintf("%s:%d", class, n))
	}
	return strings.Join(parts, " ")
}

// A Section is a snapshot and whose it is.
type Section struct {
	Name   string
	Counts any    // a struct of integers, bools, texts, Histograms, and maps from a name to an integer
	Of     string // which one, of several sections with the same name; may be empty
}

// A row is one counter as it is shown.
type row struct {
	name  string
	value any // an integer, a bool or a text
	zero  bool
}

func newRow(name string, v reflect.Value) row {
	value := v.Interface()
	if h, ok := value.(Histogram); ok {
		value = h.String()
	}
	return row{name, value, v.IsZero()}
}

// rows lists the counters of a section in the order of its fields.
func (s Section) rows() []row {
	v := reflect.ValueOf(s.Counts)
	var rows []row
	for _, field := range reflect.VisibleFields(v.Type()) {
		if !field.IsExported() || field.Anonymous {
			continue
		}
		name, f := snake(field.Name), v.FieldByIndex(field.Index)
		if f.Kind() != reflect.Map {
			rows = append(rows, newRow(name, f))
			continue
		}
		var items []row
		for _, key := range f.MapKeys() {
			item := strings.ReplaceAll(fmt.Sprint(key.Interface()), "-", "_")
			items = append(items, newRow(name+"_"+item, f.MapIndex(key)))
		}
		slices.SortFunc(items, func(a, b row) int { return strings.Compare(a.name, b.name) })
		rows = append(rows, items...)
	}
	return rows
}

// snake writes a field's name as log keys are written: TCPResets as tcp_resets.
func snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		begins := i > 0 && unicode.IsUpper(r) &&
			(!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]))
		if begins {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// WriteTable writes all counters, zeros too, a line each.
func WriteTable(w io.Writer, sections []Section) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range sections {
		fmt.Fprintln(table, strings.TrimSpace(s.Name+" "+s.Of))
		for _, r := range s.rows() {
			fmt.Fprintf(table, "  %s\t%v\n", r.name, r.value)
		}
	}
	return table.Flush()
}

// Attrs returns a group for each section, of which one it is if there are several, and of the
// counters that are not zero. Sections without any are left out.
func Attrs(sections []Section) []slog.Attr {
	var attrs []slog.Attr
	for _, s := range sections {
		var group []slog.Attr
		for _, r := range s.rows() {
			if !r.zero {
				group = append(group, slog.Any(r.name, r.value))
			}
		}
		if len(group) > 0 {
			if s.Of != "" {
				group = slices.Insert(group, 0, slog.String("of", s.Of))
			}
			attrs = append(attrs, slog.GroupAttrs(s.Name, group...))
		}
	}
	return attrs
}
