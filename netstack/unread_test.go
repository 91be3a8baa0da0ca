package netstack

import (
	"io"
	"sync"
	"testing"
	"time"
)

// What nobody reads stays within the budget of them all, and others are served.
func TestWhatIsUnreadIsBoundedForAll(t *testing.T) {
	slow := 400
	if raceEnabled {
		slow = 150
	}
	a, b := pair(t)
	serve(t, listen(t, b, "0.0.0.0:19"), flood)
	serve(t, listen(t, b, "0.0.0.0:7"), echo)
	unread := make([]*conn, slow)
	for i := range unread {
		c := dial(t, a, "tcp", "10.0.0.2:19")
		unread[i] = c.(*conn)
		if i%2 > 0 { // half of them stop when they have large buffers
			if _, err := io.CopyN(io.Discard, struct{ io.Reader }{c}, 2<<20); err != nil {
				t.Fatal(err)
			}
		}
	}
	most, quiet := 0, 0
	for quiet < 20 { // until no more comes for a second
		time.Sleep(50 * time.Millisecond)
		sum := 0
		for _, c := range unread {
			sum += c.unread()
		}
		if sum > most {
			most, quiet = sum, 0
		}
		quiet++
	}
	st := a.Stats()
	t.Logf("%d MB are unread at most, %d at the last look; %d limited", most>>20, st.TCPUnread>>20, st.TCPLimited)
	if most < unreadNear {
		t.Fatalf("%d bytes are unread, too few to show anything", most)
	}
	if most > unreadBudget {
		t.Errorf("%d bytes are unread, the budget is %d", most, unreadBudget)
	}
	if st.TCPUnread < unreadNear {
		t.Errorf("%d bytes are counted as unread, want about %d", st.TCPUnread, most)
	}

	fast := dial(t, a, "tcp", "10.0.0.2:19")
	_ = fast.SetReadDeadline(time.Now().Add(30 * time.Second))
	begun := time.Now()
	if _, err := io.CopyN(io.Discard, struct{ io.Reader }{fast}, 32<<20); err != nil {
		t.Errorf("a download beside them: %v", err)
	}
	t.Logf("32 MB beside them took %v", time.Since(begun))
	for range 20 {
		if err := talks(dial(t, a, "tcp", "10.0.0.2:7")); err != nil {
			t.Errorf("a question beside them: %v", err)
		}
	}

	// Whoever reads again gets on, also if it was cut.
	begun = time.Now()
	for i, c := range unread {
		if i%10 > 0 {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	}
	var reads sync.WaitGroup
	for i := 0; i < slow; i += 10 {
		reads.Go(func() {
			_ = unread[i].SetReadDeadline(time.Now().Add(60 * time.Second))
			if _, err := io.CopyN(io.Discard, struct{ io.Reader }{unread[i]}, 4<<20); err != nil {
				t.Errorf("connection %d, read again: %v", i, err)
			}
		})
	}
	reads.Wait()
	t.Logf("all that are read again have gone on after %v", time.Since(begun))
}
