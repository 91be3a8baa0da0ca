package session

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"softether-go/pkg/wire"
)

// An Identity proves a user by a certificate.
type Identity struct {
	Certificate *x509.Certificate
	// Signer has the certificate's key, which is RSA: servers take no other. It is
	// used once for each login, from the goroutine that dials, and may block, as
	// tokens do.
	Signer crypto.Signer
}

// sign answers the server's challenge. (Cedar/Protocol.c, ClientUploadAuth;
// Mayaqua/Encrypt.c, RsaSignEx: PKCS #1 v1.5 with SHA-1)
func (id Identity) sign(challenge []byte) ([]byte, error) {
	sum := sha1.Sum(challenge)
	sign, err := id.Signer.Sign(rand.Reader, sum[:], crypto.SHA1)
	if err != nil {
		return nil, fmt.Errorf("sign with the user's key: %w", err)
	}
	return sign, nil
}

// authenticate puts into l what proves the user.
func (d *dialer) authenticate(l *wire.Login, challenge []byte) (err error) {
	l.Auth = d.Auth
	switch d.Auth {
	case wire.HashedPass:
		answer := wire.AnswerChallenge(d.passwordHash(), challenge)
		l.Secure = answer[:]
	case wire.PlainPassword:
		l.Plain = d.Password
	case wire.Certificate:
		if d.Identity == nil {
			return errors.New("there is no certificate to log in with")
		}
		l.Cert = d.Identity.Certificate.Raw
		l.Sign, err = d.Identity.sign(challenge)
	}
	return err
}

func (c Config) passwordHash() [wire.HashLen]byte {
	if c.PasswordHash != nil {
		return *c.PasswordHash
	}
	return wire.PasswordHash(c.User, c.Password)
}

// undecidedAfter is when a server that asks RADIUS about a plain password has had no
// answer: it gives up after 10 or 15 s, by its version, and says that the password is
// wrong (Cedar/Radius.h, RADIUS_RETRY_TIMEOUT). A verdict takes no longer than RADIUS's
// own punishment, of some seconds at most (FreeRADIUS: reject_delay, 1 s).
const undecidedAfter = 9 * time.Second

// explainRefusal adds to a refusal of the user what the kind of login, and how long it
// took, say about it. The server gives one code for every cause.
func (c Config) explainRefusal(err error, took time.Duration) error {
	var code wire.Code
	if !errors.As(err, &code) || code != wire.CodeAuthFailed {
		return err
	}
	switch {
	case c.Auth == wire.Certificate && c.Identity != nil:
		return &refusedLogin{code: code, text: c.Identity.whyRefused(c.User, time.Now())}
	case c.Auth == wire.PlainPassword && took >= undecidedAfter:
		return &refusedLogin{code: code, undecided: true, text: fmt.Sprintf("the server took %d s to refuse: its RADIUS or domain server does not answer, "+
			"which says nothing about the password", took/time.Second)}
	case c.Auth == wire.PlainPassword:
		return &refusedLogin{code: code, text: "user name or password is wrong, or the server could not ask RADIUS or the domain " +
			"about them; check -user and the password, or ask the server's administrator"}
	}
	return err
}

// refusedLogin is a server's verdict in words that fit the kind of login.
type refusedLogin struct {
	code      wire.Code
	text      string
	undecided bool // nobody has looked at the password
}

func (e *refusedLogin) Error() string { return fmt.Sprintf("%s (code %d)", e.text, uint32(e.code)) }

// Unwrap returns the code.
func (e *refusedLogin) Unwrap() error { return e.code }

// whyRefused says what is known of a certificate that was refused. The server's clock
// decides, so that ours alone refuses none.
func (id Identity) whyRefused(user string, now time.Time) string {
	c := id.Certificate
	sum := sha256.Sum256(c.Raw)
	name := fmt.Sprintf("the certificate of %q", clipName(c.Subject.String()))
	switch {
	case now.After(c.NotAfter):
		return fmt.Sprintf("%s expired on %s: get a new one, or correct this machine's clock and the server's", name, c.NotAfter.UTC().Format(time.DateTime))
	case now.Before(c.NotBefore):
		return fmt.Sprintf("%s is not valid before %s: correct this machine's clock, or wait", name, c.NotBefore.UTC().Format(time.DateTime))
	}
	return fmt.Sprintf("%s was not accepted for user %q: check -user, and have the server's administrator register it, SHA-256 %s, "+
		"or the authority that signed it (users with a password do not log in by -cert)", name, user, hex.EncodeToString(sum[:]))
}

// ChangePassword replaces the password of c.User, whose present one is c.Password or
// c.PasswordHash, by another. It blocks until the server has answered or ctx has
// ended. All errors are *Error; the old password being wrong, the user having none
// and the change being forbidden are Codes in them.
func ChangePassword(ctx context.Context, c Config, password string) error {
	d := newDialer(c.withDefaults())
	err := d.changePassword(ctx, password)
	d.close()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return &Error{Op: d.op, Server: d.server(), Err: err}
}

func (d *dialer) changePassword(ctx context.Context, password string) error {
	if err := d.connect(ctx); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { d.raw.Close() })
	defer stop()
	if err := d.handshake(ctx); err != nil {
		return err
	}
	hello, err := d.hello()
	if err != nil {
		return plainEnd(err)
	}
	d.begin(OpPassword)
	change := wire.PasswordChange{
		Hub: d.Hub, User: d.User,
		Old: wire.AnswerChallenge(d.passwordHash(), hello.Random),
		New: wire.PasswordHash(d.User, password), NewNT: wire.NTHash(password),
	}
	p := change.Pack()
	p.SetData("pencore", padding())
	reply, err := d.ask(p, stepTimeout)
	if err != nil {
		return plainEnd(err)
	}
	if code := wire.Code(reply.Int("error")); code != 0 {
		return code
	}
	return nil
}
