package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

var (
	// ErrNoAddress means that no address is configured (yet), so nothing can be
	// sent. It also is syscall.ENETUNREACH.
	ErrNoAddress error = &stateError{"the tunnel has no address yet", syscall.ENETUNREACH}

	// ErrAddressChanged ends the connections bound to an address that Apply took
	// away. It also is syscall.ECONNABORTED.
	ErrAddressChanged error = &stateError{"the address of the tunnel changed", syscall.ECONNABORTED}

	errRunning = errors.New("netstack: run: another Run is active")
	errStack   = errors.New("unexpected stack error")
)

// stateError is an error of our own that callers may also test as a system error.
type stateError struct {
	text  string
	errno syscall.Errno
}

func (e *stateError) Error() string        { return e.text }
func (e *stateError) Is(target error) bool { return target == e.errno }

// stdError maps what gVisor returns onto the errors of the standard library.
func stdError(err tcpip.Error) error {
	switch err.(type) {
	case nil:
		return nil
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset:
		return syscall.ECONNRESET
	case *tcpip.ErrConnectionAborted, *tcpip.ErrAborted:
		return syscall.ECONNABORTED
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown:
		return syscall.EHOSTUNREACH
	case *tcpip.ErrNetworkUnreachable, *tcpip.ErrNoNet:
		return syscall.ENETUNREACH
	case *tcpip.ErrClosedForSend:
		return syscall.EPIPE
	case *tcpip.ErrClosedForReceive:
		return io.EOF
	case *tcpip.ErrPortInUse:
		return syscall.EADDRINUSE
	case *tcpip.ErrBadLocalAddress, *tcpip.ErrNoPortAvailable:
		return syscall.EADDRNOTAVAIL
	case *tcpip.ErrMessageTooLong:
		return syscall.EMSGSIZE
	case *tcpip.ErrNotConnected:
		return syscall.ENOTCONN
	case *tcpip.ErrNoBufferSpace:
		return syscall.ENOBUFS
	case *tcpip.ErrBroadcastDisabled, *tcpip.ErrNotPermitted:
		return syscall.EACCES
	}
	return &unknownError{err.String()}
}

// unknownError is a gVisor error without a counterpart.
type unknownError struct{ text string }

func (e *unknownError) Error() string { return e.text }
func (e *unknownError) Unwrap() error { return errStack }

// contextError turns the end of a context into what a dial returns.
func contextError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return ctx.Err()
}

// opError wraps err as the net package does; nil stays nil.
func opError(op, network string, src, dst net.Addr, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: network, Source: src, Addr: dst, Err: err}
}
