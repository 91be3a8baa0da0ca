package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const marker = "hunter2-hunter2"

func TestASecretDoesNotPrint(t *testing.T) {
	s := NewSecret(marker)
	type hides struct{ inside Secret } // formatters cannot call methods of unexported fields
	c := mustLoad(t, setup{}, with("-pass", marker, "-proxy-user", "me", "-proxy-pass", marker,
		"-proxy", "http://me:"+marker+"@proxy", "-proxy-header", "Cookie: "+marker)...)
	var shown []string
	for _, v := range []any{s, &s, c, &c, c.Auth, []Secret{s}, map[string]Secret{"k": s}, hides{s}, &hides{s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s", "%T"} {
			shown = append(shown, fmt.Sprintf(verb, v))
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, string(b))
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		shown = append(shown, log.String())
	}
	shown = append(shown, c.Lines(), fmt.Sprint(s), s.String(), fmt.Errorf("x: %v", s).Error())
	for _, text := range shown {
		if strings.Contains(text, marker) || strings.Contains(text, fmt.Sprintf("%x", marker)) {
			t.Errorf("shows the secret: %s", text)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if got := fmt.Sprintf(verb, s); got != redacted {
			t.Errorf("%s: got %s, want %s", verb, got, redacted)
		}
	}
	if b, err := json.Marshal(s); err != nil || string(b) != `"[redacted]"` {
		t.Errorf("JSON: got %s, %v", b, err)
	}
	if s.Reveal() != marker {
		t.Errorf("Reveal: got %q, want %q", s.Reveal(), marker)
	}
}

func TestASecretThatIsNotSetIsNotAnEmptyOne(t *testing.T) {
	var none Secret
	empty := NewSecret("")
	if none.IsSet() || !empty.IsSet() || none.Equal(empty) || none.Reveal() != "" {
		t.Errorf("got set %v, %v, equal %v", none.IsSet(), empty.IsSet(), none.Equal(empty))
	}
	if !empty.Equal(NewSecret("")) || empty.Equal(NewSecret("x")) || !none.Equal(Secret{}) {
		t.Error("equal is not by content")
	}
}

// A password typed in the wrong place must not be in the error about that place.
func TestErrorsDoNotRepeatAPassword(t *testing.T) {
	long := marker + strings.Repeat("x", 256)
	file := func(line string) setup { return setup{file: line + "\n"} }
	for _, tt := range []struct {
		name string
		s    setup
		args []string
	}{
		{"too long", setup{}, with("-pass", long)},
		{"two lines", setup{}, with("-pass", marker+"\nx")},
		{"too long in the environment", setup{env: map[string]string{"SOFTETHER_PROXY_PASS": long}}, with()},
		{"after a switch", setup{}, []string{"-plain-password", marker}},
		{"as a switch's value", setup{}, with("-plain-password=" + marker)},
		{"a word too many", setup{}, []string{"-pass", marker, marker}},
		{"behind an unknown flag", setup{}, []string{"-password-is", marker}},
		{"in an unknown flag", setup{}, []string{"-password-is=" + marker}},
		{"with too many dashes", setup{}, []string{"---pass=" + marker}},
		{"before a missing value", setup{}, []string{"-pass", marker, "-host"}},
		{"beside another problem", setup{}, []string{"-pass", marker, "-port", "x"}},
		{"in the host", setup{}, []string{"-host", "ann:" + marker + "@vpn"}},
		{"in a listener", setup{}, []string{"-socks5", "ann:" + marker + "@127.0.0.1:1080"}},
		{"in a proxy's URL with a bad port", setup{}, with("-proxy", "http://me:"+marker+"@proxy:x")},
		{"in a proxy's URL with a bad host", setup{}, with("-proxy", "http://me:"+marker+"@pro xy")},
		{"in a proxy's URL without its host", setup{}, with("-proxy", "http://me:"+marker)},
		{"in a proxy's URL of another kind", setup{}, with("-proxy", "ftp://me:"+marker+"@proxy")},
		{"in a SOCKS4 proxy's URL", setup{}, with("-proxy", "socks4://me:"+marker+"@proxy")},
		{"in a proxy's URL and beside it", setup{}, with("-proxy", "http://me:"+marker+"@proxy", "-proxy-url-pass", marker+"x")},
		{"in HTTPS_PROXY", setup{env: map[string]string{"HTTPS_PROXY": "http://:" + marker + "@proxy"}}, with("-proxy-from-env")},
		{"in a proxy's header", setup{}, with("-proxy", "http://proxy", "-proxy-header", marker)},
		{"beside a proxy without a user", setup{}, with("-proxy", "http://proxy", "-proxy-url-pass", marker, "-port", "x")},
		{"beside -anonymous", setup{}, with("-pass", marker, "-anonymous")},
		{"without a proxy user", setup{}, with("-proxy-pass", marker)},
		{"a file that is no config file", file(marker), whole},
		{"a misspelt key", file("pas " + marker), whole},
		{"a key with =", file("pass=" + marker), whole},
		{"a misspelt key with =", file("pas=" + marker), whole},
		{"a value with a comment sign", file("pass " + marker + " #1"), whole},
		{"a value with a control character", file("pass " + marker + "\x01"), whole},
		{"a switch's line", file("plain-password " + marker), whole},
		{"a password file of two lines", setup{}, []string{"-pass-file", write(t, "pw", marker+"\n"+marker)}},
		{"a password file too long", setup{}, []string{"-pass-file", write(t, "pw", long)}},
		{"a typed one too long", setup{ask: func(string) (string, error) { return long, nil }}, noPass},
	} {
		_, err := load(t, tt.s, tt.args...)
		if err == nil {
			t.Errorf("%s: no error", tt.name)
		} else if strings.Contains(err.Error(), marker) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

var noPass = []string{"-host", "vpn.example.com", "-user", "ann", "-http", "127.0.0.1:8080"}

func TestWhereThePasswordComesFrom(t *testing.T) {
	pwFile := write(t, "pw", "from file\r\n")
	both, onlyShort := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(both, "softether-pass"):       "from credential\n",
		filepath.Join(both, "pass"):                 "from short credential",
		filepath.Join(both, "softether-proxy-pass"): "x",
		filepath.Join(onlyShort, "pass"):            "from short credential",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	asked := ""
	ask := func(q string) (string, error) { asked = q; return "typed", nil }
	for _, tt := range []struct {
		name   string
		s      setup
		args   []string
		want   string
		origin Origin
	}{
		{"flag", setup{ask: ask}, []string{"-pass", "from flag"}, "from flag", FromFlag},
		{"an empty flag is an empty password", setup{ask: ask, env: map[string]string{"CREDENTIALS_DIRECTORY": both}},
			[]string{"-pass", ""}, "", FromFlag},
		{"file by flag", setup{ask: ask}, []string{"-pass-file", pwFile}, "from file", FromFlag},
		{"file by variable", setup{env: map[string]string{"SOFTETHER_PASS_FILE": pwFile}}, nil, "from file", FromEnv},
		{"file by config file", setup{file: "pass-file " + pwFile}, nil, "from file", FromFile},
		{"variable", setup{env: map[string]string{"SOFTETHER_PASS": "from env", "CREDENTIALS_DIRECTORY": both}}, nil, "from env", FromEnv},
		{"config file", setup{file: "pass from config"}, nil, "from config", FromFile},
		{"-pass over SOFTETHER_PASS_FILE", setup{env: map[string]string{"SOFTETHER_PASS_FILE": pwFile}},
			[]string{"-pass", "from flag"}, "from flag", FromFlag},
		{"-pass-file over SOFTETHER_PASS", setup{env: map[string]string{"SOFTETHER_PASS": "from env"}},
			[]string{"-pass-file", pwFile}, "from file", FromFlag},
		{"SOFTETHER_PASS over the config file's pass-file",
			setup{env: map[string]string{"SOFTETHER_PASS": "from env"}, file: "pass-file " + pwFile}, nil, "from env", FromEnv},
		{"credential", setup{ask: ask, env: map[string]string{"CREDENTIALS_DIRECTORY": both}}, nil, "from credential", FromCredential},
		{"credential by its short name", setup{ask: ask, env: map[string]string{"CREDENTIALS_DIRECTORY": onlyShort}}, nil,
			"from short credential", FromCredential},
		{"prompt", setup{ask: ask}, nil, "typed", FromPrompt},
		{"prompt, other credentials only", setup{ask: ask, env: map[string]string{"CREDENTIALS_DIRECTORY": t.TempDir()}}, nil, "typed", FromPrompt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked = ""
			c := mustLoad(t, tt.s, append(tt.args, noPass...)...)
			pass := setting(t, c, "pass")
			if c.Auth.Password.Reveal() != tt.want || !c.Auth.Password.IsSet() || pass.Origin != tt.origin {
				t.Errorf("got %q from %v, want %q from %v", c.Auth.Password.Reveal(), pass.Origin, tt.want, tt.origin)
			}
			if pass.Value != redacted {
				t.Errorf("setting: got %q, want %q", pass.Value, redacted)
			}
			if (asked != "") != (tt.origin == FromPrompt) {
				t.Errorf("asked %q", asked)
			}
		})
	}
	if want := "Password for ann at vpn.example.com: "; asked != "" && asked != want {
		t.Errorf("asked: got %q, want %q", asked, want)
	}
}

func TestTheProxiesPassword(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "softether-proxy-pass"), []byte("from credential\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"CREDENTIALS_DIRECTORY": dir}
	c := mustLoad(t, setup{env: env}, with("-proxy-user", "me")...)
	if got, want := c.Proxy.Password.Reveal(), "from credential"; got != want {
		t.Errorf("credential: got %q, want %q", got, want)
	}
	c = mustLoad(t, setup{env: env}, with("-proxy-user", "me", "-proxy-pass-file", write(t, "pw", "from file"))...)
	if got, want := c.Proxy.Password.Reveal(), "from file"; got != want {
		t.Errorf("file: got %q, want %q", got, want)
	}
	if c := mustLoad(t, setup{env: env}, whole...); c.Proxy.Password.IsSet() {
		t.Error("a credential without -proxy-user is used")
	}
}

func TestAnonymousAsksForNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pass"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(string) (string, error) { t.Error("asked"); return "", nil }
	c := mustLoad(t, setup{ask: ask, env: map[string]string{"CREDENTIALS_DIRECTORY": dir}}, append([]string{"-anonymous"}, noPass...)...)
	if diff := cmp.Diff(c.Auth, Auth{Method: Anonymous, User: "ann"}); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
}

func TestNobodyIsAskedIfSomethingElseIsWrong(t *testing.T) {
	ask := func(string) (string, error) { t.Error("asked"); return "", nil }
	_, err := load(t, setup{ask: ask}, append([]string{"-port", "none"}, noPass...)...)
	if got, want := message(err), `-port: "none" is not a port: give 1 to 65535`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAPromptThatFails(t *testing.T) {
	gone := errors.New("the terminal is gone")
	_, err := load(t, setup{ask: func(string) (string, error) { return "", gone }}, noPass...)
	if !errors.Is(err, gone) || message(err) != "ask for the password: the terminal is gone" {
		t.Errorf("got %v", err)
	}
}

func TestPasswordFiles(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ name, text, want, wantErr string }{
		{"a line", "pw\n", "pw", ""},
		{"without a newline", "pw", "pw", ""},
		{"one newline only is dropped", "pw\n\n", "", "holds a line break or a NUL byte; give a single line"},
		{"spaces belong to it", " pw ", " pw ", ""},
		{"a lone carriage return is no line end", "pw\r", "", "holds a line break or a NUL byte; give a single line"},
		{"the longest", strings.Repeat("x", 255) + "\r\n", strings.Repeat("x", 255), ""},
		{"too long by one", strings.Repeat("x", 256), "", "longer than the 255 bytes a server takes"},
		{"far too long", strings.Repeat("x", 1<<16), "", "longer than the 255 bytes a server takes"},
		{"empty", "", "", "is empty"},
		{"an empty line", "\n", "", "is empty"},
	} {
		path := filepath.Join(dir, "pw")
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := ReadSecret(path)
		if s.Reveal() != tt.want || (err == nil) != (tt.wantErr == "") || !strings.HasSuffix(message(err), tt.wantErr) {
			t.Errorf("%s: got %q, %v, want %q, %q", tt.name, s.Reveal(), err, tt.want, tt.wantErr)
		}
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: the error does not name the file: %v", tt.name, err)
		}
	}
	for _, path := range []string{filepath.Join(dir, "missing"), dir} {
		if _, err := ReadSecret(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

func TestACredentialThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "softether-pass"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := load(t, setup{env: map[string]string{"CREDENTIALS_DIRECTORY": dir}}, noPass...)
	if got := message(err); !strings.HasPrefix(got, "-pass: systemd credential: read ") || strings.Contains(got, "\n") {
		t.Errorf("got %s", got)
	}
}

func TestNotes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("permissions are elsewhere on Windows")
	}
	open, private := write(t, "open", "pw"), write(t, "private", "pw")
	config := write(t, "vpn.conf", "pass pw\n")
	ofGroup := write(t, "group", "pw")
	harmless := write(t, "vpn.conf", "pass-file "+private+"\n")
	for path, mode := range map[string]os.FileMode{open: 0o644, config: 0o644, harmless: 0o644, ofGroup: 0o640} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing to note", with(), ""},
		{"a private password file", append([]string{"-pass-file", private}, noPass...), ""},
		{"a group's password file", append([]string{"-pass-file", ofGroup}, noPass...), ""},
		{"a config file open to all that names a private one", append([]string{"-config", harmless}, noPass...), ""},
		{"a password file open to all", append([]string{"-pass-file", open}, noPass...), open + " holds a password and everyone"},
		{"a config file open to all", append([]string{"-config", config}, noPass...), config + " holds a password and everyone"},
		{"a config file whose password is not used", append([]string{"-config", config}, whole...), ""},
		{"any server", with("-insecure"), "-insecure: any server is accepted"},
		{"open proxies", with("-http", ":8080", "-proxy-open"), "-proxy-open: whoever reaches :8080 can use the VPN"},
		{"-proxy-open in vain", with("-proxy-open"), ""},
		{"no name server", with("-no-dhcp", "-address", "10.0.0.5/24"), "-no-dhcp without -dns"},
	} {
		got := strings.Join(mustLoad(t, setup{}, tt.args...).Notes, "\n")
		if !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
