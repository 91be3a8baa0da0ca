//go:build linux

package integration

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"softether-go/pkg/session"
	"softether-go/pkg/wire"
)

// shortly is how long a command that talks to the server once may take.
const shortly = 30 * time.Second

// userCertificate makes a key and a certificate for a user, self-signed without an
// authority.
func userCertificate(t testing.TB, bits int, name string, by *authority, end time.Time) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: end.Add(-48 * time.Hour), NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	parent, signer := template, crypto.Signer(key)
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// makeUserCA makes an authority that the server takes for users': with an RSA key.
func makeUserCA(t testing.TB) *authority {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "users' authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: tomorrow(),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: ca, key: key, file: writePEM(t, "CERTIFICATE", der)}
}

// tomorrow is a date that certificates of tests are good for.
func tomorrow() time.Time { return time.Now().Add(24 * time.Hour) }

// secretFile makes a file that the unprivileged client can read.
func secretFile(t testing.TB, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(run.dir, fmt.Sprintf("%d-%s", logNumber.Add(1), name))
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// certUser makes a user of the hub that logs in by exactly this certificate.
func (s *server) certUser(name string, cert *x509.Certificate) {
	s.t.Helper()
	s.Hub("UserCreate "+name+" /GROUP:none /REALNAME:none /NOTE:none",
		"UserCertSet "+name+" /LOADCERT:"+writePEM(s.t, "CERTIFICATE", cert.Raw))
}

// argument returns a path as an argument of vpncmd, which takes what begins with a
// slash for the name of a parameter.
func argument(t testing.TB, path string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(dir, path)
	if err != nil {
		t.Fatal(err)
	}
	return relative
}

// signedUser makes a user of the hub that logs in by a certificate of this name and
// serial number, signed by an authority that the hub has.
func (s *server) signedUser(name string, cert *x509.Certificate) {
	s.t.Helper()
	s.Hub("UserCreate "+name+" /GROUP:none /REALNAME:none /NOTE:none",
		fmt.Sprintf("UserSignedSet %s /CN:%s /SERIAL:%X", name, cert.Subject.CommonName, cert.SerialNumber.Bytes()))
}

// Proves which keys the server takes: the sizes that the client lets through, and no
// other. The session package says nothing about sizes, so the server decides here.
func TestTheServerTakesRSAKeysOfTheseSizes(t *testing.T) {
	t.Parallel()
	w := newBareWorld(t)
	ca := makeUserCA(t)
	w.srv.Hub("CAAdd " + argument(t, ca.file))
	for bits, taken := range map[int]bool{1024: true, 1536: true, 2048: true, 3072: true, 4096: true, 1032: false, 2056: false} {
		t.Run(fmt.Sprint(bits), func(t *testing.T) {
			name := fmt.Sprintf("rsa%d", bits)
			cert, key := userCertificate(t, bits, name, ca, tomorrow())
			w.srv.signedUser(name, cert)
			ctx, cancel := context.WithTimeout(t.Context(), shortly)
			defer cancel()
			s, err := session.Dial(ctx, session.Config{
				Host: serverAddress, Hub: hubName, User: name, Trust: session.Trust{Insecure: true},
				Auth: wire.Certificate, Identity: &session.Identity{Certificate: cert, Signer: key},
				DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return w.cli.Dial(ctx, address) },
			})
			if err == nil {
				s.Close()
			}
			if taken && err != nil || !taken && !errors.Is(err, wire.CodeAuthFailed) {
				t.Errorf("%d bits: got %v, want it taken: %v", bits, err, taken)
			}
		})
	}
}

