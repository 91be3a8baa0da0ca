//go:build linux

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// udpActive asks the server whether it sends to the user's only session by UDP.
func (w *world) udpActive() error {
	w.t.Helper()
	out := w.srv.Hub("SessionGet " + w.Session())
	if !strings.Contains(out, "UDP Acceleration is Active,Yes") {
		return fmt.Errorf("the server says:\n%s", out)
	}
	return nil
}

// Proves that frames go by UDP where they must, in both directions.
func TestUDPAcceleration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.StartClient(usualFlags.with(flags{"udp": "require"}))
	c.WaitUp()
	c.WaitLog("frames go by UDP now", 5*time.Second)
	eventually(t, 20*time.Second, "the server sends by UDP", w.udpActive)
	w.dialEcho().Check(5 * time.Second)
}
