package resolv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// patience bounds a call of another program or service, which may hang.
const patience = 10 * time.Second

// A Config says for whom and where. Interface and Root are required.
type Config struct {
	Interface string // name of the TAP
	Index     int    // its index
	Root      string // etc and run are found under it
	Log       *slog.Logger
}

// A Manager sets name servers for one TAP. It is for one goroutine at a time.
type Manager struct {
	cfg Config
	way Way // how they are set now; empty if they are not
}

// New returns a Manager that has set nothing.
func New(cfg Config) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{cfg: cfg}
}

func (c Config) place() place { return place{filepath.Join(c.Root, "etc")} }

// Set has names looked up at n, in place of what was set before. On an error
// nothing has changed.
func (m *Manager) Set(ctx context.Context, n Names) error {
	if err := n.check(); err != nil {
		return fmt.Errorf("set name servers: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	way, why := decide(m.inspect(ctx))
	if err := ctx.Err(); err != nil { // a service that was not waited for seems absent
		return fmt.Errorf("set name servers: %w", err)
	}
	if m.way != "" && m.Held() {
		way, why = m.way, "as before"
	}
	m.cfg.Log.Debug("name servers", "way", string(way), "because", why)
	var err error
	switch way {
	case Resolved:
		err = newResolved(m.cfg.Root).set(ctx, m.cfg.Index, n)
	case Resolvconf:
		err = m.cfg.addRecord(ctx, n.render(m.cfg.Interface, noneBefore, ""))
	case Replace:
		err = m.cfg.place().replace(m.cfg.Interface, n)
	case Rewrite:
		err = m.cfg.place().rewrite(m.cfg.Interface, n)
	case ReadOnly:
		err = fmt.Errorf("%s: make it writable, or leave out -accept-dns", why)
	}
	if err != nil {
		return fmt.Errorf("set name servers (%s): %w", way, err)
	}
	m.way = way
	return nil
}

// Held reports whether what was set is still there.
func (m *Manager) Held() bool {
	switch m.way {
	case Replace, Rewrite:
		text, _, err := m.cfg.place().read()
		taps := authors(text)
		if err == nil && slices.Contains(taps, m.cfg.Interface) {
			return true
		}
		// Another instance has come since and keeps ours.
		return err == nil && len(taps) > 0 && m.keptByOther()
	}
	return m.way != ""
}

func (m *Manager) keptByOther() bool {
	p := m.cfg.place()
	entries, _ := filepath.Glob(filepath.Join(p.dir, kept+"*"))
	for _, e := range entries {
		text, _ := os.ReadFile(e)
		if holder, _ := author(string(text)); holder == m.cfg.Interface {
			return true
		}
	}
	return false
}

// Restore puts back what was before Set. A second call does nothing.
func (m *Manager) Restore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	switch m.way {
	case Resolved:
		err = newResolved(m.cfg.Root).revert(ctx, m.cfg.Index)
	case Resolvconf:
		err = m.cfg.resolvconf(ctx, "", "-d", m.cfg.record())
	case Replace, Rewrite:
		err = m.cfg.place().restore(m.cfg.Interface)
	}
	if err != nil {
		return fmt.Errorf("restore name servers (%s): %w", m.way, err)
	}
	m.way = ""
	return nil
}

// Bury restores what a killed instance for cfg.Interface left. What it set in
// systemd-resolved went with its TAP.
func Bury(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	errs := []error{cfg.place().restore(cfg.Interface)}
	if _, systemds := cfg.program(); !systemds && cfg.hasRecord() {
		errs = append(errs, cfg.resolvconf(ctx, "", "-d", cfg.record()))
	}
	os.Remove(filepath.Join(cfg.Root, "etc", keptName(cfg.Interface)+".new"))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("restore name servers: %w", err)
	}
	return nil
}

// Left returns the TAPs whose instances, alive or dead, have files under root.
func Left(root string) []string { return place{filepath.Join(root, "etc")}.left() }

// record is what resolvconf knows us by. Debian's puts names that begin with tap first.
func (c Config) record() string { return "tap." + c.Interface + ".softether" }

// hasRecord looks where the two programs of that name keep their records.
func (c Config) hasRecord() bool {
	for _, dir := range []string{"run/resolvconf/interface", "run/resolvconf/interfaces", "run/resolvconf/keys"} {
		if _, err := os.Lstat(filepath.Join(c.Root, dir, c.record())); err == nil {
			return true
		}
	}
	return false
}

// addRecord gives resolvconf our record. If it fails after having taken that, in one of
// the scripts that it runs, the record is taken back.
func (c Config) addRecord(ctx context.Context, text string) error {
	err := c.resolvconf(ctx, text, "-a", c.record(), "-m", "0", "-x")
	if err != nil && c.hasRecord() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience) // also when ctx has ended
		defer cancel()
		c.resolvconf(ctx, "", "-d", c.record()) // may fail in the same script
	}
	return err
}

// program finds resolvconf, and tells whether it is systemd's resolvectl.
func (c Config) program() (path string, systemds bool) {
	for _, dir := range []string{"sbin", "usr/sbin", "usr/bin", "bin"} {
		path := filepath.Join(c.Root, dir, "resolvconf")
		info, err := os.Stat(path)
		if err != nil || info.Mode()&0o111 == 0 {
			continue
		}
		target, _ := filepath.EvalSymlinks(path)
		return path, filepath.Base(target) == "resolvectl"
	}
	return "", false
}

func (c Config) resolvconf(ctx context.Context, input string, args ...string) error {
	path, _ := c.program()
	if path == "" {
		return errors.New("resolvconf is gone")
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(input)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", path, args[0], err, strings.TrimSpace(said.String()))
	}
	return nil
}