// Proves that a certificate gets in from every kind of file, both as the user's own
// and as one that an authority signed.
func TestCertificateUsersGetIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const passphrase = "key pass"
	cert, key := userCertificate(t, 2048, "carol", nil, tomorrow())
	w.srv.certUser("carol", cert)
	ca := makeUserCA(t)
	signed, signedKey := userCertificate(t, 2048, "dave", ca, tomorrow())
	w.srv.Hub("CAAdd " + argument(t, ca.file))
	w.srv.signedUser("dave", signed)

	p12, err := pkcs12.Modern.Encode(key, cert, []*x509.Certificate{ca.cert}, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 it is what people have
	old, err := x509.EncryptPEMBlock(rand.Reader, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key), []byte(passphrase), x509.PEMCipherAES256)
	if err != nil {
		t.Fatal(err)
	}
	certFile := writePEM(t, "CERTIFICATE", cert.Raw)
	passFile := secretFile(t, "passphrase", []byte(passphrase+"\n"))
	for _, row := range []struct {
		name  string
		flags flags
	}{
		{"PEM", flags{"cert": certFile, "key": writePEM(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))}},
		{"encrypted PEM", flags{"cert": certFile, "key": secretFile(t, "key.pem", pem.EncodeToMemory(old)), "key-password-file": passFile}},
		{"PKCS#12", flags{"p12": secretFile(t, "carol.p12", p12), "key-password-file": passFile}},
		{"signed by an authority", flags{"user": "dave", "cert": writePEM(t, "CERTIFICATE", signed.Raw),
			"key": writePEM(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(signedKey))}},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).StartClient(usualFlags.with(flags{"user": "carol", "pass": absent}).with(row.flags))
			c.WaitUp()
			if log := c.Log(); strings.Contains(log, "PRIVATE") || strings.Contains(log, passphrase) {
				t.Errorf("a secret in the log:\n%s", log)
			}
			c.Terminate()
		})
	}
}

// Proves that a refused certificate ends the program with the reason, as far as one
// side knows it.
func TestCertificatesThatDoNotGetIn(t *testing.T) {
	t.Parallel()
	w := newBareWorld(t)
	cert, key := userCertificate(t, 2048, "carol", nil, tomorrow())
	w.srv.certUser("carol", cert)
	stranger, strangersKey := userCertificate(t, 2048, "carol", nil, tomorrow())
	expired, expiredKey := userCertificate(t, 2048, "erin", nil, time.Now().Add(-time.Hour))
	w.srv.certUser("erin", expired)
	keyFile := func(k *rsa.PrivateKey) string {
		return writePEM(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k))
	}
	for _, row := range []struct {
		name     string
		flags    flags
		wantCode int
		wantText []string
	}{
		{"one that the server does not know", flags{"cert": writePEM(t, "CERTIFICATE", stranger.Raw), "key": keyFile(strangersKey)},
			exitRefused, []string{"was not accepted for user \"carol\"", "register it"}},
		{"one that has expired", flags{"user": "erin", "cert": writePEM(t, "CERTIFICATE", expired.Raw), "key": keyFile(expiredKey)},
			exitRefused, []string{"expired on", "get a new one"}},
		{"one with another's key", flags{"cert": writePEM(t, "CERTIFICATE", cert.Raw), "key": keyFile(strangersKey)},
			exitUsage, []string{"does not belong to the certificate"}},
		{"a user with a password", flags{"user": userName, "cert": writePEM(t, "CERTIFICATE", cert.Raw), "key": keyFile(key)},
			exitRefused, []string{"was not accepted"}},
		{"a user with a certificate, by password", flags{"pass": "wrong-pass"}, exitRefused, []string{"log in another way"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).StartClient(usualFlags.with(flags{"user": "carol", "pass": absent}).with(row.flags))
			if got := c.ExitCode(shortly); got != row.wantCode {
				t.Errorf("exit code: got %d, want %d", got, row.wantCode)
			}
			checkLastWords(t, c.Log(), row.wantText)
		})
	}
}

