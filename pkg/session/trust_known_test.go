package session

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

// meet dials a server that has cert and says whether it was believed.
func meet(t *testing.T, k *KnownServers, host string, cert tls.Certificate) error {
	t.Helper()
	cfg := serverWith(t, cert, func(p *peer) { p.Accept(); p.Discard() })
	cfg.Host, cfg.Trust = host, Trust{Known: k}
	s, err := Dial(context.Background(), cfg)
	if err == nil {
		s.Close()
	}
	return err
}

func TestAServerIsTrustedByTheKeyItHadAtFirst(t *testing.T) {
	first, other := sessiontest.Certificate(t, nil), sessiontest.Certificate(t, nil)
	k := &KnownServers{Path: filepath.Join(t.TempDir(), "new", "known_servers")}
	for _, step := range []struct {
		name string
		host string
		cert tls.Certificate
		want string // of the error; empty: accepted
	}{
		{"first use", "vpn.test", first, ""},
		{"again", "vpn.test", first, ""},
		{"by another spelling", "VPN.test.", first, ""},
		{"another server, by its own key", "two.test", other, ""},
		{"another key", "vpn.test", other, "THE SERVER'S KEY HAS CHANGED"},
		{"the first key again", "vpn.test", first, ""},
	} {
		err := meet(t, k, step.host, step.cert)
		var untrusted *UntrustedError
		var e *Error
		switch {
		case step.want == "" && err != nil:
			t.Errorf("%s: %v", step.name, err)
		case step.want != "" && (!errors.As(err, &untrusted) || !errors.As(err, &e) || e.Advice() != wire.Never || !contains(err, step.want)):
			t.Errorf("%s: got %v, want a final UntrustedError with %q", step.name, err, step.want)
		case step.want != "" && (!contains(err, k.Path) || !contains(err, "line 1") || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: %q does not say in one line what to delete", step.name, err)
		}
	}
	b, err := os.ReadFile(k.Path)
	sum := func(c tls.Certificate) keyHash { return sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo) }
	want := fmt.Sprintf("vpn.test:443 %v\ntwo.test:443 %v\n", sum(first), sum(other))
	if err != nil || string(b) != want {
		t.Errorf("the file: got %q, %v, want %q", b, err, want)
	}
	if info, err := os.Stat(k.Path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v, %v", info.Mode(), err)
	}
}

func TestKnownServersKeepWhatAPersonWrote(t *testing.T) {
	dir := t.TempDir()
	real, path := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	const text = "# mine\n\n  old.test:443   sha256:" + "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"
	if err := os.WriteFile(real, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, path); err != nil {
		t.Skip(err)
	}
	if err := meet(t, &KnownServers{Path: path}, "vpn.test", sessiontest.Certificate(t, nil)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(real)
	if err != nil || !strings.HasPrefix(string(b), text+"\nvpn.test:443 sha256:") {
		t.Errorf("the file behind the link: %q, %v", b, err)
	}
}

func TestNobodyIsKnownByAFileThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, row := range []struct{ name, path, want string }{
		{"a line too short", write("short", "# x\nvpn.test:443\n"), "short:2: is not HOST:PORT"},
		{"another hash", write("hash", "vpn.test:443 md5:00\n"), "hash:1: is not HOST:PORT"},
		{"half a hash", write("half", "vpn.test:443 sha256:0011\n"), "half:1: is not HOST:PORT"},
		{"another line is wrong", write("other", "a:1 b c\nvpn.test:443 sha256:"+strings.Repeat("00", 32)+"\n"), "other:1: is not HOST:PORT"},
		{"endless", write("endless", strings.Repeat("#\n", maxKnown)), "is longer than"},
		{"a directory", dir, "-known-servers"},
		{"below a file", filepath.Join(write("file", ""), "known"), "-known-servers"},
	} {
		err := meet(t, &KnownServers{Path: row.path}, "vpn.test", sessiontest.Certificate(t, nil))
		var untrusted *UntrustedError
		if !errors.As(err, &untrusted) || !contains(err, row.want) || !contains(err, "-pin sha256:") {
			t.Errorf("%s: got %v, want an UntrustedError with %q", row.name, err, row.want)
		}
	}
}

// Several programs meet their servers at once; none loses its line to another.
func TestKnownServersMayBeShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "known_servers")
	const programs = 8
	var wg sync.WaitGroup
	for i := range programs {
		wg.Go(func() {
			k := &KnownServers{Path: path} // as another process has it
			for j := range 4 {
				if err := k.know(fmt.Sprintf("s%d-%d.test:443", i, j), keyHash{byte(i), byte(j)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if runtime.GOOS == "windows" {
		return // no lock there
	}
	b, err := os.ReadFile(path)
	if got := strings.Count(string(b), "\n"); err != nil || got != 4*programs {
		t.Errorf("%d lines, %v, want %d:\n%s", got, err, 4*programs, b)
	}
	if left, _ := filepath.Glob(path + ".new*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func FuzzFindKnown(f *testing.F) {
	f.Add([]byte("# x\nvpn.test:443 sha256:"+strings.Repeat("0a", 32)+"\n"), "vpn.test:443")
	f.Add([]byte("vpn.test:443 sha256:00"), "vpn.test:443")
	f.Add([]byte("[::1]:443 sha256:"+strings.Repeat("FF", 32)+"\r\n\r\n"), "[::1]:443")
	f.Fuzz(func(t *testing.T, b []byte, address string) {
		key, line, err := findKnown(b, canonical(address))
		if err != nil && line == 0 || err != nil && key != (keyHash{}) {
			t.Errorf("line %d, key %v with %v", line, key, err)
		}
		if line > 0 && err == nil && !strings.Contains(strings.ToLower(string(b)), key.String()[len("sha256:"):]) {
			t.Errorf("%v is not in %q", key, b)
		}
	})
}
