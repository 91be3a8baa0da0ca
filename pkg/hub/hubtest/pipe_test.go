package hubtest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPipeBuffersAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		a.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := a.Write(make([]byte, window+1))
		if n != window || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote %d bytes with %v", n, err)
		}
		a.SetWriteDeadline(time.Time{})
		got := make([]byte, window)
		if n, err := io.ReadFull(b, got); n != window || err != nil {
			t.Errorf("read %d bytes with %v", n, err)
		}
		if _, err := a.Write([]byte("there is room again")); err != nil {
			t.Error(err)
		}
		a.Close()
		b.Close()
	})
}

func TestDeadlinesOfAPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		start := time.Now()
		a.SetDeadline(start.Add(time.Minute))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("read ended after %v with %v", time.Since(start), err)
		}
		// A new deadline in the past wakes who waits already.
		a.SetDeadline(time.Time{})
		time.AfterFunc(time.Second, func() { a.SetReadDeadline(time.Unix(1, 0)) })
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read ended with %v", err)
		}
		a.Close()
		b.Close()
	})
}

func TestTheEndsOfAPipe(t *testing.T) {
	a, b := Pipe()
	a.Write([]byte("last words"))
	a.(interface{ CloseWrite() error }).CloseWrite()
	if _, err := a.Write([]byte("more")); err == nil {
		t.Error("wrote after the end")
	}
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, []byte("last words")) {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := b.Write([]byte("an answer all the same")); err != nil {
		t.Error(err)
	}
	a.Close()
	if _, err := b.Write([]byte("to nobody")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("wrote to nobody: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read from what is closed: %v", err)
	}
	b.Close()
}
