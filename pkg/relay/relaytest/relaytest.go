// Package relaytest has connections in memory for tests of relays: closed by halves,
// reset, and with no time of their own, so that virtual time goes on beside them.
package relaytest

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// A Conn is one end of a connection in memory that can be closed by halves and
// reset.
type Conn struct {
	net.Conn          // reads
	out      net.Conn // writes
	linger0  atomic.Bool
	peer     *Conn
	wasReset atomic.Bool // by the peer
}

// Pipe returns both ends of a connection.
func Pipe() (a, b *Conn) {
	ar, bw := net.Pipe()
	br, aw := net.Pipe()
	a, b = &Conn{Conn: ar, out: aw}, &Conn{Conn: br, out: bw}
	a.peer, b.peer = b, a
	return a, b
}

// ErrReset is what a reset peer reads, once it has read what came before.
var ErrReset = &net.OpError{Op: "read", Net: "memory", Err: errors.New("connection reset")}

// Read reads from the peer.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF && c.wasReset.Load() {
		err = ErrReset
	}
	return n, err
}

// Write writes to the peer, which has read it all when it returns.
func (c *Conn) Write(p []byte) (int, error) { return c.out.Write(p) }

// CloseWrite ends what the peer reads.
func (c *Conn) CloseWrite() error { return c.out.Close() }

// SetLinger with 0 makes Close a reset.
func (c *Conn) SetLinger(sec int) error {
	c.linger0.Store(sec == 0)
	return nil
}

// Close ends both directions.
func (c *Conn) Close() error {
	if c.linger0.Load() {
		c.peer.wasReset.Store(true)
	}
	return errors.Join(c.out.Close(), c.Conn.Close())
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(d time.Time) error {
	return errors.Join(c.Conn.SetReadDeadline(d), c.out.SetWriteDeadline(d))
}

// SetWriteDeadline sets that of writes.
func (c *Conn) SetWriteDeadline(d time.Time) error { return c.out.SetWriteDeadline(d) }

// Expect reads len(want) bytes, which must be want.
func Expect(t testing.TB, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	n, err := io.ReadFull(r, b)
	if err != nil {
		t.Fatalf("read: got %q and %v, want %q", b[:n], err, want)
	}
	if string(b) != want {
		t.Fatalf("read: got %q, want %q", b, want)
	}
}

// ExpectEOF reads the end.
func ExpectEOF(t testing.TB, r io.Reader) {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil || len(b) > 0 {
		t.Fatalf("read: got %q and %v, want EOF", b, err)
	}
}
