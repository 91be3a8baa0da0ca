package main

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"softether-go/pkg/config"
	"softether-go/pkg/credential"
	"softether-go/pkg/session"
	"softether-go/pkg/wire"
)

// login translates the settings about the user.
func login(sc *session.Config, a config.Auth, log *slog.Logger) error {
	switch a.Method {
	case config.HashedPassword:
		sc.Auth = wire.HashedPass
	case config.PlainPassword:
		sc.Auth = wire.PlainPassword
	case config.Anonymous:
		sc.Auth = wire.Anonymous
	case config.ByCertificate:
		id, err := identity(a)
		if err != nil {
			return usageError{err}
		}
		sc.Auth = wire.Certificate
		sc.Identity = &session.Identity{Certificate: id.Certificate, Signer: id.Signer}
		warnOfDates(id.Certificate, time.Now(), log)
	}
	if a.Hash.IsSet() {
		var hash [wire.HashLen]byte
		if _, err := hex.Decode(hash[:], []byte(a.Hash.Reveal())); err != nil {
			return usageError{errors.New("-pass-hash: is no hash")} // config has checked it
		}
		sc.PasswordHash = &hash
	}
	return nil
}

// soon is when to see to a new certificate.
const soon = 14 * 24 * time.Hour

// warnOfDates speaks of a certificate that the server will refuse, now or soon. It is
// for the server to refuse it: our clock may be the wrong one.
func warnOfDates(c *x509.Certificate, now time.Time, log *slog.Logger) {
	end := c.NotAfter.UTC().Format(time.DateTime)
	switch {
	case now.After(c.NotAfter):
		log.Warn("the user's certificate has expired: get a new one, or correct this machine's clock", "on", end)
	case now.Before(c.NotBefore):
		log.Warn("the user's certificate is not valid yet: correct this machine's clock, or wait", "until", c.NotBefore.UTC().Format(time.DateTime))
	case c.NotAfter.Sub(now) < soon:
		log.Warn("the user's certificate expires soon: get a new one", "on", end)
	}
}

// identity reads the user's certificate and key. Its errors name the flag.
func identity(a config.Auth) (credential.Identity, error) {
	passphrase := a.KeyPassword.Reveal()
	switch {
	case a.Token.Module != "":
		return tokenIdentity(a)
	case a.PKCS12File != "":
		b, err := readLimited(a.PKCS12File)
		if err != nil {
			return credential.Identity{}, fmt.Errorf("-p12: %w", err)
		}
		id, err := credential.FromPKCS12(b, passphrase)
		return id, explainIdentity("-p12: "+a.PKCS12File, err)
	case a.Inline.IsSet():
		text := []byte(a.Inline.Reveal())
		id, err := credential.FromPEM(text, text, passphrase)
		return id, explainIdentity("-account", err)
	}
	cert, err := readLimited(a.CertFile)
	if err != nil {
		return credential.Identity{}, fmt.Errorf("-cert: %w", err)
	}
	key, err := readLimited(a.KeyFile)
	if err != nil {
		return credential.Identity{}, fmt.Errorf("-key: %w", err)
	}
	id, err := credential.FromPEM(cert, key, passphrase)
	return id, explainIdentity(fmt.Sprintf("-cert %s, -key %s", a.CertFile, a.KeyFile), err)
}

// tokenIdentity opens the user's token.
func tokenIdentity(a config.Auth) (credential.Identity, error) {
	var cert []byte
	if a.CertFile != "" {
		var err error
		if cert, err = readLimited(a.CertFile); err != nil {
			return credential.Identity{}, fmt.Errorf("-cert: %w", err)
		}
	}
	id, err := credential.FromToken(credential.Token{
		Module: a.Token.Module, Label: a.Token.Label, Object: a.Token.Object, PIN: a.KeyPassword.Reveal(),
	}, cert)
	return id, explainIdentity("-pkcs11-module", err)
}

func explainIdentity(where string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, credential.ErrPassphrase):
		return fmt.Errorf("%s: %w: -key-password-file FILE, SOFTETHER_KEY_PASSWORD, or run on a terminal to be asked", where, err)
	}
	return fmt.Errorf("%s: %w", where, err)
}

func readLimited(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case info.Size() > credential.MaxFile:
		return nil, fmt.Errorf("%s is longer than %d bytes: it is no certificate or key", path, credential.MaxFile)
	}
	return os.ReadFile(path)
}

// askPassphrase asks for the passphrase of a key that turns out to be encrypted, if
// nobody has said one. Other troubles with the key are for later.
func (t terminal) askPassphrase(cfg *config.Config) error {
	a := &cfg.Auth
	if a.Method != config.ByCertificate || a.KeyPassword.IsSet() {
		return nil
	}
	if _, err := identity(*a); !errors.Is(err, credential.ErrPassphrase) {
		return nil
	}
	word, err := t.askPassword(fmt.Sprintf("Passphrase of the private key of %s: ", a.User))
	if err != nil {
		return fmt.Errorf("ask for the passphrase: %w", err)
	}
	a.KeyPassword = config.NewSecret(word)
	return nil
}

// knownServers returns the servers that are trusted since their first use, or nil.
func knownServers(path string, log *slog.Logger) *session.KnownServers {
	if path == "" {
		return nil
	}
	return &session.KnownServers{Path: path, Log: log}
}
