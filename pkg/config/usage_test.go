package config

import (
	"flag"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, string(want)); diff != "" {
		t.Errorf("%s differs; if that is meant, run go test -update (-got +want):\n%s", path, diff)
	}
}

func TestUsage(t *testing.T) {
	golden(t, "testdata/usage.golden", Usage())
	for _, line := range strings.Split(Usage(), "\n") {
		if n := utf8.RuneCountInString(line); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestMarkdownTable(t *testing.T) { golden(t, "testdata/table.golden", MarkdownTable()) }

func TestEveryOptionIsWhole(t *testing.T) {
	seen := map[string]bool{}
	groups := map[group]bool{}
	var last group
	for _, o := range options {
		if seen[o.name] || seen[envName(o.name)] {
			t.Errorf("-%s: a second time", o.name)
		}
		seen[o.name], seen[envName(o.name)] = true, true
		if o.group != last && groups[o.group] {
			t.Errorf("-%s: group %s is in two places", o.name, o.group)
		}
		groups[o.group], last = true, o.group
		if o.help == "" || strings.HasSuffix(o.help, ".") || o.group == "" {
			t.Errorf("-%s: wants a group and a help text without a full stop, has %q and %q", o.name, o.group, o.help)
		}
		if ssh := o.name == "L" || o.name == "R"; !ssh && strings.Trim(o.name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("-%s: small letters, digits and dashes only", o.name)
		}
		if !strings.Contains(MarkdownTable(), "`"+envName(o.name)+"`") {
			t.Errorf("-%s: %s is not in the table", o.name, envName(o.name))
		}
		if len("  -"+o.name+" "+o.arg)+2 > usageIndent {
			t.Errorf("-%s %s: too wide for the usage text's left column", o.name, o.arg)
		}
		if (o.arg == "") != (o.def == "false") {
			t.Errorf("-%s: a switch, and only a switch, has the default false", o.name)
		}
		if o.def == "" {
			continue
		}
		if err := o.value.set(&draft{}, o.def); err != nil {
			t.Errorf("-%s: default: %v", o.name, err)
		}
	}
}

// The names and defaults people's scripts rely on.
func TestFixedFlags(t *testing.T) {
	for name, def := range map[string]string{
		"host": "", "user": "", "pass": "", "port": "443", "hub": "DEFAULT", "mac": "random",
		"plain-password": "false", "insecure": "false", "no-dhcp": "false", "reconnect-delay": "5s",
		"tap": "", "accept-default-gateway": "false", "accept-static-routes": "false", "accept-dns": "false",
		"policy-route-table": "0", "connmark": "false",
	} {
		if o, ok := findOption(name); !ok || o.def != def {
			t.Errorf("-%s: got %v, default %q, want it there with %q", name, ok, o.def, def)
		}
	}
}

func TestUnknownNamesGetASuggestion(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"hots", "did you mean -host?"},
		{"reconect-delay", "did you mean -reconnect-delay?"},
		{"password-file", "did you mean -pass-file?"},
		{"passfile", "did you mean -pass-file?"},
		{"sock5", "did you mean -socks5?"},
		{"socks", "did you mean -socks5?"},
		{"reconnect", "did you mean -reconnect-delay?"},
		{"x", "-h lists all"},
		{"", "-h lists all"},
		{"verbosity", "-h lists all"},
		{strings.Repeat("host", 100000), "-h lists all"},
		{"accept-static-route", "did you mean -accept-static-routes?"},
		{"policy-table", "-h lists all"},
	} {
		if got := hint(tt.name); got != tt.want {
			t.Errorf("hint(%.20q): got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"host", "host", 0}, {"hots", "host", 2}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q): got %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
