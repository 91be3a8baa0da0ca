//go:build linux

package integration

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// fullFlags are the line that people have long asked for.
var fullFlags = tapFlags.with(flags{
	"port": "992", "plain-password": "true", "mac": "5e:00:53:00:00:01", "accept-default-gateway": "true",
	"accept-static-routes": "true", "accept-dns": "true", "policy-route-table": "200", "connmark": "true",
})

// Proves that the host is byte for byte as before, however the program ends.
func TestTAPLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	needTool(t, "nft", "nftables")
	w := newWorld(t)
	w.cli.IP("route", "add", "default", "via", serverAddress, "metric", "100")
	before := w.hostState()
	up := func(t *testing.T) *tapClient {
		c := w.in(t).StartTAP(fullFlags)
		c.WaitUp()
		state := w.hostState()
		for _, want := range []string{"default via " + lanGateway + " dev " + tapName, "lookup 200", "table inet softether-go-" + tapName,
			"nameserver " + lanGateway} {
			if !strings.Contains(state, want) {
				t.Errorf("while up: no %q in\n%s", want, state)
			}
		}
		return c
	}
	kill := func(t *testing.T) {
		c := up(t)
		c.Kill()
		if w.hostState() == before {
			t.Fatal("a killed program left nothing, so nothing below would mean a thing")
		}
	}
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			c := up(t)
			c.Signal(signal)
			if got := c.ExitCode(promptly); got != exitStopped {
				t.Errorf("exit code: got %d, want %d", got, exitStopped)
			}
			w.sameHost(t, before)
		})
	}
	t.Run("killed, then cleaned up", func(t *testing.T) {
		kill(t)
		w.CleanUp()
		w.sameHost(t, before)
	})
	t.Run("killed, then started again", func(t *testing.T) {
		kill(t)
		c := up(t)
		c.Terminate()
		w.sameHost(t, before)
	})
	t.Run("killed, then started with less", func(t *testing.T) {
		kill(t)
		c := w.in(t).StartTAP(tapFlags)
		c.WaitUp()
		c.Terminate()
		w.sameHost(t, before)
	})
}
