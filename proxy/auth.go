package proxy

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// An Auth tells who may use a proxy.
type Auth interface {
	// Login returns the user whom a name and a password belong to, or nil if there is
	// none. It is called from many goroutines, may take as long as the hash of a
	// password does, and keeps neither slice. It returns soon after ctx has ended.
	Login(ctx context.Context, name, password []byte) User
}

// A User is somebody who has logged in, and what that one may do. Users that are equal
// (==) are the same. The methods are called from many goroutines and do not wait.
type User interface {
	// String is the name, as it is logged and as UserOf gives it to a Dialer.
	String() string

	// Permits returns nil if the user may reach the port of a host, or why not. host is
	// the name that the client gave, empty if it gave an address. addr is the host's;
	// it is invalid when the name is not resolved yet, and nil means then that it may be.
	Permits(host string, addr netip.Addr, port uint16) error

	// Enter counts a connection or a request in, and leave, to be called once, counts
	// it out. cut ends it; it is called when the user may no longer be here. An error
	// says which limit is reached.
	Enter(cut func()) (leave func(), err error)

	// Limit returns a connection to a target as fast as the user may be, such as c
	// itself. It has the methods that a Dialer's connection has to have.
	Limit(c net.Conn) net.Conn

	// MaySend and MayReceive report whether datagrams of n bytes, to targets or from them,
	// are within the rate that the user may have, and count them if so. Others are
	// dropped: datagrams that wait are worth little.
	MaySend(n int) bool
	MayReceive(n int) bool
}

// maxCredential is the longest user name or password RFC 1929 can carry.
const maxCredential = 255

// NewAuth returns an Auth for one user and a password, which both proxies must be
// able to carry: 1 to 255 bytes each (RFC 1929), no colon in the user (RFC 7617).
// The user may do everything.
func NewAuth(user, password string) (Auth, error) {
	switch {
	case user == "" || password == "":
		return nil, errors.New("proxy user and password: both are needed")
	case len(user) > maxCredential || len(password) > maxCredential:
		return nil, fmt.Errorf("proxy user and password: at most %d bytes each", maxCredential)
	case strings.Contains(user, ":"):
		return nil, errors.New("proxy user: a colon is not allowed, HTTP ends the user name there")
	}
	return &single{sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password)), anyTarget(user)}, nil
}

// single is an Auth of one user. It keeps digests, not the password, and prints as
// redacted.
type single struct {
	user, password [sha256.Size]byte
	who            anyTarget
}

// Login compares in a time that depends on the lengths given alone. Digests make
// the lengths compared equal, and both are always compared.
func (a *single) Login(_ context.Context, user, password []byte) User {
	u, p := sha256.Sum256(user), sha256.Sum256(password)
	if subtle.ConstantTimeCompare(u[:], a.user[:])&subtle.ConstantTimeCompare(p[:], a.password[:]) != 1 {
		return nil
	}
	return a.who
}

// String hides the credentials.
func (a *single) String() string { return "[redacted]" }

// GoString hides the credentials.
func (a *single) GoString() string { return "[redacted]" }

// anyTarget is the name of a user without rules and limits.
type anyTarget string

func (u anyTarget) String() string                         { return string(u) }
func (anyTarget) Permits(string, netip.Addr, uint16) error { return nil }
func (anyTarget) Enter(func()) (leave func(), err error)   { return func() {}, nil }
func (anyTarget) Limit(c net.Conn) net.Conn                { return c }
func (anyTarget) MaySend(int) bool                         { return true }
func (anyTarget) MayReceive(int) bool                      { return true }
