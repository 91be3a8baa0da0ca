package forward

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Whoever set a forward up is told that its target is not there, and not for each client.
func TestAMissingTargetIsToldOnce(t *testing.T) {
	for _, row := range []struct {
		network    string
		unreliable bool
		want       int
	}{{"tcp", false, 1}, {"udp", false, 1}, {"tcp", true, 0}} {
		t.Run(fmt.Sprint(row.network, row.unreliable), func(t *testing.T) {
			var log lockedBuffer
			to := &slowly{wait: make(chan struct{}), err: errors.New("no such host")}
			close(to.wait)
			f := open(t, Config{Network: row.network, From: Host{}, Listen: "127.0.0.1:0", To: to, Target: "nobody:1", Name: "-L 1:nobody:1",
				Unreliable: row.unreliable, Log: slog.New(slog.NewTextHandler(&log, nil))})
			for range 3 {
				c, err := net.Dial(row.network, f.Addr().String())
				if err != nil { // reset as soon as that
					continue
				}
				defer c.Close()
				fmt.Fprint(c, "x")
			}
			for end := time.Now().Add(20 * time.Second); f.Stats().Failed < 3; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("counters: %+v", f.Stats())
				}
			}
			f.Close()
			<-f.ended
			text := log.String()
			if strings.Count(text, "level=WARN") != row.want || row.want > 0 && !strings.Contains(text, `forward="-L 1:nobody:1"`) {
				t.Errorf("got %d warnings, want %d:\n%s", strings.Count(text, "level=WARN"), row.want, text)
			}
		})
	}
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
