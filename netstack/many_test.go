package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// serve hands what l accepts to handle, until the test ends.
func serve(t *testing.T, l net.Listener, handle func(net.Conn)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			all.Go(func() {
				defer stop()
				handle(c)
				_ = c.Close()
			})
		}
	})
}

// echo sends back what comes.
func echo(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

// flood sends without end.
func flood(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, zeros{}) }

// talks reports whether a byte comes back.
func talks(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b := []byte{7}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

func TestPortsThatRunOut(t *testing.T) {
	a, b := pair(t)
	serve(t, listen(t, b, "0.0.0.0:7"), echo)
	const ports = 20
	if err := a.ns.SetPortRange(40000, 40000+ports-1); err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	for range ports {
		held = append(held, dial(t, a, "tcp", "10.0.0.2:7"))
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := a.DialContext(ctx, "tcp", "10.0.0.2:7")
		cancel()
		if !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Fatalf("one more than there are ports: got %v, want %v", err, syscall.EADDRNOTAVAIL)
		}
	}
	if n := a.Stats().TCPNoPort; n != 3 {
		t.Errorf("%d dials without a port are counted, want 3", n)
	}
	for i, c := range held {
		if err := talks(c); err != nil {
			t.Errorf("connection %d does not talk any more: %v", i, err)
		}
	}
	// A reset leaves no port to wait out its time.
	_ = held[0].(*conn).SetLinger(0)
	_ = held[0].Close()
	if err := talks(dial(t, a, "tcp", "10.0.0.2:7")); err != nil {
		t.Errorf("with a port given back: %v", err)
	}
}

// A peer that has gone without a word, its machine off or its address another's now, is
// found out by keep-alives, and nobody else waits for it.
func TestAPeerThatVanishesIsGivenUp(t *testing.T) {
	a, b := newStack(t, macA), newStack(t, macB)
	// No shorter: gVisor answers two such questions a second.
	a.patience = patience{idle: 600 * time.Millisecond, interval: 600 * time.Millisecond, count: 2}
	apply(t, a, prefix("10.0.0.1/24"))
	apply(t, b, prefix("10.0.0.2/24"))
	cut := join(t, a, b)
	serve(t, listen(t, b, "0.0.0.0:7"), echo)
	var gone []net.Conn
	for range 50 {
		gone = append(gone, dial(t, a, "tcp", "10.0.0.2:7"))
	}
	time.Sleep(2500 * time.Millisecond) // longer than the patience, but there are answers
	for i, c := range gone {
		if err := talks(c); err != nil {
			t.Fatalf("connection %d, idle: %v", i, err)
		}
		_ = c.SetDeadline(time.Time{})
	}
	cut()
	other := newStack(t, macC)
	apply(t, other, prefix("10.0.0.3/24"))
	join(t, a, other)
	serve(t, listen(t, other, "0.0.0.0:7"), echo)
	if err := talks(dial(t, a, "tcp", "10.0.0.3:7")); err != nil {
		t.Errorf("another peer meanwhile: %v", err)
	}
	for i, c := range gone {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("connection %d: got %v, want %v", i, err, syscall.ETIMEDOUT)
		}
	}
	waitFor(t, "the end of all but the other's", a, func(s Stats) bool { return s.TCPEstablished == 1 && s.TCPTimedOut == uint64(len(gone)) })
}

// Readers that stop reading hold up their own peers, nobody else.
func TestSlowReadersHoldUpNobodyElse(t *testing.T) {
	a, b := pair(t)
	serve(t, listen(t, b, "0.0.0.0:19"), flood)
	serve(t, listen(t, b, "0.0.0.0:7"), echo)
	const slow = 30
	for range slow {
		dial(t, a, "tcp", "10.0.0.2:19") // and never read
	}
	time.Sleep(time.Second) // until their windows are shut
	begun := time.Now()
	fast := dial(t, a, "tcp", "10.0.0.2:19")
	_ = fast.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.CopyN(io.Discard, struct{ io.Reader }{fast}, 8<<20); err != nil {
		t.Errorf("a download beside %d that are not read: %v after %v", slow, err, time.Since(begun))
	}
	for range 20 {
		if err := talks(dial(t, a, "tcp", "10.0.0.2:7")); err != nil {
			t.Errorf("a question beside %d that are not read: %v", slow, err)
		}
	}
}
