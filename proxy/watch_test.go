package proxy

import (
	"bufio"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// readCounter counts what is read from a connection.
type readCounter struct {
	net.Conn
	reads atomic.Int64
}

func (c *readCounter) Read(b []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(b)
}

// A short dial leaves the client alone, a long one watches it, and either way what
// it says meanwhile is kept.
func TestOnlyLongDialsWatchTheClient(t *testing.T) {
	for _, tt := range []struct {
		name  string
		dial  time.Duration
		reads bool
		early string // what stop returns
	}{
		{"short", watchAfter - time.Millisecond, false, "he"},
		{"long", watchAfter + time.Millisecond, true, "hello"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				defer near.Close()
				defer far.Close()
				client := &readCounter{Conn: near}
				buf := bufio.NewReader(client)
				go func() { _, _ = far.Write([]byte("he")) }()
				if _, err := buf.Peek(2); err != nil { // came with the request
					t.Fatal(err)
				}
				client.reads.Store(0)
				ctx, w := watchClient(t.Context(), client, buf)
				go func() { _, _ = far.Write([]byte("llo")) }()
				time.Sleep(tt.dial)
				if got := string(w.stop()); got != tt.early {
					t.Errorf("kept %q, want %q", got, tt.early)
				}
				if got := client.reads.Load() > 0; got != tt.reads {
					t.Errorf("the client was read from: %v, want %v", got, tt.reads)
				}
				if ctx.Err() == nil {
					t.Error("the watch's context outlives it")
				}
			})
		})
	}
}
