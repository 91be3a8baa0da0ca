//go:build linux

package integration

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

const gibibyte = 1 << 30

// Proves that big transfers arrive whole, each way and through each proxy. Not in
// parallel with other tests: it wants all of the machine.
func TestGibibyteEachWayThroughBothProxies(t *testing.T) {
	w := newWorld(t)
	c := w.StartClient(usualFlags)
	c.WaitUp()
	want := sumOf("big", gibibyte)
	for _, proxy := range []string{"socks5h://" + socksProxy, "http://" + httpProxy} {
		t.Run("down "+proxy, func(t *testing.T) {
			begun := time.Now()
			got := sumOfOutput(w.cli.Command("curl", "--silent", "--show-error", "--fail", "--max-time", "120", "--proxy", proxy,
				fmt.Sprintf("http://%s/stream/big/%d", siteName, int64(gibibyte))))
			if got != want {
				t.Errorf("sum: got %s, want %s", got, want)
			}
			t.Logf("%.2f Gbit/s", gigabits(gibibyte, time.Since(begun)))
		})
		t.Run("up "+proxy, func(t *testing.T) {
			begun := time.Now()
			cmd := w.cli.Command("curl", "--silent", "--show-error", "--fail", "--max-time", "120", "--proxy", proxy,
				"--upload-file", "-", "http://"+siteName+"/sink")
			cmd.Stdin = streamOf("big", gibibyte)
			got, err := cmd.Output()
			if want := fmt.Sprintf("%d %s", gibibyte, want); err != nil || string(got) != want {
				t.Errorf("the site received: got %q, %v, want %q", got, err, want)
				w.logConnections()
				c.Signal(syscall.SIGQUIT)
				<-c.done
				t.Logf("where it was:\n%s", c.Log())
			}
			t.Logf("%.2f Gbit/s", gigabits(gibibyte, time.Since(begun)))
		})
	}
}

// logConnections shows where the bytes of a transfer that hangs are waiting.
func (w *world) logConnections() {
	for name, ns := range map[string]*netns{"client": w.cli, "server": w.srv.ns, "site": w.lan.ns} {
		out, err := ns.Command("ss", "-tinmO").CombinedOutput()
		w.t.Logf("connections of the %s: %v\n%s", name, err, out)
	}
}

// sumOfOutput runs cmd and returns the SHA-256 of what it prints, or what went wrong.
func sumOfOutput(cmd *exec.Cmd) string {
	h := sha256.New()
	cmd.Stdout = h
	if err := cmd.Run(); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(h.Sum(nil))
}

func gigabits(bytes int64, d time.Duration) float64 { return float64(bytes) * 8 / 1e9 / d.Seconds() }

// Proves that many connections at once each get their own bytes, and that the
// client still serves afterwards.
func TestFiveHundredStreamsAtOnce(t *testing.T) {
	const streams, size = 500, 256 << 10
	w := newWorld(t)
	c := w.StartClient(usualFlags)
	c.WaitUp()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conns := make([]net.Conn, streams)
	errs := make([]error, streams)
	each := func(do func(i int) error) {
		var g sync.WaitGroup
		for i := range streams {
			g.Go(func() {
				if errs[i] == nil {
					errs[i] = do(i)
				}
			})
		}
		g.Wait()
	}
	// All are open before the first byte is asked for.
	each(func(i int) (err error) {
		conns[i], err = w.socksDial(ctx, net.JoinHostPort(lanGateway, "80"))
		return err
	})
	each(func(i int) error { return fetchStream(ctx, conns[i], fmt.Sprintf("stream-%d", i), size) })
	failed := 0
	for i, err := range errs {
		if err != nil {
			failed++
			t.Logf("stream %d: %v", i, err)
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d streams failed", failed, streams)
	}
	c.WaitUp()
}

// fetchStream asks for one stream on conn, compares its sum and closes conn.
func fetchStream(ctx context.Context, conn net.Conn, name string, size int64) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := fmt.Fprintf(conn, "GET /stream/%s/%d HTTP/1.1\r\nHost: site\r\n\r\n", name, size); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	h := sha256.New()
	if n, err := bufio.NewReader(answer.Body).WriteTo(h); err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	if got, want := hex.EncodeToString(h.Sum(nil)), sumOf(name, size); got != want {
		return fmt.Errorf("got sum %s, want %s", got, want)
	}
	return nil
}
