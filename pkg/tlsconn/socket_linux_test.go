package tlsconn

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sockets is a socket and the other end of its connection.
func sockets(t *testing.T) (s *socket, far *net.TCPConn) {
	t.Helper()
	near, other := loopback(t)
	t.Cleanup(func() { near.Close(); other.Close() })
	return bulk(near).(*socket), other.(*net.TCPConn)
}

func TestASocketFailsAsAConnectionDoes(t *testing.T) {
	b := make([]byte, 10)
	for _, row := range []struct {
		name   string
		before func(s *socket, far *net.TCPConn)
		do     func(s *socket) error
		want   error
	}{
		{"an end", func(_ *socket, far *net.TCPConn) { far.Close() }, func(s *socket) error { _, err := s.Read(b); return err }, io.EOF},
		{"a reset", func(_ *socket, far *net.TCPConn) { far.SetLinger(0); far.Close() }, func(s *socket) error { _, err := s.Read(b); return err }, syscall.ECONNRESET},
		{"a deadline for reading", func(s *socket, _ *net.TCPConn) { s.SetReadDeadline(time.Now().Add(time.Millisecond)) },
			func(s *socket) error { _, err := s.Read(b); return err }, os.ErrDeadlineExceeded},
		{"a deadline for writing, amid it", func(s *socket, far *net.TCPConn) {
			go func() {
				far.Read(make([]byte, 1))
				s.SetWriteDeadline(time.Unix(1, 0))
			}()
		}, func(s *socket) error {
			n, err := s.Write(make([]byte, 64<<20))
			if n == 0 || n == 64<<20 {
				t.Errorf("%d bytes written until the deadline", n)
			}
			return err
		}, os.ErrDeadlineExceeded},
		{"closed", func(s *socket, _ *net.TCPConn) { s.Close() }, func(s *socket) error { _, err := s.Read(b); return err }, net.ErrClosed},
		{"closed while it waits", func(s *socket, _ *net.TCPConn) { time.AfterFunc(10*time.Millisecond, func() { s.Close() }) },
			func(s *socket) error { _, err := s.Read(b); return err }, net.ErrClosed},
		{"written after a reset", func(s *socket, far *net.TCPConn) { far.SetLinger(0); far.Close(); s.Read(b) },
			func(s *socket) error { _, err := s.Write(b); return err }, syscall.EPIPE},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, far := sockets(t)
			row.before(s, far)
			err := row.do(s)
			if !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
			var op *net.OpError
			if row.want != io.EOF && !errors.As(err, &op) {
				t.Errorf("got %T, want a *net.OpError", err)
			}
		})
	}
}

func TestASocketWritesAllThoughTheOtherEndIsSlow(t *testing.T) {
	s, far := sockets(t)
	const total = 16 << 20
	go func() {
		s.Write(make([]byte, total))
		s.Close()
	}()
	time.Sleep(20 * time.Millisecond)
	if n, err := io.Copy(io.Discard, far); n != total || err != nil {
		t.Errorf("%d bytes of %d arrived: %v", n, total, err)
	}
}

// least returns how many bytes must wait for the poller to say so.
func (s *socket) leastNow(t *testing.T) (n int) {
	t.Helper()
	var err error
	if e := s.raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return n
}

func TestABusyStreamGathers(t *testing.T) {
	s, far := sockets(t)
	stop := make(chan struct{})
	go func() {
		defer far.CloseWrite()
		for {
			select {
			case <-stop:
				return
			default:
				far.Write(make([]byte, 16<<10))
			}
		}
	}()
	b := make([]byte, bufferLen)
	for begun := time.Now(); s.leastNow(t) == 1; {
		if _, err := s.Read(b); err != nil {
			t.Fatal(err)
		}
		if time.Since(begun) > 10*time.Second {
			t.Fatal("a stream at full speed is not waited for")
		}
	}
	if n := s.leastNow(t); n < leastGathered || n > mostGathered {
		t.Errorf("%d bytes must wait", n)
	}
	close(stop)
	for {
		if _, err := s.Read(b); err == io.EOF {
			return // though less than what must wait may have
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// What little comes after much is not kept from the reader.
func TestTheLastBytesAreNotWaitedFor(t *testing.T) {
	s, far := sockets(t)
	s.gatherer.want(mostGathered)
	s.gatherer.timer.Reset(gatherLimit)
	begun := time.Now()
	if _, err := far.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	s.SetReadDeadline(begun.Add(10 * time.Second))
	if n, err := s.Read(b); err != nil || string(b[:n]) != "last" {
		t.Fatalf("read %q, %v after %v", b[:n], err, time.Since(begun))
	}
	time.Sleep(2 * gatherLimit)
	if n := s.leastNow(t); n != 1 {
		t.Errorf("in silence %d bytes must wait, want 1", n)
	}
}

func TestASlowStreamIsReadAtOnce(t *testing.T) {
	s, far := sockets(t)
	b := make([]byte, 2000)
	for range 50 {
		far.Write(make([]byte, 1000))
		if _, err := s.Read(b); err != nil {
			t.Fatal(err)
		}
		if n := s.leastNow(t); n != 1 {
			t.Fatalf("at a megabyte a second at most, %d bytes must wait", n)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestASocketDoesNotAllocate(t *testing.T) {
	s, far := sockets(t)
	b := make([]byte, bufferLen)
	if a := testing.AllocsPerRun(100, func() {
		s.Write(b[:1000])
		for n := 0; n < 1000; {
			m, err := far.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		far.Write(b[:1000])
		s.Read(b)
	}); a > 0 {
		t.Errorf("%v allocations for 1000 bytes each way", a)
	}
}
