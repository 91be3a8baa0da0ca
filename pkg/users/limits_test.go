package users

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// Two connections of a user share a rate in each direction; another's do not count.
func TestRatesAreSharedByAUsersConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &user{entry: &entry{name: "alice"}, account: newAccount(limits{up: 10_000, down: 20_000})}
		transfer := func(size int, up bool) {
			near, far := net.Pipe()
			c := u.Limit(near)
			defer c.Close()
			from, to := io.Writer(far), io.Reader(c)
			if up {
				from, to = c, far
			}
			go from.Write(make([]byte, size))
			if _, err := io.CopyN(io.Discard, to, int64(size)); err != nil {
				t.Error(err)
			}
		}
		for _, row := range []struct {
			up   bool
			size int
			want time.Duration
		}{{true, 50_000, 10 * time.Second}, {false, 100_000, 10 * time.Second}} {
			begun := time.Now()
			done := make(chan struct{})
			for range 2 {
				go func() {
					transfer(row.size, row.up)
					done <- struct{}{}
				}()
			}
			<-done
			<-done
			if took := time.Since(begun); took < row.want-time.Second || took > row.want+time.Second {
				t.Errorf("up %v: twice %d bytes took %v, want %v", row.up, row.size, took, row.want)
			}
		}
		begun := time.Now()
		u.account.set(limits{})
		transfer(1<<20, true)
		if took := time.Since(begun); took > time.Second {
			t.Errorf("without a rate it took %v", took)
		}
	})
}

// Datagrams beyond the rate are told apart from those within it, and pay from the same
// account as connections.
func TestDatagramsBeyondTheRateAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &user{account: newAccount(limits{up: 100_000, down: 50_000})}
		const size = 1000
		count := func(may func(int) bool) (n int) {
			for range 10_000 { // ten seconds of 1 MB/s
				time.Sleep(time.Millisecond)
				if may(size) {
					n++
				}
			}
			return n
		}
		if n := count(u.MaySend); n < 1000 || n > 1030 {
			t.Errorf("sent: got %d datagrams in ten seconds, want 1000 and a burst", n)
		}
		if n := count(u.MayReceive); n < 500 || n > 515 {
			t.Errorf("received: got %d datagrams in ten seconds, want 500 and a burst", n)
		}
		u.account.up.take(200_000)
		if u.MaySend(size) {
			t.Error("what connections have spent is not counted")
		}
		if free := (&user{account: newAccount(limits{})}); !free.MaySend(1<<20) || !free.MayReceive(1<<20) {
			t.Error("without a rate datagrams are refused")
		}
	})
}

func TestWithoutRatesTheConnectionIsItself(t *testing.T) {
	u := &user{entry: &entry{}, account: newAccount(limits{connections: 1})}
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	if u.Limit(near) != near {
		t.Error("a connection without a rate is wrapped")
	}
}

// Who waits for a turn is let go by Close.
func TestCloseEndsAPacedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &user{entry: &entry{}, account: newAccount(limits{up: 1000, down: 1000})}
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		c := u.Limit(near)
		time.AfterFunc(time.Second, func() { c.Close() })
		_, err := c.Write(make([]byte, 1_000_000))
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want %v", err, net.ErrClosed)
		}
		far.Close()
	})
}

func TestConnectionsAreCountedOut(t *testing.T) {
	u := &user{entry: &entry{name: "alice"}, account: newAccount(limits{connections: 2})}
	a, err1 := u.Enter(func() {})
	_, err2 := u.Enter(func() {})
	if _, err := u.Enter(func() {}); err1 != nil || err2 != nil || err == nil {
		t.Fatalf("got %v %v %v, want the third refused", err1, err2, err)
	}
	a()
	if _, err := u.Enter(func() {}); err != nil {
		t.Errorf("after one has left: %v", err)
	}
}
