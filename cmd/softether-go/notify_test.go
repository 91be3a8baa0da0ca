package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"softether-go/pkg/client"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/health"
)

// newManager is a service manager's socket, and a way to wait for what is said to it.
func newManager(t *testing.T) (n *notifier, next func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Skipf("needs sockets of datagrams: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	if n = newNotifier(slog.New(slog.DiscardHandler)); n == nil {
		t.Fatal("there is nobody to notify")
	}
	t.Cleanup(func() { n.socket.Close() })
	return n, func() string {
		t.Helper()
		b := make([]byte, 4096)
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		k, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:k])
	}
}

func TestTheServiceManagerHears(t *testing.T) {
	n, next := newManager(t)
	if got := os.Getenv("NOTIFY_SOCKET") + os.Getenv("WATCHDOG_USEC"); got != "" {
		t.Errorf("programs that we start inherit %q", got)
	}
	for _, row := range []struct {
		do   func()
		want string
	}{
		{func() { n.state(client.Dialing) }, "STATUS=Connecting"},
		{func() { n.state(client.Configuring) }, "STATUS=Connected, getting an address"},
		{func() { n.state(client.Up) }, "READY=1\nSTATUS=The tunnel is up"},
		{func() { n.state(client.Waiting) }, "STATUS=Not connected, waiting before another attempt"},
		{func() { n.state(client.Up) }, "STATUS=The tunnel is up"}, // it was ready all along
		{func() { n.state(client.Stopped); n.stopping() }, "STOPPING=1\nSTATUS=Stopping"},
	} {
		row.do()
		if got := next(); got != row.want {
			t.Errorf("got %q, want %q", got, row.want)
		}
	}
}

func TestSignsOfLifeEndWithLife(t *testing.T) {
	n, next := newManager(t)
	m := health.New(health.Config{Endpoint: &frametest.Pipe{}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.watch(ctx, m) }()
	for range 3 {
		if got := next(); got != "WATCHDOG=1" {
			t.Errorf("got %q", got)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Without a service manager nothing is told, and nothing fails.
func TestWithoutAServiceManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := newNotifier(slog.New(slog.DiscardHandler))
	n.state(client.Up)
	n.stopping()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.watch(ctx, nil); n != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", n, err)
	}
}

func TestHealthCommandsSayWhatIsMissing(t *testing.T) {
	t.Setenv("SOFTETHER_HEALTH", "")
	for _, row := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"health"}, exitUsage, "SOFTETHER_HEALTH"},
		{[]string{"health", "-health", "unix:@x", "well"}, exitUsage, "ready, live, started, metrics"},
		{[]string{"health", "-health", "unix:/nowhere/x"}, exitFailure, "is softether-go running there"},
		{[]string{"drain"}, exitUsage, "SOFTETHER_HEALTH"},
		{[]string{"drain", "-health", "unix:@x", "now"}, exitUsage, "-wait TIME"},
	} {
		var out, errs strings.Builder
		code := dispatch(t.Context(), row.args, terminal{in: os.Stdin, out: &out, err: &errs})
		if code != row.code || !strings.Contains(errs.String(), row.want) || out.Len() > 0 {
			t.Errorf("%v: got exit code %d, %q, %q, want %d and %q", row.args, code, out.String(), errs.String(), row.code, row.want)
		}
	}
}
