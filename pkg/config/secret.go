package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// redacted stands for a secret wherever one is printed.
const redacted = "[redacted]"

// maxSecret is the longest password the server takes; Cedar/Cedar.h,
// MAX_PASSWORD_LEN. RFC 1929 has the same limit.
const maxSecret = 255

// A Secret is a string that does not print. The zero Secret is not set, which is
// not the same as empty.
type Secret struct {
	// A pointer, so that even a formatter that reads unexported fields by
	// reflection, and so never calls Format, shows an address at most.
	text *string
}

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{&s} }

// Reveal returns the string itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsSet reports whether there is a secret, be it empty.
func (s Secret) IsSet() bool { return s.text != nil }

// Equal reports whether both are the same secret or both are not set.
func (s Secret) Equal(t Secret) bool { return s.IsSet() == t.IsSet() && s.Reveal() == t.Reveal() }

// Format prints a placeholder, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, redacted) // an error is f's to report
}

// String returns a placeholder.
func (s Secret) String() string { return redacted }

// MarshalText returns a placeholder; JSON uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// ParseSecret takes a password, and never repeats its input in an error.
func ParseSecret(s string) (Secret, error) {
	switch {
	case len(s) > maxSecret:
		return Secret{}, fmt.Errorf("longer than the %d bytes a server takes", maxSecret)
	case strings.ContainsAny(s, "\r\n\x00"):
		return Secret{}, errors.New("holds a line break or a NUL byte; give a single line")
	}
	return NewSecret(s), nil
}

// ReadSecret reads a password from a file, less one newline at its end. An empty
// file is taken for a mistake, unlike an empty -pass.
func ReadSecret(path string) (Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return Secret{}, err // it names the operation and the path
	}
	defer f.Close()
	// Three more than the limit: CR, LF, and the byte that shows it is too long.
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+3))
	if err != nil {
		return Secret{}, err
	}
	text, whole := strings.CutSuffix(string(b), "\n")
	if whole {
		text = strings.TrimSuffix(text, "\r")
	}
	if text == "" {
		return Secret{}, fmt.Errorf("%s is empty", path)
	}
	s, err := ParseSecret(text)
	if err != nil {
		return Secret{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// worldReadable reports whether everyone on the machine may read path. Windows
// keeps its permissions elsewhere.
func worldReadable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && runtime.GOOS != "windows" && info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0
}

// A secretPlace says where one password may come from.
type secretPlace struct {
	flag, fileFlag string
	credentials    []string
	into           *Secret // holds what the flag, the variable or the config file gave
	file           string
	from           *string // gets the file that it was read from, if any; may be nil
}

// settleSecret chooses between the places and reads the file, if one is chosen.
func (l *loader) settleSecret(p secretPlace) {
	word, file := l.inputs[p.flag], l.inputs[p.fileFlag]
	switch {
	case p.file == "" && word.given():
		return
	case p.file == "" && l.failed[p.fileFlag]:
		return
	case p.file == "":
		l.findCredential(p)
		return
	case word.given() && word.origin == file.origin:
		l.problem(p.fileFlag, fmt.Sprintf("-%s is given too: drop one of the two", p.flag))
		return
	case word.given() && word.origin > file.origin:
		return
	}
	s, err := ReadSecret(p.file)
	if err != nil {
		l.problem(p.fileFlag, err.Error())
		l.failed[p.flag] = true // so that nobody complains that it is missing
		return
	}
	p.take(s, p.file)
	word.place = place{file.origin, p.file}
	l.noteReadable(p.file)
}

// take keeps a secret that was read from a file.
func (p secretPlace) take(s Secret, file string) {
	*p.into = s
	if p.from != nil {
		*p.from = file
	}
}

// findCredential takes the first of the credentials that systemd provides.
func (l *loader) findCredential(p secretPlace) {
	dir, _ := l.src.LookupEnv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return
	}
	for _, name := range p.credentials {
		path := filepath.Join(dir, name)
		s, err := ReadSecret(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			l.problem(p.flag, "systemd credential: "+err.Error())
			return
		}
		p.take(s, path)
		l.inputs[p.flag].place = place{FromCredential, path}
		return
	}
}

func (l *loader) noteReadable(path string) {
	if worldReadable(path) {
		l.note(fmt.Sprintf("%s holds a password and everyone on this machine can read it: chmod 600 it", path))
	}
}

// ReadAgain returns the login with the secret that is in its file now, as it may have
// been replaced. What is not a file that stays, such as a pipe, is not read twice.
func (a Auth) ReadAgain() (Auth, error) {
	info, err := os.Stat(a.SecretFile)
	switch {
	case a.SecretFile == "":
		return a, nil
	case err != nil:
		return a, err
	case !info.Mode().IsRegular():
		return a, nil
	}
	s, err := ReadSecret(a.SecretFile)
	if err == nil && a.Hash.IsSet() {
		if s, err = parseStoredHash(s.Reveal()); err == nil {
			a.Hash = s
		}
		return a, err
	}
	if err == nil {
		a.Password = s
	}
	return a, err
}
