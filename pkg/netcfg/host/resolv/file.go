package resolv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A place is an etc directory and where to keep what cannot be kept there.
type place struct {
	dir   string
	spare string
}

func (p place) conf() string { return filepath.Join(p.dir, "resolv.conf") }

// kept is where the file before ours is, or will be.
func (p place) kept(tap string) string {
	spare := filepath.Join(p.spare, keptName(tap))
	if _, err := os.Lstat(spare); err == nil {
		return spare
	}
	return filepath.Join(p.dir, keptName(tap))
}

// read returns the text of resolv.conf. That there is none, or a link to nowhere,
// is no error.
func (p place) read() (text string, missing bool, err error) {
	raw, err := os.ReadFile(p.conf())
	if errors.Is(err, fs.ErrNotExist) {
		_, lerr := os.Lstat(p.conf())
		return "", lerr != nil, nil
	}
	return string(raw), false, err
}

// replace puts a file of ours in the place of resolv.conf, which is kept.
func (p place) replace(tap string, n Names) error {
	before, missing, err := p.read()
	if err != nil {
		return err
	}
	holder, none := author(before)
	if holder == tap { // kept already
		missing = none
		before = p.keptText(tap)
	}
	fresh := filepath.Join(p.dir, keptName(tap)+".new")
	if err := os.WriteFile(fresh, []byte(n.render(tap, before, missing)), 0o644); err != nil {
		return err
	}
	if holder != tap && !missing {
		// A second name, not a copy: owner, mode and link stay as they are.
		os.Remove(p.kept(tap)) // of a file that someone has replaced since
		err = os.Link(p.conf(), p.kept(tap))
	}
	if err == nil {
		err = os.Rename(fresh, p.conf())
	}
	if err != nil {
		os.Remove(fresh)
		if holder != tap {
			os.Remove(p.kept(tap))
		}
	}
	return err
}

func (p place) keptText(tap string) string {
	text, _ := os.ReadFile(p.kept(tap))
	return string(text)
}

// rewrite exchanges the text of resolv.conf, which is kept beside it, or in the
// spare directory if that cannot be.
func (p place) rewrite(tap string, n Names) error {
	before, _, err := p.read()
	if err != nil {
		return err
	}
	if holder, _ := author(before); holder == tap {
		return overwrite(p.conf(), n.render(tap, p.keptText(tap), false))
	}
	keep := filepath.Join(p.dir, keptName(tap))
	if err := os.WriteFile(keep, []byte(before), 0o600); err != nil {
		keep = filepath.Join(p.spare, keptName(tap))
		if err := os.WriteFile(keep, []byte(before), 0o600); err != nil {
			return fmt.Errorf("keep what it says: %w", err)
		}
	}
	if err := overwrite(p.conf(), n.render(tap, before, false)); err != nil {
		return errors.Join(err, overwrite(p.conf(), before), os.Remove(keep))
	}
	return nil
}

// overwrite changes a file's text and nothing else about it.
func overwrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// restore puts back what was before the file of a TAP's instance, if that is still
// there, and hands it to the instance that has kept it else.
func (p place) restore(tap string) error {
	text, missing, err := p.read()
	if err != nil {
		return err
	}
	if holder, none := author(text); !missing && holder == tap {
		return p.putBack(tap, p.conf(), none)
	}
	later, err := filepath.Glob(filepath.Join(p.dir, kept+"*"))
	for _, l := range later {
		inner, _ := os.ReadFile(l)
		if holder, none := author(string(inner)); holder == tap && l != p.kept(tap) {
			return p.putBack(tap, l, none)
		}
	}
	if rerr := os.Remove(p.kept(tap)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// putBack replaces a file of ours by the one that was before it.
func (p place) putBack(tap, path string, none bool) error {
	keep := p.kept(tap)
	if _, err := os.Lstat(keep); errors.Is(err, fs.ErrNotExist) {
		none = true // an instance that was before us and has left had none
	}
	if none {
		return os.Remove(path)
	}
	if path == p.conf() || filepath.Dir(keep) == p.dir {
		err := os.Rename(keep, path)
		if !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.EXDEV) && !errors.Is(err, syscall.EROFS) &&
			!errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	before, err := os.ReadFile(keep)
	if err != nil {
		return err
	}
	if err := overwrite(path, string(before)); err != nil {
		return err
	}
	return os.Remove(keep)
}

// left returns the TAPs of instances that resolv.conf or a kept file speaks of.
func (p place) left() []string {
	found := map[string]bool{}
	if text, _, err := p.read(); err == nil {
		if tap, _ := author(text); tap != "" {
			found[tap] = true
		}
	}
	entries, _ := filepath.Glob(filepath.Join(p.dir, kept+"*"))
	for _, e := range entries {
		tap := strings.TrimPrefix(filepath.Base(e), kept)
		found[strings.TrimSuffix(tap, ".new")] = true
	}
	var taps []string
	for tap := range found {
		taps = append(taps, tap)
	}
	return taps
}
