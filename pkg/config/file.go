package config

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// maxFile bounds a config file. Real ones have a few hundred bytes; what is
// longer is another file, or one without an end.
const maxFile = 1 << 20

// maxBadLines is how many complaints tell a file with mistakes from another kind
// of file.
const maxBadLines = 10

// parseFile reads a config file, sets what it says, and records each bad line.
// The error is of reading alone.
func (l *loader) parseFile(path string, r io.Reader, set func(name, value string) error) error {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return err
	}
	if len(b) > maxFile {
		return fmt.Errorf("%s is longer than %d bytes: it is no config file", path, maxFile)
	}
	text := strings.TrimPrefix(string(b), "\ufeff") // some editors' mark for UTF-8
	number, bad := 0, 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		l.now = place{FromFile, fmt.Sprintf("%s:%d", path, number)}
		name, value, err := parseLine(line)
		if err == nil && name != "" {
			err = set(name, value)
		}
		if err != nil {
			l.problems = append(l.problems, problem{flag: "config", text: fmt.Sprintf("%s: %v", l.now.where, err)})
			l.failed[name] = true
			bad++
		}
		if bad == maxBadLines {
			return fmt.Errorf("%s: too many bad lines to go on: is it a config file, one NAME VALUE per line?", path)
		}
	}
	return nil
}

// parseLine returns the name and value of a line, or no name if it has none. Its
// errors repeat nothing but known names: the rest may be a password, in the
// wrong file or behind a misspelt name.
func parseLine(line string) (name, value string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	if strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) {
		return "", "", errors.New("a control character")
	}
	name, value = line, ""
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		name, value = line[:i], strings.TrimSpace(line[i:])
	}
	name = strings.TrimLeft(name, "-")
	o, known := findOption(name)
	value, comment := cutComment(value)
	switch before, _, equals := strings.Cut(name, "="); {
	case !known && equals:
		_, known = findOption(before)
		if known {
			return before, "", fmt.Errorf("write %s VALUE, with a space in place of =", before)
		}
		return "", "", fmt.Errorf("no such setting; %s", hint(before))
	case !known:
		return "", "", fmt.Errorf("no such setting; %s", hint(name))
	case name == "config":
		return "", "", errors.New("a config file cannot name another: give -config or SOFTETHER_CONFIG")
	case o.value.secret && comment && o.value.whole:
		return name, "", fmt.Errorf("%s: space and # begin a comment; give it as a flag or by %s", name, envName(name))
	case o.value.secret && comment:
		return name, "", fmt.Errorf("%s: space and # begin a comment; a password with them goes into -%s-file", name, name)
	case value != "":
		return name, value, nil
	case o.arg == "":
		return name, "true", nil
	}
	return name, "", fmt.Errorf("%s needs a value", name)
}

// cutComment drops a comment: what follows a # that has a space before it, or
// that begins the value and has nothing or a space behind it.
func cutComment(value string) (text string, cut bool) {
	const space = " \t"
	for i := range len(value) {
		if value[i] != '#' {
			continue
		}
		if i > 0 && strings.IndexByte(space, value[i-1]) >= 0 {
			return strings.TrimSpace(value[:i]), true
		}
		if i == 0 && (len(value) == 1 || strings.IndexByte(space, value[1]) >= 0) {
			return "", true
		}
	}
	return value, false
}
