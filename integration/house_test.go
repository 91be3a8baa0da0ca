package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"softether-go/pkg/config"
)

// The house: who may import whom. Test files are not bound by it.

// rooms lists for each package which of ours it may import. Nothing may import
// what is not in its row.
var rooms = map[string][]string{
	"cmd/softether-go":        {"netstack", "proxy", "pkg/account", "pkg/addresses", "pkg/binding", "pkg/client", "pkg/config", "pkg/credential", "pkg/dnsproxy", "pkg/forward", "pkg/frame", "pkg/health", "pkg/hosts", "pkg/hub", "pkg/hub/gateway", "pkg/nat", "pkg/netcfg", "pkg/netcfg/host", "pkg/ping", "pkg/privnet", "pkg/session", "pkg/share", "pkg/split", "pkg/stats", "pkg/tap", "pkg/underlay", "pkg/unixsock", "pkg/users", "pkg/vpn", "pkg/wire"},
	"pkg/vpn":                 {"netstack", "pkg/addresses", "pkg/autoconf", "pkg/client", "pkg/dhcp", "pkg/fairqueue", "pkg/frame", "pkg/health", "pkg/netcfg", "pkg/session", "pkg/stats", "pkg/underlay", "pkg/wire"},
	"pkg/autoconf":            {"pkg/frame", "pkg/inet", "pkg/netcfg"},
	"pkg/client":              {"pkg/addresses", "pkg/autoconf", "pkg/dhcp", "pkg/frame", "pkg/session", "pkg/wire"},
	"pkg/addresses":           {"pkg/autoconf", "pkg/dhcp", "pkg/frame", "pkg/netcfg"},
	"pkg/hub":                 {"pkg/frame", "pkg/pack", "pkg/tlsconn", "pkg/udpaccel", "pkg/wire"},
	"pkg/hub/gateway":         {"netstack", "pkg/frame", "pkg/netcfg"},
	"pkg/hub/hubtest":         {"pkg/hub", "pkg/frame", "pkg/pack", "pkg/wire"},
	"proxy":                   {"pkg/binding", "pkg/relay", "pkg/reread", "pkg/seldom"},
	"pkg/dnsproxy":            {"pkg/binding"},
	"pkg/forward":             {"pkg/binding", "pkg/relay", "pkg/seldom", "pkg/unixsock"},
	"pkg/binding":             {},
	"pkg/ping":                {"pkg/inet"},
	"pkg/relay":               {},
	"pkg/relay/relaytest":     {},
	"netstack":                {"netstack/resolver", "pkg/fairqueue", "pkg/frame", "pkg/netcfg", "pkg/offload"},
	"pkg/offload":             {"pkg/inet"},
	"pkg/inet":                {},
	"pkg/fairqueue":           {"pkg/frame"},
	"netstack/resolver":       {},
	"pkg/session":             {"pkg/frame", "pkg/inet", "pkg/pack", "pkg/tlsconn", "pkg/udpaccel", "pkg/wire"},
	"pkg/udpaccel":            {"pkg/frame", "pkg/pace", "pkg/rc4", "pkg/wire"},
	"pkg/tlsconn":             {},
	"pkg/dhcp":                {"pkg/frame", "pkg/inet", "pkg/netcfg"},
	"pkg/wire":                {"pkg/pack", "pkg/frame"},
	"pkg/pack":                {},
	"pkg/tap":                 {"pkg/frame", "pkg/offload", "pkg/pace"},
	"pkg/pace":                {},
	"pkg/share":               {"pkg/addresses", "pkg/frame", "pkg/hub", "pkg/wire"},
	"pkg/privnet":             {"pkg/forward", "pkg/netcfg", "pkg/netcfg/host", "pkg/tap"},
	"pkg/underlay":            {"pkg/rudp"},
	"pkg/rudp":                {"pkg/inet", "pkg/rc4", "pkg/wire"},
	"pkg/rc4":                 {},
	"pkg/users":               {"pkg/reread"},
	"pkg/reread":              {},
	"pkg/seldom":              {},
	"pkg/hosts":               {"netstack", "pkg/addresses", "pkg/fairqueue", "pkg/netcfg", "pkg/share", "pkg/wire"},
	"pkg/health":              {"pkg/binding", "pkg/frame", "pkg/inet", "pkg/netcfg", "pkg/unixsock"},
	"pkg/nat":                 {"pkg/frame", "pkg/inet", "pkg/netcfg"},
	"pkg/leaktest":            {},
	"pkg/stats":               {},
	"pkg/split":               {"pkg/binding"},
	"pkg/netcfg/host":         {"pkg/netcfg", "pkg/netcfg/host/resolv"},
	"pkg/netcfg/host/resolv":  {"pkg/netcfg"},
	"pkg/netcfg":              {},
	"pkg/frame":               {},
	"pkg/frame/frametest":     {"pkg/frame"},
	"pkg/session/sessiontest": {"pkg/pack", "pkg/wire"},
	"pkg/config":              {"pkg/account", "pkg/split"},
	"pkg/credential":          {},
	"pkg/account":             {},
	"integration":             {},
	"pkg/unixsock":            {},
}

