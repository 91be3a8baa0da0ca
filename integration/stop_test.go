//go:build linux

package integration

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// promptly is how long a program may take to end. It bounds a hang; most ends
// are far quicker.
const promptly = 10 * time.Second

// Proves that a signal ends the program at once and well, whatever it waits for.
func TestSignalEndsEveryWait(t *testing.T) {
	t.Parallel()
	w := newWorldWithoutDHCP(t)
	m := w.startMiddlebox()
	var held int64
	for _, row := range []struct {
		name    string
		flags   flags
		prepare func()
		waiting string // what it says when it is there; empty: see until
		until   func() error
	}{
		{name: "in the TLS handshake", prepare: func() { m.Stall(); held = m.held.Load() }, until: func() error {
			if m.held.Load() == held {
				return fmt.Errorf("the middlebox holds nothing back")
			}
			return nil
		}},
		{name: "waiting for an address", prepare: m.Unstall, waiting: "session established"},
		{name: "in the reconnect delay", flags: flags{"reconnect-delay": "60s"}, prepare: func() { m.Refuse(true) }, waiting: `retry_in=[0-9]`},
	} {
		for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
			t.Run(row.name+", "+signal.String(), func(t *testing.T) {
				row.prepare()
				c := w.in(t).StartClient(usualFlags.with(flags{"port": middleboxPort}).with(row.flags))
				if row.until != nil {
					eventually(t, 10*time.Second, row.name, row.until)
				} else {
					c.WaitLog(row.waiting, 10*time.Second)
				}
				c.Signal(signal)
				if got := c.ExitCode(promptly); got != exitStopped {
					t.Errorf("exit code: got %d, want %d", got, exitStopped)
				}
			})
		}
	}
}

// Proves that an end while up releases the lease, and that open connections inside get
// their time and no more, and that is told of. The server's own idea of the session lasts
// for its timeout, after the official client too.
func TestSignalWhileUpReleasesTheLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, row := range []struct {
		name   string
		signal os.Signal
		open   bool // whether a connection is open inside
	}{
		{"interrupt", os.Interrupt, false},
		{"terminate", syscall.SIGTERM, false},
		{"terminate with a connection open", syscall.SIGTERM, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			c := w.StartClient(usualFlags.with(flags{"L": "7000:" + lanGateway + ":" + echoPort}))
			c.WaitUp()
			if row.open {
				w.dialEcho().Check(5 * time.Second)
				forwarded, err := w.cli.Dial(t.Context(), "127.0.0.1:7000")
				if err != nil {
					t.Fatal(err)
				}
				defer forwarded.Close()
				(&innerConn{t: t, Conn: forwarded}).Check(5 * time.Second)
			}
			address := regexp.MustCompile(`address=(10\.200\.0\.\d+)`).FindStringSubmatch(c.Log())
			if address == nil {
				t.Fatal("the client does not say which address it has")
			}
			released := w.lan.Saw("DHCPRELEASE(br0) " + address[1])
			c.Signal(row.signal)
			if got := c.ExitCode(promptly); got != exitStopped {
				t.Errorf("exit code: got %d, want %d", got, exitStopped)
			}
			for _, told := range []string{"proxy clients that are not done are cut off.*clients=1", "forwarded connections that are not done are cut off.*connections=1"} {
				if got := regexp.MustCompile(told).MatchString(c.Log()); got != row.open {
					t.Errorf("told of %q: got %v, want %v", told, got, row.open)
				}
			}
			eventually(t, 3*time.Second, "the DHCP server hears of the release", func() error {
				if got := w.lan.Saw("DHCPRELEASE(br0) " + address[1]); got != released+1 {
					return fmt.Errorf("releases of %s: got %d, want %d", address[1], got, released+1)
				}
				return nil
			})
		})
	}
}

// Proves that a second signal does not wait for the first one's courtesy, and
// that the code says so.
func TestSecondSignalForces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.StartClient(usualFlags)
	c.WaitUp()
	w.dialEcho().Check(5 * time.Second) // what the first signal waits for
	c.Signal(os.Interrupt)
	c.WaitLog("stopping", promptly)
	c.Signal(os.Interrupt)
	if got := c.ExitCode(promptly); got != exitForced {
		t.Errorf("exit code: got %d, want %d", got, exitForced)
	}
	if strings.Contains(c.Log(), "panic") {
		t.Errorf("the end was no orderly one:\n%s", c.Log())
	}
}
