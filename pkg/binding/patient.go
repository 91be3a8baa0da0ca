package binding

import (
	"errors"
	"net"
	"sync"
	"time"
)

// Pauses after a failed accept, as a lack of descriptors does not go away at once.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// A Patient is a listener that no failure ends but its own Close. Its methods may be
// called from several goroutines, but there is one Accept at a time.
type Patient struct {
	net.Listener
	paused func(time.Duration, error)
	once   sync.Once
	closed chan struct{}
}

// NewPatient makes one of ln. It calls paused before each pause, with its length and why.
func NewPatient(ln net.Listener, paused func(d time.Duration, cause error)) *Patient {
	return &Patient{Listener: ln, paused: paused, closed: make(chan struct{})}
}

// Accept waits for the next connection, and after a failure pauses, longer each time. Its
// only error is net.ErrClosed.
func (p *Patient) Accept() (net.Conn, error) {
	for pause := minAcceptPause; ; pause = min(2*pause, maxAcceptPause) {
		c, err := p.Listener.Accept()
		if err == nil {
			return c, nil
		}
		if errors.Is(err, net.ErrClosed) || !p.pause(pause, err) {
			return nil, net.ErrClosed
		}
	}
}

// pause waits, and reports whether to go on.
func (p *Patient) pause(d time.Duration, cause error) bool {
	select {
	case <-p.closed: // which is the cause
		return false
	default:
	}
	p.paused(d, cause)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.closed:
		return false
	case <-t.C:
		return true
	}
}

// Close ends accepting, also in a pause. Connections that were accepted stay.
func (p *Patient) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Listener.Close()
}
