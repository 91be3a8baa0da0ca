package binding

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// failing is a listener that fails n times, then accepts nothing but takes no time for it.
type failing struct {
	net.Listener
	n   int
	err error
}

func (l *failing) Accept() (net.Conn, error) {
	if l.n--; l.n >= 0 {
		return nil, l.err
	}
	return nil, nil
}

func (l *failing) Close() error { return nil }

func TestFailuresToAcceptAreWaitedOut(t *testing.T) {
	for _, cause := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, errors.New("odd")} {
		synctest.Test(t, func(t *testing.T) {
			told := 0
			p := NewPatient(&failing{n: 20, err: cause}, func(_ time.Duration, err error) {
				if told++; err != cause {
					t.Errorf("told of %v, want %v", err, cause)
				}
			})
			// 5, 10, … 640 ms, then a second each; and the second time nothing is wrong.
			for _, want := range []time.Duration{1275*time.Millisecond + 12*time.Second, 0} {
				begun := time.Now()
				if _, err := p.Accept(); err != nil {
					t.Fatalf("%v: %v", cause, err)
				}
				if got := time.Since(begun); got != want {
					t.Errorf("%v: paused for %v in all, want %v", cause, got, want)
				}
			}
			if told != 20 {
				t.Errorf("%v: told of %d pauses, want 20", cause, told)
			}
		})
	}
}

func TestCloseEndsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPatient(&failing{n: 1 << 20, err: syscall.EMFILE}, func(time.Duration, error) {})
		begun := time.Now()
		time.AfterFunc(time.Minute, func() { p.Close() })
		if _, err := p.Accept(); err != net.ErrClosed {
			t.Errorf("got %v, want %v", err, net.ErrClosed)
		}
		if d := time.Since(begun); d != time.Minute {
			t.Errorf("ended after %v", d)
		}
		p.Close()
		if _, err := p.Accept(); err != net.ErrClosed {
			t.Errorf("after Close: got %v", err)
		}
	})
}
