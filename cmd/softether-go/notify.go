package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"softether-go/pkg/client"
	"softether-go/pkg/health"
)

// A notifier tells the service manager what becomes of us (sd_notify(3)). A nil one tells
// nobody.
type notifier struct {
	socket   net.Conn
	log      *slog.Logger
	watchdog time.Duration // within which it wants a sign of life; 0 means never
	ready    bool
}

// newNotifier returns nil unless a service manager wants to be told. What it says
// in the environment is for us, not for programs that we start.
func newNotifier(log *slog.Logger) *notifier {
	path, every, pid := os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name) // which fails for no name of these
	}
	if path == "" {
		return nil
	}
	socket, err := net.Dial("unixgram", path) // an @ before it means the abstract namespace to Go as well
	if err != nil {
		log.Warn("the service manager cannot be told", "cause", err)
		return nil
	}
	n := &notifier{socket: socket, log: log}
	if us, err := strconv.ParseInt(every, 10, 64); err == nil && us > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	return n
}

func (n *notifier) send(lines ...string) {
	if n == nil {
		return
	}
	if _, err := n.socket.Write([]byte(strings.Join(lines, "\n"))); err != nil {
		n.log.Debug("the service manager was not told", "cause", err)
	}
}

// statuses are what people read in systemctl status.
var statuses = map[client.State]string{
	client.Dialing:     "Connecting",
	client.Configuring: "Connected, getting an address",
	client.Up:          "The tunnel is up",
	client.Waiting:     "Not connected, waiting before another attempt",
}

// state tells of a state. The first time up we are ready: whoever comes after us finds a
// tunnel.
func (n *notifier) state(s client.State) {
	text, ok := statuses[s]
	switch {
	case n == nil || !ok:
	case s == client.Up && !n.ready:
		n.ready = true
		n.send("READY=1", "STATUS="+text)
	default:
		n.send("STATUS=" + text)
	}
}

func (n *notifier) stopping() { n.send("STOPPING=1", "STATUS=Stopping") }

// watch gives signs of life as long as there is some, until ctx ends.
func (n *notifier) watch(ctx context.Context, m *health.Monitor) error {
	if n == nil || n.watchdog == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	t := time.NewTicker(n.watchdog / 3) // so that one may come late
	defer t.Stop()
	for {
		if err := m.Live(ctx); err != nil {
			n.log.Error("no sign of life to the service manager", "cause", err)
		} else {
			n.send("WATCHDOG=1")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}
