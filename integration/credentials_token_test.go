//go:build linux

package integration

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// Proves that a user gets in whose key is on a PKCS#11 token, by a build with the tag
// for it, and that the build without has nothing of it and says so.
func TestTokenUsersGetIn(t *testing.T) {
	t.Parallel()
	needTool(t, "softhsm2-util", "softhsm2")
	needTool(t, "cc", "gcc libc6-dev")
	path := filepath.Join(run.dir, "softether-go-pkcs11")
	build := exec.Command("go", "build", "-tags", "pkcs11", "-o", path, "../cmd/softether-go")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with tokens: %v\n%s", err, out)
	}

	w := newWorld(t)
	cert, key := userCertificate(t, 2048, "carol", nil, tomorrow())
	w.srv.certUser("carol", cert)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keyFile, conf := filepath.Join(dir, "key.pem"), filepath.Join(dir, "softhsm2.conf")
	for name, text := range map[string][]byte{
		keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		conf:    []byte("directories.tokendir = " + dir + "\nobjectstore.backend = file\nlog.level = ERROR\n"),
	} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"--init-token", "--free", "--label", "office", "--so-pin", "87654321", "--pin", "123456"},
		{"--import", keyFile, "--token", "office", "--label", "carol", "--id", "02", "--pin", "123456"},
	} {
		util := exec.Command("softhsm2-util", args...)
		util.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
		if out, err := util.CombinedOutput(); err != nil {
			t.Fatalf("softhsm2-util %s: %v\n%s", args[0], err, out)
		}
	}
	if err := os.Remove(keyFile); err != nil { // the token has the only one
		t.Fatal(err)
	}

	f := usualFlags.with(flags{
		"user": "carol", "pass": absent, "cert": writePEM(t, "CERTIFICATE", cert.Raw), "pkcs11-module": softHSM, "pkcs11-token": "office",
		"key-password-file": secretFile(t, "pin", []byte("123456\n")),
	})
	begin := func(path string, f flags) *client {
		return &client{start(t, "softether-go", w.cli.Command(append([]string{"env", "SOFTHSM2_CONF=" + conf, path}, f.args()...)...)), w}
	}
	c := begin(path, f)
	c.WaitUp()
	session := w.sessionOf("carol")
	w.srv.Disconnect(session) // the next login signs too
	c.WaitLog(`(?s)session established.*session established`, upTime)
	c.Terminate()

	c = begin(path, f.with(flags{"key-password-file": secretFile(t, "pin", []byte("654321\n"))}))
	if got := c.ExitCode(upTime); got != exitUsage || strings.Contains(c.Log(), "654321") {
		t.Errorf("a wrong PIN: exit code %d, want %d, and no PIN in:\n%s", got, exitUsage, c.Log())
	}
	checkLastWords(t, c.Log(), []string{"PIN of the token", "is wrong"})

	static, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	c = begin(static, f)
	if got := c.ExitCode(upTime); got != exitUsage {
		t.Errorf("the static build: exit code %d, want %d", got, exitUsage)
	}
	checkLastWords(t, c.Log(), []string{"this build knows no PKCS#11"})
	if out := command(t, "go", "version", "-m", static); strings.Contains(out, "pkcs11") || strings.Contains(out, "crypto11") {
		t.Errorf("the static build has something of tokens:\n%s", out)
	}
}
