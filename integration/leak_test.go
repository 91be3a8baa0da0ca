//go:build linux

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Proves that connecting again and again, cut at any moment, with connections
// inside in any state, leaves nothing behind. What a client has that came up once
// is the measure.
func TestRandomConnectsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	const rounds = 24
	w := newWorld(t)
	m := w.startMiddlebox()
	f := usualFlags.with(flags{"port": middleboxPort, "reconnect-delay": "10ms", "reconnect-max-delay": "20ms"})

	fresh := w.StartClient(f)
	fresh.WaitUp()
	wantFDs := settledFDs(fresh)
	wantGoroutines := fresh.goroutines()

	c := w.StartClient(f)
	c.WaitUp()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	warm := c.usage()
	for range rounds {
		c.randomConnect(random, m)
	}
	c.WaitUp()
	end := c.usage()
	t.Logf("after the first connect %+v, after %d more %+v", warm, rounds, end)

	eventually(t, 40*time.Second, "its descriptors are those of a fresh client", func() error {
		if got := c.usage().fds; got != wantFDs {
			return fmt.Errorf("got %d, want %d", got, wantFDs)
		}
		return nil
	})
	// Go keeps threads it once needed; their number is bounded by what blocks at once.
	if got, want := end.threads, warm.threads+8; got > want {
		t.Errorf("threads: got %d, want at most %d", got, want)
	}
	// Half a MiB for each connect: less than any buffer of a session is long.
	if got, want := end.rss, warm.rss+rounds<<19; got > want {
		t.Errorf("resident memory: got %d, want at most %d", got, want)
	}
	if got := c.goroutines(); len(got) > len(wantGoroutines) {
		t.Errorf("goroutines: got %d, want the %d of a fresh client\ngot  %v\nwant %v",
			len(got), len(wantGoroutines), got, wantGoroutines)
	}
}

// randomConnect leaves connections inside in some state, waits for some moment of
// the life of a session, ends it in some way, and waits until a new one is dialled.
func (c *client) randomConnect(random *rand.Rand, m *middlebox) {
	c.t.Helper()
	targets := []string{lanGateway + ":" + echoPort, lanGateway + ":80", lanGateway + ":81", "10.200.0.222:80", "nothing.corp:80", siteName + ":80"}
	for range random.IntN(3) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(200))*time.Millisecond)
		if conn, err := c.w.socksDial(ctx, targets[random.IntN(len(targets))]); err == nil {
			fmt.Fprint(conn, "GET /stream/x/65536 HTTP/1.1\r\nHost: x\r\n\r\n")
			time.AfterFunc(time.Duration(random.IntN(2000))*time.Millisecond, func() { conn.Close() })
		}
		cancel()
	}
	if random.IntN(2) == 0 {
		c.WaitLogAfter(strings.LastIndex(c.Log(), "msg=connecting"), "tunnel up", upTime)
	}
	time.Sleep(time.Duration(random.IntN(250)) * time.Millisecond) // any moment is the right one
	before := m.accepted.Load()
	end := []func() int{m.Cut, m.Finish}[random.IntN(2)]
	eventually(c.t, upTime, "the session ends and another is dialled", func() error {
		end()
		if m.accepted.Load() == before {
			return fmt.Errorf("no new connection")
		}
		return nil
	})
}

// usage is what a process holds.
type usage struct{ fds, threads, rss int }

func (p *process) usage() usage {
	p.t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(p.PID()))
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		p.t.Fatal(err)
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		p.t.Fatal(err)
	}
	field := func(name string) int {
		m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindSubmatch(status)
		if m == nil {
			p.t.Fatalf("no %s in %s", name, status)
		}
		n, _ := strconv.Atoi(string(m[1]))
		return n
	}
	return usage{fds: len(fds), threads: field("Threads"), rss: field("VmRSS") << 10}
}

// settledFDs waits until the number of descriptors stays the same for a second:
// connections of the test's own page fetches are closed by then.
func settledFDs(c *client) int {
	c.t.Helper()
	last, since := -1, time.Now()
	eventually(c.t, 20*time.Second, "the number of descriptors settles", func() error {
		if n := c.usage().fds; n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) < time.Second {
			return fmt.Errorf("%d a moment ago", last)
		}
		return nil
	})
	return last
}

// goroutines ends the client by the runtime's own dump and returns who started
// each goroutine, sorted.
func (c *client) goroutines() []string {
	c.t.Helper()
	c.Signal(syscall.SIGQUIT)
	c.ExitCode(10 * time.Second)
	_, dump, found := strings.Cut(c.Log(), "SIGQUIT: quit")
	if !found {
		c.t.Fatal("no dump of goroutines")
	}
	var starters []string
	for stack := range strings.SplitSeq(dump, "\n\n") {
		m := regexp.MustCompile(`(?m)^goroutine [1-9][^$]*^created by (\S+)`).FindStringSubmatch(stack)
		if m != nil && !strings.HasPrefix(m[1], "runtime.") { // its own come and go
			starters = append(starters, m[1])
		}
	}
	slices.Sort(starters)
	return starters
}
