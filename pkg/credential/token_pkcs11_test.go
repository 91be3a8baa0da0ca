//go:build pkcs11

package credential

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ThalesGroup/crypto11"
)

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// newToken makes a token in software, which holds the key of testdata and another.
func newToken(t *testing.T) Token {
	t.Helper()
	if _, err := os.Stat(softHSM); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("needs softhsm2: apt-get install softhsm2")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	for _, args := range [][]string{
		{"--init-token", "--free", "--label", "office", "--so-pin", "87654321", "--pin", "123456"},
		{"--import", "testdata/other.pem", "--token", "office", "--label", "other", "--id", "01", "--pin", "123456"},
		{"--import", "testdata/pkcs8.pem", "--token", "office", "--label", "carol", "--id", "02", "--pin", "123456"},
	} {
		if out, err := exec.Command("softhsm2-util", args...).CombinedOutput(); err != nil {
			t.Fatalf("softhsm2-util %s: %v\n%s", args[0], err, out)
		}
	}
	return Token{Module: softHSM, Label: "office", PIN: "123456"}
}

// One token for all: the library reads its configuration once.
func TestPKCS11Tokens(t *testing.T) {
	token := newToken(t)
	cert := file(t, "cert.pem")
	refused := func(name string, change func(*Token), cert []byte, want string) {
		t.Helper()
		bad := token
		change(&bad)
		_, err := FromToken(bad, cert)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "654321") {
			t.Errorf("%s: got %v, want one line with %q and no PIN", name, err, want)
		}
	}
	refused("no PIN", func(b *Token) { b.PIN = "" }, cert, ErrPassphrase.Error())
	refused("a wrong PIN", func(b *Token) { b.PIN = "654321" }, cert, "the PIN of the token \"office\" is wrong")
	refused("another token", func(b *Token) { b.Label = "home" }, cert, `token "home" of `+softHSM)
	refused("no library", func(b *Token) { b.Module = "/nonexistent.so" }, cert, "/nonexistent.so")
	refused("no such key", func(b *Token) { b.Object = "dave" }, cert, `no key "dave"`)
	refused("another's certificate", func(b *Token) { b.Object = "other" }, cert, "does not belong to the certificate")
	refused("no certificate at all", func(b *Token) {}, nil, "no certificate beside a key: give it by -cert")
	refused("a certificate that is none", func(b *Token) {}, []byte("x"), "certificate: ")

	check := func(name string, id Identity, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		sum := sha1.Sum([]byte("challenge"))
		sign, err := id.Signer.Sign(rand.Reader, sum[:], crypto.SHA1)
		if err != nil {
			t.Errorf("%s: sign: %v", name, err)
			return
		}
		if err := rsa.VerifyPKCS1v15(id.Certificate.PublicKey.(*rsa.PublicKey), crypto.SHA1, sum[:], sign); err != nil {
			t.Errorf("%s: the signature is not the certificate's: %v", name, err)
		}
	}
	id, err := FromToken(token, cert)
	check("with a certificate in a file", id, err)
	named := token
	named.Object = "carol"
	id, err = FromToken(named, cert)
	check("by the key's label", id, err)

	certs, err := certificates(cert)
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := crypto11.Configure(&crypto11.Config{Path: token.Module, TokenLabel: token.Label, Pin: token.PIN})
	if err != nil {
		t.Fatal(err)
	}
	defer ctx.Close()
	if err := ctx.ImportCertificateWithLabel([]byte{2}, []byte("carol"), certs[0]); err != nil {
		t.Fatal(err)
	}
	id, err = FromToken(token, nil)
	check("with the certificate on the token", id, err)
	if !bytes.Equal(id.Certificate.Raw, certs[0].Raw) {
		t.Error("another certificate was found")
	}
}
