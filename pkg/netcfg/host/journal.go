package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A journal says what an instance changes that bears no mark of ours. It is written
// before the change, so that it may list what was not done yet, never less.
type journal struct {
	Version     int            `json:"version"`
	Interface   string         `json:"interface"`
	Index       int            `json:"index"`
	PID         int            `json:"pid"`  // for whoever reads it; the lock tells who lives
	Boot        string         `json:"boot"` // kernel's boot id
	PolicyTable int            `json:"policy_table,omitempty"`
	Link        link           `json:"link"`
	Addresses   []netip.Prefix `json:"addresses,omitempty"`
	Settings    []setting      `json:"settings,omitempty"`
	Names       bool           `json:"names,omitempty"`
}

const journalVersion = 1

func journalPath(dir, tap string) string { return filepath.Join(dir, tap+".json") }

// write replaces the journal at once.
func (j journal) write(dir string) error {
	text, err := json.MarshalIndent(j, "", "\t")
	if err != nil {
		return err
	}
	path := journalPath(dir, j.Interface)
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// readJournal reads one. What is not a journal is an error.
func readJournal(dir, tap string) (journal, error) {
	text, err := os.ReadFile(journalPath(dir, tap))
	if err != nil {
		return journal{}, err
	}
	var j journal
	if err := json.Unmarshal(text, &j); err != nil {
		return journal{}, fmt.Errorf("journal %s: %w", journalPath(dir, tap), err)
	}
	if j.Version != journalVersion || j.Interface != tap || j.Index <= 0 {
		return journal{}, fmt.Errorf("journal %s: not one of this version for %s", journalPath(dir, tap), tap)
	}
	for _, s := range j.Settings {
		if !strings.HasPrefix(s.Path, "net/ipv") || strings.Contains(s.Path, "..") {
			return journal{}, fmt.Errorf("journal %s: no setting of ours: %q", journalPath(dir, tap), s.Path)
		}
	}
	return j, nil
}

// journals returns the names of the TAPs that have a journal.
func journals(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var taps []string
	for _, e := range entries {
		if tap, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			taps = append(taps, tap)
		}
	}
	slices.Sort(taps)
	return taps, err
}

// bootID tells one boot from the next.
func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}

// inNamespace gives each network namespace a directory: TAPs of the same name may
// be in several, while all see the same files.
func (c Config) inNamespace() Config {
	name, _ := os.Readlink("/proc/self/ns/net") // net:[4026531840]
	c.StateDir = filepath.Join(c.StateDir, "net-"+strings.Trim(name, "net:[]"))
	return c
}
