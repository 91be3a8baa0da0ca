//go:build linux

package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A report is all that was measured.
type report struct {
	Machine machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"seconds"` // of one measurement
	Results []*result `json:"results"`
}

// A machine is what the figures depend on, without saying which one it is.
type machine struct {
	Processor string `json:"processor"`
	Cores     int    `json:"cores"`
	Kernel    string `json:"kernel"`
	Go        string `json:"go"`
	Commit    string `json:"commit"`
	Server    string `json:"server"`
}

// A result is every sample of one entrant in one case.
type result struct {
	Table   string               `json:"table"`
	Case    string               `json:"case"`
	Who     string               `json:"who"`
	Samples map[metric][]float64 `json:"samples"`
}

// figures are one round's.
type figures map[metric]float64

// Add keeps one round, if it has figures, and prints it for who waits.
func (r *report) Add(t testing.TB, table, situation, who string, f figures) {
	t.Helper()
	if len(f) == 0 {
		return
	}
	at := slices.IndexFunc(r.Results, func(x *result) bool { return x.Table == table && x.Case == situation && x.Who == who })
	if at < 0 {
		at = len(r.Results)
		r.Results = append(r.Results, &result{table, situation, who, make(map[metric][]float64)})
	}
	line := fmt.Sprintf("%-24s %-16s %-24s", table, situation, who)
	for _, m := range slices.Sorted(maps.Keys(f)) {
		r.Results[at].Samples[m] = append(r.Results[at].Samples[m], f[m])
		line += fmt.Sprintf("  %s %.4g", m, f[m])
	}
	t.Log(line)
}

// median returns the middle sample, and whether there is any.
func (r *result) median(m metric) (float64, bool) {
	if r == nil || len(r.Samples[m]) == 0 {
		return 0, false
	}
	s := slices.Sorted(slices.Values(r.Samples[m]))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2, true
}

func (r *report) find(table, situation, who string) *result {
	for _, x := range r.Results {
		if x.Table == table && x.Case == situation && x.Who == who {
			return x
		}
	}
	return nil
}

// Write makes the three files.
func (r *report) Write(dir string) error {
	raw, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{
		"compare.json": append(raw, '\n'),
		"COMPARE.md":   r.Markdown(),
		"compare.svg":  r.SVG(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Markdown renders a table for each sheet that has results.
func (r *report) Markdown() []byte {
	var b bytes.Buffer
	m := r.Machine
	fmt.Fprintf(&b, `# Measured beside the official client

Made by `+"`sudo make bench-compare`"+`; raw samples are in [compare.json](compare.json).
Each figure is the median of %d rounds of %g s, in which the entrants take turns on the same server.
The factor behind a figure is its ratio to the row's peer in the same run. A goal is a ratio (×) to the peer, or a figure.

| | |
|---|---|
| machine | %d × %s, Linux %s |
| softether-go | %s, %s |
| SoftEther | %s |

![Rate and CPU time of a bulk transfer](compare.svg)
`, r.Rounds, r.Seconds, m.Cores, m.Processor, m.Kernel, m.Commit, m.Go, m.Server)
	for _, t := range sheets {
		r.sheet(&b, t)
	}
	return b.Bytes()
}

func (r *report) sheet(b *bytes.Buffer, t sheet) {
	rows := slices.DeleteFunc(slices.Clone(r.Results), func(x *result) bool { return x.Table != t.name })
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n| case | |", t.name, t.about)
	for _, c := range t.columns {
		fmt.Fprintf(b, " %s |", c.title)
	}
	fmt.Fprintf(b, "\n|---|---|%s\n", strings.Repeat("---:|", len(t.columns)))
	for _, x := range rows {
		fmt.Fprintf(b, "| %s | %s |", x.Case, x.Who)
		for _, c := range t.columns {
			peer := r.find(t.name, x.Case, t.peers[x.Who])
			if c.plain {
				peer = nil
			}
			fmt.Fprintf(b, " %s |", cell(x, peer, c.metric))
		}
		b.WriteByte('\n')
	}
	for _, who := range []string{oursTAP, oursSOCKS, oursUDP} {
		goals := ""
		for _, c := range t.columns {
			goals += " " + c.goals[who] + " |"
		}
		here := slices.ContainsFunc(rows, func(x *result) bool { return x.Who == who })
		if here && strings.Trim(goals, " |") != "" {
			fmt.Fprintf(b, "| *goal* | *%s* |%s\n", who, goals)
		}
	}
}

// cell is a figure and its ratio to the peer's.
func cell(x, peer *result, m metric) string {
	v, ok := x.median(m)
	if !ok {
		return ""
	}
	text := readable(v)
	if p, ok := peer.median(m); ok && p != 0 {
		text += fmt.Sprintf(" (%s×)", readable(v/p))
	}
	return text
}

// readable gives about three digits.
func readable(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 10000:
		return fmt.Sprintf("%.0f k", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

var colours = map[string]string{officialTAP: "#9aa5b1", officialSOCKS: "#c3cad2", oursTAP: "#1769aa", oursSOCKS: "#5aa9e6"}

// SVG draws rate and CPU time of the bulk transfers on the real server.
func (r *report) SVG() []byte {
	const width, row, left, bar = 860, 18, 110, 230
	var b bytes.Buffer
	y := 54
	charts := []struct {
		metric metric
		title  string
		x      int
	}{{gbitPerSecond, "Gbit/s (more is better)", left}, {cpuPerGB, "CPU seconds per GB of the client (less is better)", left + bar + 150}}
	last := ""
	for _, x := range r.Results {
		if x.Table != bulkTable {
			continue
		}
		if x.Case != last {
			y += 10
			fmt.Fprintf(&b, "<text x=\"8\" y=\"%d\">%s</text>\n", y+13, x.Case)
			last = x.Case
		}
		for _, c := range charts {
			v, _ := x.median(c.metric)
			length := v / r.largest(bulkTable, c.metric) * bar
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/><text x=\"%.1f\" y=\"%d\">%s</text>\n",
				c.x, y, length, row-3, colours[x.Who], float64(c.x)+length+5, y+12, readable(v))
		}
		y += row
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", width, y+12)
	fmt.Fprintf(&head, "<title>Bulk transfers: rate, and CPU time of the client</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n")
	for i, who := range []string{officialTAP, oursTAP, officialSOCKS, oursSOCKS} {
		fmt.Fprintf(&head, "<rect x=\"%d\" y=\"10\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"20\">%s</text>\n",
			left+i*170, colours[who], left+i*170+17, who)
	}
	for _, c := range charts {
		fmt.Fprintf(&head, "<text x=\"%d\" y=\"50\" font-weight=\"bold\">%s</text>\n", c.x, c.title)
	}
	return append(append(head.Bytes(), b.Bytes()...), "</svg>\n"...)
}

func (r *report) largest(table string, m metric) float64 {
	most := 0.0
	for _, x := range r.Results {
		if v, ok := x.median(m); ok && x.Table == table {
			most = max(most, v)
		}
	}
	return most
}

// thisMachine looks around. What it cannot find out stays "unknown".
func thisMachine() machine {
	m := machine{Processor: "unknown", Kernel: "unknown", Cores: runtime.NumCPU(), Go: runtime.Version(),
		Commit: output("git", "describe", "--always", "--dirty"), Server: output("dpkg-query", "-W", "-f", "${Version}", "softether-vpnserver")}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-") // a suffix may name its owner
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	if found := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(info); found != nil {
		m.Processor = string(found[1])
	}
	return m
}

func output(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
