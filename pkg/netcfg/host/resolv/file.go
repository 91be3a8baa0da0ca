package resolv

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A place is an etc directory.
type place struct{ dir string }

func (p place) conf() string { return filepath.Join(p.dir, "resolv.conf") }

// kept is where the file is that ours has replaced.
func (p place) kept(tap string) string { return filepath.Join(p.dir, keptName(tap)) }

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
	was := beforeBeside + keptName(tap)
	if missing {
		was = noneBefore
	}
	if err := os.WriteFile(fresh, []byte(n.render(tap, was, before)), 0o644); err != nil {
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

// rewrite exchanges the text of resolv.conf, and keeps the one before in it: nothing
// else is sure to outlive a container.
func (p place) rewrite(tap string, n Names) error {
	now, _, err := p.read()
	if err != nil {
		return err
	}
	before, again := peel(now, tap)
	if !again {
		before = now
	}
	if err := overwrite(p.conf(), enclose(n.render(tap, beforeBelow, before), before)); err != nil {
		return errors.Join(err, overwrite(p.conf(), now))
	}
	return nil
}

// overwrite changes a file's text and nothing else about it. It writes once, with empty
// lines for what is to be cut off, so that neither a reader nor a kill finds a half.
func overwrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteString(text + strings.Repeat("\n", max(0, int(info.Size())-len(text))))
	}
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	return errors.Join(err, f.Close())
}

// restore puts back what was before the file of a TAP's instance, if that is still
// there, and hands it to the instance that has kept it else.
func (p place) restore(tap string) error {
	text, missing, err := p.read()
	if err != nil {
		return err
	}
	if rest, ok := peel(text, tap); ok {
		return overwrite(p.conf(), rest)
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
	return os.Rename(keep, path)
}

// left returns the TAPs of instances that resolv.conf or a kept file speaks of.
func (p place) left() []string {
	found := map[string]bool{}
	if text, _, err := p.read(); err == nil {
		for _, tap := range authors(text) {
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