// outside lists which modules beyond the standard library each package may import.
// What is not listed may import none.
var outside = map[string][]string{
	"cmd/softether-go":       {"golang.org/x/sync", "golang.org/x/sys", "golang.org/x/term"},
	"pkg/client":             {"golang.org/x/sync"},
	"pkg/addresses":          {"golang.org/x/sync"},
	"pkg/vpn":                {"golang.org/x/sync"},
	"pkg/hub":                {"golang.org/x/sync"},
	"pkg/hub/gateway":        {"golang.org/x/sync", "golang.org/x/net", "github.com/insomniacslk/dhcp"},
	"proxy":                  {"github.com/things-go/go-socks5"},
	"netstack":               {"gvisor.dev/gvisor", "golang.org/x/sys", "golang.org/x/sync"},
	"netstack/resolver":      {"golang.org/x/net"},
	"pkg/binding":            {"golang.org/x/net"},
	"pkg/dnsproxy":           {"golang.org/x/net"},
	"pkg/ping":               {"golang.org/x/sync"},
	"pkg/session":            {"golang.org/x/sync", "golang.org/x/sys"},
	"pkg/wire":               {"golang.org/x/crypto"},
	"pkg/udpaccel":           {"golang.org/x/crypto", "golang.org/x/sync", "golang.org/x/sys"},
	"pkg/users":              {"golang.org/x/crypto"},
	"pkg/credential":         {"software.sslmate.com/src/go-pkcs12"},
	"pkg/dhcp":               {"github.com/insomniacslk/dhcp"},
	"pkg/autoconf":           {"github.com/insomniacslk/dhcp"},
	"pkg/frame":              {"golang.org/x/sync"},
	"pkg/frame/frametest":    {},
	"pkg/pace":               {"golang.org/x/sys"},
	"pkg/tap":                {"golang.org/x/sys"},
	"pkg/tlsconn":            {"golang.org/x/sys"},
	"pkg/share":              {"golang.org/x/sync"},
	"pkg/privnet":            {"golang.org/x/sys"},
	"pkg/underlay":           {"golang.org/x/sys"},
	"pkg/rudp":               {"golang.org/x/crypto"},
	"pkg/netcfg/host":        {"github.com/vishvananda/netlink", "github.com/google/nftables", "github.com/mdlayher/netlink", "golang.org/x/sys"},
	"pkg/netcfg/host/resolv": {"github.com/godbus/dbus", "golang.org/x/sys"},
	"pkg/config":             {"github.com/peterbourgon/ff"},
}

const module = "softether-go/"

