package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
)

// Auth is the one user who may use a proxy. It keeps digests, not the password,
// and prints as redacted.
type Auth struct {
	user, password [sha256.Size]byte
}

// maxCredential is the longest user name or password RFC 1929 can carry.
const maxCredential = 255

// NewAuth returns the Auth for a user and a password, which both proxies must be
// able to carry: 1 to 255 bytes each (RFC 1929), no colon in the user (RFC 7617).
func NewAuth(user, password string) (*Auth, error) {
	switch {
	case user == "" || password == "":
		return nil, errors.New("proxy user and password: both are needed")
	case len(user) > maxCredential || len(password) > maxCredential:
		return nil, fmt.Errorf("proxy user and password: at most %d bytes each", maxCredential)
	case strings.Contains(user, ":"):
		return nil, errors.New("proxy user: a colon is not allowed, HTTP ends the user name there")
	}
	return &Auth{user: sha256.Sum256([]byte(user)), password: sha256.Sum256([]byte(password))}, nil
}

// permits compares in a time that depends on the lengths given alone. Digests make
// the lengths compared equal, and both are always compared.
func (a *Auth) permits(user, password []byte) bool {
	u, p := sha256.Sum256(user), sha256.Sum256(password)
	return subtle.ConstantTimeCompare(u[:], a.user[:])&subtle.ConstantTimeCompare(p[:], a.password[:]) == 1
}

// String hides the credentials.
func (a *Auth) String() string { return "[redacted]" }

// GoString hides the credentials.
func (a *Auth) GoString() string { return "[redacted]" }
