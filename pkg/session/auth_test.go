package session

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/pack"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

// userKey is made once: RSA keys take their time.
var userKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// identity makes a user's certificate that is valid between two dates.
func identity(t testing.TB, from, to time.Time) *Identity {
	t.Helper()
	key, err := userKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bob"}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Identity{Certificate: c, Signer: key}
}

var longAgo, farAhead = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)

func TestACertificateLoginSignsTheChallenge(t *testing.T) {
	var login *pack.Pack
	cfg := server(t, func(p *peer) {
		login = p.Greet()
		p.Reply(sessiontest.Welcome().Pack())
		p.Discard()
	})
	cfg.Auth, cfg.Password, cfg.Identity = wire.Certificate, "", identity(t, longAgo, farAhead)
	dial(t, cfg)
	if got := login.Int("authtype"); got != 3 {
		t.Errorf("authtype %d, want 3", got)
	}
	if string(login.Data("cert")) != string(cfg.Identity.Certificate.Raw) {
		t.Errorf("another certificate was sent")
	}
	sum := sha1.Sum(sessiontest.Challenge)
	if err := rsa.VerifyPKCS1v15(cfg.Identity.Certificate.PublicKey.(*rsa.PublicKey), crypto.SHA1, sum[:], login.Data("sign")); err != nil {
		t.Errorf("signature: %v", err)
	}
}

func TestAStoredHashLogsInAsItsPassword(t *testing.T) {
	var login *pack.Pack
	cfg := server(t, func(p *peer) {
		login = p.Greet()
		p.Reply(sessiontest.Welcome().Pack())
		p.Discard()
	})
	hash := wire.PasswordHash("bob", "secret")
	cfg.Password, cfg.PasswordHash = "", &hash
	dial(t, cfg)
	want := wire.AnswerChallenge(hash, sessiontest.Challenge)
	if got := login.Data("secure_password"); string(got) != string(want[:]) {
		t.Errorf("secure_password %x, want %x", got, want)
	}
}

// A token is a signer that may fail.
type token struct{ crypto.Signer }

func (token) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the token is not plugged in")
}

func TestRefusedLoginsSayWhatTheirKindCanTell(t *testing.T) {
	valid := identity(t, longAgo, farAhead)
	for _, row := range []struct {
		name     string
		auth     wire.AuthType
		identity *Identity
		want     string
		code     bool
	}{
		{"a valid certificate", wire.Certificate, valid, `"CN=bob" was not accepted for user "bob"`, true},
		{"an expired one", wire.Certificate, identity(t, longAgo, longAgo.AddDate(1, 0, 0)), "expired on 1991-01-01 00:00:00: get a new one", true},
		{"one of the future", wire.Certificate, identity(t, farAhead, farAhead.AddDate(1, 0, 0)), "not valid before 2090-01-01", true},
		{"no certificate", wire.Certificate, nil, "no certificate to log in with", false},
		{"a signer that fails", wire.Certificate, &Identity{valid.Certificate, token{valid.Signer}}, "the token is not plugged in", false},
		{"a plain password", wire.PlainPassword, nil, "RADIUS", true},
		{"a hashed password", wire.HashedPass, nil, "need -plain-password", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := server(t, func(p *peer) { p.Greet(); p.Reply(wire.Refusal(wire.CodeAuthFailed)) })
			cfg.Auth, cfg.Identity = row.auth, row.identity
			_, err := Dial(t.Context(), cfg)
			if !contains(err, row.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v, want one with %q and no secret", err, row.want)
			}
			var e *Error
			if refused := errors.Is(err, wire.CodeAuthFailed); refused != row.code || !errors.As(err, &e) || refused && e.Advice() != wire.Never {
				t.Errorf("%v: refused by the server: %v, want %v", err, refused, row.code)
			}
		})
	}
}

func TestAServerThatCannotAskIsToldFromAWrongPassword(t *testing.T) {
	for _, row := range []struct {
		auth   wire.AuthType
		took   time.Duration
		advice wire.Advice
		want   string
	}{
		{wire.PlainPassword, 0, wire.Never, "password is wrong"},
		{wire.PlainPassword, 5 * time.Second, wire.Never, "password is wrong"},
		{wire.PlainPassword, 10 * time.Second, wire.Wait, "took 10 s to refuse: its RADIUS or domain server does not answer"},
		{wire.PlainPassword, 15 * time.Second, wire.Wait, "took 15 s to refuse"},
		{wire.HashedPass, 15 * time.Second, wire.Never, "password is wrong"},
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg := server(t, func(p *peer) { p.Greet(); time.Sleep(row.took); p.Reply(wire.Refusal(wire.CodeAuthFailed)) })
			cfg.Auth = row.auth
			_, err := Dial(t.Context(), cfg)
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, wire.CodeAuthFailed) || e.Advice() != row.advice || !contains(err, row.want) {
				t.Errorf("refused after %v: %v; want %q", row.took, err, row.want)
			}
		})
	}
}

func TestAPasswordIsChanged(t *testing.T) {
	var change *pack.Pack
	cfg := server(t, func(p *peer) {
		change = p.Greet()
		p.Reply(wire.Refusal(0))
		p.Discard()
	})
	if err := ChangePassword(t.Context(), cfg, "n3w"); err != nil {
		t.Fatal(err)
	}
	old := wire.AnswerChallenge(wire.PasswordHash("bob", "secret"), sessiontest.Challenge)
	hash, nt := wire.PasswordHash("bob", "n3w"), wire.NTHash("n3w")
	for name, want := range map[string][]byte{"secure_old_password": old[:], "new_password": hash[:], "new_password_ntlm": nt[:]} {
		if got := change.Data(name); string(got) != string(want) {
			t.Errorf("%s: got %x, want %x", name, got, want)
		}
	}
	if change.Str("method") != wire.MethodPassword || change.Str("username") != "bob" {
		t.Errorf("method %q, user %q", change.Str("method"), change.Str("username"))
	}
}

func TestAPasswordThatCannotBeChanged(t *testing.T) {
	for _, row := range []struct {
		name   string
		script func(*peer)
		want   string
	}{
		{"the old one is wrong", func(p *peer) { p.Greet(); p.Reply(wire.Refusal(69)) }, "old password is wrong"},
		{"a user without one", func(p *peer) { p.Greet(); p.Reply(wire.Refusal(68)) }, "does not log in by a password"},
		{"forbidden", func(p *peer) { p.Greet(); p.Reply(wire.Refusal(52)) }, "lacks the right"},
		{"the server goes away", func(p *peer) { p.Greet() }, "ended the connection"},
		{"a web server", func(p *peer) { p.Request(); io.WriteString(p, "HTTP/1.1 404 Not Found\r\n\r\n"); p.Discard() }, "404"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := ChangePassword(t.Context(), server(t, row.script), "n3w")
			var e *Error
			if !errors.As(err, &e) || !contains(err, row.want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "n3w") {
				t.Errorf("got %v, want an *Error with %q and no secret", err, row.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := ChangePassword(ctx, server(t, func(p *peer) { p.Greet(); p.Discard() }), "n3w")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v after its context ended", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		err := ChangePassword(t.Context(), server(t, func(p *peer) { p.Greet(); p.Discard() }), "n3w")
		if err == nil || time.Since(begun) > stepTimeout {
			t.Errorf("gave up after %v with %v, want at most %v", time.Since(begun), err, stepTimeout)
		}
	})
}