type goPackage struct {
	ImportPath string
	Doc        string
	Imports    []string
	GoFiles    []string
	Dir        string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,GoFiles,Dir", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImportsPointOneWay(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range listPackages(t) {
		room := strings.TrimPrefix(p.ImportPath, module)
		seen[room] = true
		allowed, ok := rooms[room]
		if !ok {
			t.Errorf("%s is not on the map; add it to rooms and to CONTRIBUTING.md", room)
			continue
		}
		for _, imp := range p.Imports {
			if own, ok := strings.CutPrefix(imp, module); ok {
				if !slices.Contains(allowed, own) {
					t.Errorf("%s imports %s; the map allows %v", room, own, allowed)
				}
			} else if strings.Contains(strings.Split(imp, "/")[0], ".") && !hasPrefix(outside[room], imp) {
				t.Errorf("%s imports %s; the map allows %v", room, imp, outside[room])
			}
		}
	}
	for room := range rooms {
		if !seen[room] {
			t.Errorf("%s is on the map but not in the tree", room)
		}
	}
}

// The map for people says what the one above says, of each room and what is within it.
func TestTheMapNamesWhatIsImported(t *testing.T) {
	b, err := os.ReadFile("../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9/-]+)` \\|.*\\| (.*) \\|$").FindAllStringSubmatch(string(b), -1) {
		rows[m[1]] = m[2]
	}
	for room, imports := range rooms {
		row, listed := rows[room]
		if _, within := rows[filepath.Dir(room)]; !listed && !within {
			t.Errorf("%s is not in CONTRIBUTING.md's map", room)
		}
		if !listed || strings.HasPrefix(row, "everything") {
			continue
		}
		words := strings.FieldsFunc(row, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		for _, imp := range imports {
			if !strings.HasPrefix(imp, room+"/") && !slices.Contains(words, filepath.Base(imp)) {
				t.Errorf("%s may import %s, but its row in CONTRIBUTING.md's map says %q", room, imp, row)
			}
		}
	}
}

func hasPrefix(prefixes []string, s string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

func TestEveryPackageSaysHowItWorks(t *testing.T) {
	for _, p := range listPackages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// Only cmd and pkg/config may see flags, the environment, the process's end.
var forbidden = regexp.MustCompile(`\b(os\.(Getenv|LookupEnv|Environ|Exit)|flag\.\w+|slog\.Default|fmt\.Print\w*|log\.(Print|Fatal)\w*)\(|time\.Sleep\(`)

func TestOnlyTheCommandTouchesTheProcess(t *testing.T) {
	for _, p := range listPackages(t) {
		room := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(room, "cmd/") || room == "pkg/config" || room == "pkg/leaktest" || room == "integration" {
			continue
		}
		for _, name := range p.GoFiles {
			b, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for i, line := range strings.Split(string(b), "\n") {
				code, _, _ := strings.Cut(line, "//")
				if m := forbidden.FindString(code); m != "" {
					t.Errorf("%s/%s:%d: %s belongs into cmd or pkg/config", room, name, i+1, m)
				}
			}
		}
	}
}

func TestModuleReplacesNothing(t *testing.T) {
	b, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^\s*replace\b`).Match(b) {
		t.Error("go.mod has a replace directive: nobody could install the program with go install")
	}
}

func TestEveryFuzzTargetHasSeeds(t *testing.T) {
	target := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	n := 0
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range target.FindAllSubmatch(b, -1) {
			n++
			corpus, _ := os.ReadDir(filepath.Join(filepath.Dir(path), "testdata", "fuzz", string(m[1])))
			if len(corpus) == 0 && !strings.Contains(string(b), "f.Add(") {
				t.Errorf("%s: %s has no seed corpus", path, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Error("found no fuzz target at all")
	}
}

const (
	tableBegin = "<!-- settings: this table is checked against the code -->\n"
	tableEnd   = "<!-- end of settings -->"
)

// With -update the README's table is written anew.
func TestREADMEListsTheSettings(t *testing.T) {
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(b), tableBegin)
	got, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		t.Fatal("README.md has lost the marks around its settings table")
	}
	want := "\n" + strings.TrimSpace(config.MarkdownTable()) + "\n\n"
	if got == want {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatal("README.md's settings differ from the code's; UPDATE=1 go test ./integration -run README writes them")
	}
	if err := os.WriteFile("../README.md", []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
