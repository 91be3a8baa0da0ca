package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"softether-go/pkg/users"
)

// pipe runs the program with words on its standard input.
func pipe(t *testing.T, input string, args ...string) (code int, out, errs string) {
	t.Helper()
	in := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(in, []byte(input), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var o, e bytes.Buffer
	code = dispatch(t.Context(), args, terminal{in: f, out: &o, err: &e})
	return code, o.String(), e.String()
}

// bobHash is Cedar/Account.c, HashPassword's result for Bob and secret.
const bobHash = "AFNL2tupeMRQM0to84WItMnMun8=\n"

func TestHashPrintsWhatTheServerStores(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, input string
		args        []string
	}{
		{"a line", "secret\n", []string{"hash", "-user", "Bob"}},
		{"a line of Windows, the name in other letters", "secret\r\n", []string{"hash", "-user", "bOB"}},
		{"no line's end", "secret", []string{"hash", "-user", "Bob"}},
		{"more lines", "secret\nx\n", []string{"hash", "-user", "Bob"}},
		{"a file", "x\n", []string{"hash", "-user", "Bob", "-pass-file", file}},
	} {
		if code, out, errs := pipe(t, row.input, row.args...); code != exitOK || out != bobHash {
			t.Errorf("%s: exit %d with %q, %q, want %q", row.name, code, out, errs, bobHash)
		}
	}
}

func TestMistakesWithPasswords(t *testing.T) {
	for _, row := range []struct {
		name, input string
		args        []string
		want        string
	}{
		{"nobody to hash for", "geheim\n", []string{"hash"}, "-user is missing"},
		{"a password on the command line", "", []string{"hash", "-user", "Bob", "geheim"}, "hash takes -user NAME"},
		{"nothing to hash", "", []string{"hash", "-user", "Bob"}, "there is no password"},
		{"too long", "geheim" + strings.Repeat("x", 300), []string{"hash", "-user", "Bob"}, "longer than the 255 bytes"},
		{"no file", "", []string{"hash", "-user", "Bob", "-pass-file", "/nonexistent"}, "/nonexistent"},
		{"the present password on the command line", "geheim\n", []string{"passwd", "-host", "h", "-user", "u", "-pass", "geheim"}, "not for the command line"},
		{"the present hash on the command line", "x\n", []string{"passwd", "-host", "h", "-user", "u", "-pass-hash", strings.TrimSpace(bobHash)}, "not for the command line"},
		{"a user without a password", "x\n", []string{"passwd", "-host", "h", "-user", "u", "-anonymous"}, "anonymous has no password"},
		{"a flag without its file", "x\n", []string{"passwd", "-host", "h", "-user", "u", "-new-pass-file"}, "needs a value"},
	} {
		code, out, errs := pipe(t, row.input, row.args...)
		if code != exitUsage || out != "" || !strings.Contains(errs, row.want) || strings.Contains(errs, "geheim") {
			t.Errorf("%s: exit %d with %q, want %d with %q and no secret", row.name, code, errs, exitUsage, row.want)
		}
	}
}

func TestANewPasswordThatCannotBeReadChangesNothing(t *testing.T) {
	t.Setenv("SOFTETHER_PASS", "geheim")
	code, _, errs := call(t, "passwd", "-host", "127.0.0.1", "-port", "1", "-user", "u", "-insecure", "-new-pass-file", "/nonexistent")
	if code != exitUsage || !strings.Contains(errs, "-new-pass-file: open /nonexistent") {
		t.Errorf("exit %d with %q", code, errs)
	}
}

// What proxy-user prints is a line of a file for -proxy-users.
func TestProxyUserPrintsALine(t *testing.T) {
	code, out, errs := pipe(t, "secret\n", "proxy-user", "alice")
	if code != exitOK || !strings.HasPrefix(out, "alice:$2") {
		t.Fatalf("got %d, %q, %q", code, out, errs)
	}
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := users.Open(users.Config{Path: file})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := u.Login(t.Context(), []byte("alice"), []byte("secret")); !ok {
		t.Error("the user is not let in")
	}
	for _, args := range [][]string{{"proxy-user"}, {"proxy-user", "-pass-file", "x"}, {"proxy-user", "a:b"}, {"proxy-user", "alice", "secret"}} {
		if code, out, errs := pipe(t, "secret\n", args...); code != exitUsage || out != "" || strings.Contains(errs, "secret") {
			t.Errorf("%v: got %d, %q, %q", args, code, out, errs)
		}
	}
}
