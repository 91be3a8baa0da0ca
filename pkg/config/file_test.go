package config

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/peterbourgon/ff/v3"
)

func TestLinesOfAConfigFile(t *testing.T) {
	for _, tt := range []struct{ name, line, want string }{
		{"nothing", "", ""},
		{"spaces", " \t ", ""},
		{"a comment", "# host vpn", ""},
		{"a setting", "host vpn.example.com", "host=vpn.example.com"},
		{"a setting with space about it", "\thost \t vpn \r", "host=vpn"},
		{"a setting as a flag", "--host vpn", "host=vpn"},
		{"a value with a space", "user John Doe", "user=John Doe"},
		{"a comment behind", "host vpn # ours", "host=vpn"},
		{"a value that begins with #", "user #1", "user=#1"},
		{"a value with # in it", "user a#1", "user=a#1"},
		{"a switch", "insecure", "insecure=true"},
		{"a switch with a comment", "insecure # for now", "insecure=true"},
		{"a switch with its value", "insecure false", "insecure=false"},
		{"a password of many words", "pass correct horse", "pass=correct horse"},

		{"no value", "host", "error: host needs a value"},
		{"a comment for a value", "host # later", "error: host needs a value"},
		{"a password that a comment would cut", "pass a #b", "error: pass: space and # begin a comment; a password with them goes into -pass-file"},
		{"a password that a comment would swallow", "proxy-pass # b", "error: proxy-pass: space and # begin a comment; a password with them goes into -proxy-pass-file"},
		{"an unknown name", "hots vpn", "error: no such setting; did you mean -host?"},
		{"an equals sign", "host=vpn", "error: write host VALUE, with a space in place of ="},
		{"an unknown name with one", "hots=vpn", "error: no such setting; did you mean -host?"},
		{"another file", "config x", "error: a config file cannot name another: give -config or SOFTETHER_CONFIG"},
		{"a section, as other formats have", "[vpn]", "error: no such setting; -h lists all"},
		{"binary", "host \x00", "error: a control character"},
	} {
		name, value, err := parseLine(tt.line)
		got := name
		if name != "" {
			got += "=" + value
		}
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q:\n got %s\nwant %s", tt.name, tt.line, got, tt.want)
		}
	}
}

// parse returns what a file sets and the problems in it.
func parseAll(t testing.TB, r io.Reader) (set []string, l *loader, err error) {
	t.Helper()
	l = newLoader(Source{})
	err = l.parseFile("f", r, func(name, value string) error {
		set = append(set, name+" "+value)
		return nil
	})
	return set, l, err
}

func TestBadLinesAreReportedAndTheOthersRead(t *testing.T) {
	set, l, err := parseAll(t, iotest.OneByteReader(strings.NewReader("\ufeffhost vpn\r\nhots x\r\n\r\nuser\r\nhub X")))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(set, []string{"host vpn", "hub X"}); diff != "" {
		t.Errorf("set -got +want:\n%s", diff)
	}
	want := "-config: f:2: no such setting; did you mean -host?\n-config: f:4: user needs a value"
	if got := message(join(l.problems)); got != want {
		t.Errorf("problems:\n got %s\nwant %s", got, want)
	}
}

func TestAFileWithoutAnEnd(t *testing.T) {
	_, _, err := parseAll(t, endless{})
	if got, want := message(err), "f is longer than 1048576 bytes: it is no config file"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAFileOfAnotherKind(t *testing.T) {
	_, l, err := parseAll(t, strings.NewReader(strings.Repeat("<p>\n", 100)))
	if got, want := message(err), "f: too many bad lines to go on: is it a config file, one NAME VALUE per line?"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := len(l.problems); got != 10 {
		t.Errorf("problems: got %d, want 10", got)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '#'
	}
	return len(b), nil
}

func TestAFileThatCannotBeRead(t *testing.T) {
	if _, _, err := parseAll(t, iotest.ErrReader(io.ErrUnexpectedEOF)); err != io.ErrUnexpectedEOF {
		t.Errorf("got %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

// What we take from a file is what ff's plain parser takes, so the format is the
// one that ff documents; ours only refuses more, and says where.
func FuzzParseFile(f *testing.F) {
	f.Add([]byte(everything))
	f.Add([]byte("host vpn # x\ninsecure\nuser #1\n"))
	f.Add([]byte("host vpn\r\n\r\n#\npass a b\n"))
	f.Add([]byte("\ufeffhost\x00=\n-user"))
	f.Fuzz(func(t *testing.T, text []byte) {
		set, l, err := parseAll(t, bytes.NewReader(text))
		for _, p := range l.problems {
			oneLine(t, p)
		}
		// The differences there are: ff takes no mark at the start, splits at
		// spaces only, keeps dashes, and takes "# x" for a value.
		if err != nil || len(l.problems) > 0 || bytes.ContainsAny(text, "\t\ufeff") || bytes.Contains(text, []byte(" #")) {
			return
		}
		var want []string
		err = ff.PlainParser(bytes.NewReader(text), func(name, value string) error {
			want = append(want, strings.TrimLeft(name, "-")+" "+value)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(set, want); diff != "" {
			t.Errorf("-got +ff:\n%s", diff)
		}
	})
}
