package stats

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// A series is one line of Prometheus's text format, without its metric's name.
type series struct {
	suffix string // _bucket or _count of a histogram; else empty
	labels []string
	value  uint64
	minus  bool
}

// A metric is what the format calls a family: all series of a name.
type metric struct {
	name, kind string
	series     []series
}

// WritePrometheus writes all counters, zeros too, in Prometheus's text format 0.0.4:
// the field InFrames of the section netstack is PREFIX_netstack_in_frames_total. The
// items of a map are told apart by the label reason, sections of one name by the
// label of. The text in the field Way is the label is of PREFIX_netstack_way_info.
func WritePrometheus(w io.Writer, prefix string, sections []Section) error {
	var all []*metric
	byName := map[string]*metric{}
	for _, s := range sections {
		for _, m := range s.metrics(prefix) {
			if known := byName[m.name]; known != nil {
				known.series = append(known.series, m.series...)
				continue
			}
			byName[m.name] = &m
			all = append(all, &m)
		}
	}
	b := bufio.NewWriter(w)
	for _, m := range all {
		m.write(b)
	}
	return b.Flush()
}

// metrics lists the counters of a section in the order of its fields.
func (s Section) metrics(prefix string) []metric {
	var of []string
	if s.Of != "" {
		of = []string{label("of", s.Of)}
	}
	var all []metric
	v := reflect.ValueOf(s.Counts)
	for _, field := range reflect.VisibleFields(v.Type()) {
		if !field.IsExported() || field.Anonymous {
			continue
		}
		m := metric{name: prefix + "_" + s.Name + "_" + snake(field.Name), kind: "counter"}
		f := v.FieldByIndex(field.Index)
		h, isHistogram := f.Interface().(Histogram)
		switch {
		case isHistogram:
			m.kind, m.series = "histogram", h.buckets(of)
		case f.Kind() == reflect.Map:
			m.series = reasons(f, of)
		default:
			m.series = []series{newSeries(f, of)}
			if !f.CanUint() {
				m.kind = "gauge"
			}
			if f.Kind() == reflect.String {
				m.name += "_info"
			}
		}
		if m.kind == "counter" {
			m.name += "_total"
		}
		all = append(all, m)
	}
	return all
}

// newSeries has the number in f: 1 for what is true, and beside a text.
func newSeries(f reflect.Value, labels []string) series {
	switch {
	case f.CanUint():
		return series{labels: labels, value: f.Uint()}
	case f.Kind() == reflect.String:
		return series{labels: append(slices.Clip(labels), label("is", f.String())), value: 1}
	case f.Kind() == reflect.Bool:
		if f.Bool() {
			return series{labels: labels, value: 1}
		}
		return series{labels: labels}
	case f.Int() < 0:
		return series{labels: labels, value: uint64(-f.Int()), minus: true}
	default:
		return series{labels: labels, value: uint64(f.Int())}
	}
}

// reasons has a series for each item of a map.
func reasons(m reflect.Value, of []string) []series {
	var all []series
	for _, key := range m.MapKeys() {
		reason := label("reason", fmt.Sprint(key.Interface()))
		all = append(all, newSeries(m.MapIndex(key), append(slices.Clip(of), reason)))
	}
	slices.SortFunc(all, func(a, b series) int { return slices.Compare(a.labels, b.labels) })
	return all
}

// buckets are the classes of a histogram, each with those below it.
func (h Histogram) buckets(of []string) []series {
	var all []series
	var sum uint64
	for i, n := range h {
		sum += n
		le := fmt.Sprint(1<<i - 1)
		if i == classes-1 {
			le = "+Inf"
		}
		all = append(all, series{suffix: "_bucket", labels: append(slices.Clip(of), label("le", le)), value: sum})
	}
	return append(all, series{suffix: "_count", labels: of, value: sum})
}

// escape makes a text fit between quotes.
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func label(name, value string) string { return name + `="` + escape.Replace(value) + `"` }

// write writes the metric. An error stays in b.
func (m *metric) write(b *bufio.Writer) {
	if len(m.series) == 0 {
		return // a map without items
	}
	fmt.Fprintf(b, "# TYPE %s %s\n", m.name, m.kind)
	for _, s := range m.series {
		b.WriteString(m.name + s.suffix)
		if len(s.labels) > 0 {
			b.WriteString("{" + strings.Join(s.labels, ",") + "}")
		}
		sign := ""
		if s.minus {
			sign = "-"
		}
		fmt.Fprintf(b, " %s%d\n", sign, s.value)
	}
}
