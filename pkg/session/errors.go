package session

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"softether-go/pkg/wire"
)

// Op names the step at which a session stopped.
type Op string

const (
	OpConnect Op = "connect to"
	OpTLS     Op = "secure the connection to"
	OpHello   Op = "greet"
	OpLogin   Op = "log in to"
	OpJoin    Op = "join the session on"
	OpCarry   Op = "session with"

	OpPassword Op = "change the password on"
)

// Error is why a session did not come about or ended. Err may hold a wire.Code
// (the server's own reason), an *UntrustedError, ErrEnded, ErrSilent,
// wire.ErrNotVPN or an error of the network. One whose method Permanent says true
// is for good.
type Error struct {
	Op     Op
	Server string // host:port
	Err    error
}

func (e *Error) Error() string { return string(e.Op) + " " + e.Server + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Advice says whether another attempt makes sense.
func (e *Error) Advice() wire.Advice {
	var code wire.Code
	var refused *refusedLogin
	var untrusted *UntrustedError
	var notTLS tls.RecordHeaderError
	var way interface{ Permanent() bool } // of DialContext
	switch {
	case errors.As(e.Err, &refused) && refused.undecided:
		return wire.Wait
	case errors.As(e.Err, &code):
		return code.Advice()
	case errors.As(e.Err, &untrusted), errors.As(e.Err, &notTLS),
		errors.Is(e.Err, wire.ErrNotVPN), errors.Is(e.Err, errUnencrypted),
		errors.As(e.Err, &way) && way.Permanent():
		return wire.Never
	}
	return wire.Retry
}

var (
	// ErrEnded says that the server closed the session: the administrator
	// disconnected it, the hub went offline, the server stopped. It never says which.
	ErrEnded = errors.New("the server ended the session")

	// ErrSilent says that nothing was heard from the server, or nothing taken by
	// it, for the session's time-out.
	ErrSilent = errors.New("the server is silent")

	errTicket       = errors.New("the cluster's member does not know the ticket that its controller gave us")
	errRedirectLoop = errors.New("the cluster sends us in circles")

	errUnencrypted = errors.New("the server wants to go on without encryption")

	errTimeout = os.ErrDeadlineExceeded
)

// endOf says what an error of the connection means for the session.
func endOf(err error, timeout time.Duration) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ErrEnded
	case errors.Is(err, errTimeout):
		return fmt.Errorf("%w for %v", ErrSilent, timeout)
	}
	return fmt.Errorf("the connection broke: %w", err)
}
