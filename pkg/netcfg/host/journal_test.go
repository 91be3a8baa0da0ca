package host

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJournalComesBack(t *testing.T) {
	dir := t.TempDir()
	want := journal{Version: journalVersion, Interface: "vpn0", Index: 100, PID: 7, Boot: "b", PolicyTable: 200,
		Link: link{Up: true, MTU: 1500}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.50/24")},
		Settings: []setting{{"net/ipv4/conf/eth0/rp_filter", "2", "1", 10}}, Names: true}
	for range 2 {
		if err := want.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readJournal(dir, "vpn0")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("journal (-want +got):\n%s", d)
	}
	if taps, err := journals(dir); err != nil || len(taps) != 1 || taps[0] != "vpn0" {
		t.Errorf("journals: %q, %v", taps, err)
	}
	if taps, err := journals(dir + "/none"); err != nil || taps != nil {
		t.Errorf("no directory: %q, %v", taps, err)
	}
}

func TestJournalsThatAreNone(t *testing.T) {
	for name, text := range map[string]string{
		"empty":                    "",
		"cut":                      `{"version":1,"interface":"vpn0","index":1`,
		"another version":          `{"version":2,"interface":"vpn0","index":1}`,
		"another interface":        `{"version":1,"interface":"vpn1","index":1}`,
		"no index":                 `{"version":1,"interface":"vpn0"}`,
		"a setting of the kernel":  `{"version":1,"interface":"vpn0","index":1,"settings":[{"Path":"kernel/core_pattern"}]}`,
		"a setting by a way round": `{"version":1,"interface":"vpn0","index":1,"settings":[{"Path":"net/ipv4/../../kernel/core_pattern"}]}`,
		"an address that is none":  `{"version":1,"interface":"vpn0","index":1,"addresses":["10.0.0.0/99"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(journalPath(dir, "vpn0"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if j, err := readJournal(dir, "vpn0"); err == nil || !strings.Contains(err.Error(), "vpn0.json") {
				t.Errorf("got %+v, %v", j, err)
			}
		})
	}
}

// Whatever is read may be acted on: it stays under net/, and comes back as it was.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"version":1,"interface":"vpn0","index":1,"settings":[{"Path":"net/ipv4/conf/eth0/rp_filter","Value":"2","Was":"1"}]}`))
	f.Add([]byte(`{"version":1,"interface":"vpn0","index":1,"addresses":["10.77.0.50/24"],"link":{"Up":true,"MTU":1500}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(journalPath(dir, "vpn0"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := readJournal(dir, "vpn0")
		if err != nil {
			return
		}
		for _, s := range j.Settings {
			if !strings.HasPrefix(s.Path, "net/") || strings.Contains(s.Path, "..") {
				t.Errorf("accepted the setting %q", s.Path)
			}
		}
		if err := j.write(dir); err != nil {
			t.Fatal(err)
		}
		again, err := readJournal(dir, "vpn0")
		if d := cmp.Diff(j, again, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); err != nil || d != "" {
			t.Errorf("%v (-once +twice):\n%s", err, d)
		}
	})
}