// Proves trust on first use: a server is remembered, believed again after a restart,
// and refused with another key.
func TestAServersFirstKeyIsRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(run.dir, fmt.Sprintf("%d-known", logNumber.Add(1)))
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // the client is nobody
		t.Fatal(err)
	}
	known := filepath.Join(dir, "mine", "known_servers")
	f := usualFlags.with(flags{"insecure": absent, "trust-on-first-use": "true", "known-servers": known})
	for _, first := range []bool{true, false} {
		c := w.StartClient(f)
		c.WaitUp()
		c.Terminate()
		if got := strings.Contains(c.Log(), "server seen for the first time"); got != first {
			t.Errorf("the log speaks of a first time: %v, want %v:\n%s", got, first, c.Log())
		}
	}
	if b, err := os.ReadFile(known); err != nil || !strings.HasPrefix(string(b), serverAddress+":443 sha256:") || strings.Count(string(b), "\n") != 1 {
		t.Errorf("known servers: %q, %v", b, err)
	}
	cert, key := makeCA(t).issue(t, serverHost)
	w.srv.SetCertificate(cert, key)
	c := w.StartClient(f)
	if got := c.ExitCode(shortly); got != exitUntrusted {
		t.Errorf("another key: exit code %d, want %d", got, exitUntrusted)
	}
	checkLastWords(t, c.Log(), []string{"THE SERVER'S KEY HAS CHANGED", "delete line 1 of " + known})
	if err := os.Remove(known); err != nil {
		t.Fatal(err)
	}
	c = w.StartClient(f)
	c.WaitUp()
	c.Terminate()
}

// Proves that a stored hash logs in, that the user can change the password, and that
// then the new one counts.
func TestPasswordsAreHashedAndChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const newPassword = "an0ther s€cret"
	old, next := secretFile(t, "old", []byte(userPassword+"\n")), secretFile(t, "new", []byte(newPassword+"\n"))
	hash := func(file string) string {
		out, err := runLimited(w.clientCommand("hash", "-user", strings.ToUpper(userName), "-pass-file", file), shortly)
		if err != nil {
			t.Fatalf("hash: %v\n%s", err, out)
		}
		return secretFile(t, "hash", []byte(out))
	}
	getsIn := func(f flags) {
		t.Helper()
		c := w.StartClient(usualFlags.with(flags{"pass": absent}).with(f))
		c.WaitUp()
		c.Terminate()
	}
	passwd := func(user string, args ...string) (int, string) {
		t.Helper()
		all := append([]string{"passwd", "-host", serverAddress, "-hub", hubName, "-user", user, "-insecure"}, args...)
		p := start(t, "passwd", w.clientCommand(all...))
		code := p.ExitCode(shortly)
		if strings.Contains(p.Log(), userPassword) || strings.Contains(p.Log(), newPassword) {
			t.Errorf("a password is shown:\n%s", p.Log())
		}
		return code, p.Log()
	}
	getsIn(flags{"pass-hash-file": hash(old)})

	w.srv.Policy(userName, "FixPassword", "yes")
	w.srv.Hub("UserCreate radius /GROUP:none /REALNAME:none /NOTE:none", "UserRadiusSet radius /ALIAS:none")
	for _, row := range []struct {
		name, user, old string
		code            int
		want            string
	}{
		{"one that is fixed", userName, old, exitRefused, "right to do this"},
		{"that of a user without one here", "radius", old, exitRefused, "does not log in by a password"},
		{"that of nobody", "nobody-here", old, exitRefused, "old password is wrong"},
	} {
		if code, log := passwd(row.user, "-pass-file", row.old, "-new-pass-file", next); code != row.code || !strings.Contains(log, row.want) {
			t.Errorf("change %s: exit %d with %q, want %d with %q", row.name, code, log, row.code, row.want)
		}
	}
	w.srv.Policy(userName, "FixPassword", "no")
	if code, log := passwd(userName, "-pass-file", next, "-new-pass-file", old); code != exitRefused || !strings.Contains(log, "old password is wrong") {
		t.Errorf("a wrong old password: exit %d with %q", code, log)
	}
	if code, log := passwd(userName, "-pass-file", old, "-new-pass-file", next); code != exitStopped || !strings.Contains(log, "is changed") {
		t.Fatalf("passwd: exit %d with %q", code, log)
	}
	getsIn(flags{"pass-file": next})
	getsIn(flags{"pass-hash-file": hash(next)})
	c := w.StartClient(usualFlags.with(flags{"pass": absent, "pass-file": old}))
	if got := c.ExitCode(shortly); got != exitRefused {
		t.Errorf("the old password: exit code %d, want %d", got, exitRefused)
	}
	checkLastWords(t, c.Log(), []string{"password"})
}
