//go:build linux

package integration

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// udpActive asks the server whether it sends to a session by UDP.
func (s *server) udpActive(session string) error {
	s.t.Helper()
	out := s.Hub("SessionGet " + session)
	if !strings.Contains(out, "UDP Acceleration is Active,Yes") {
		return fmt.Errorf("the server says:\n%s", out)
	}
	return nil
}

var established = regexp.MustCompile(`session established" session=(\S+)`)

// sendsByUDP asks the server about the client's last session: others of it may live on
// there for a while.
func (c *client) sendsByUDP() error {
	c.t.Helper()
	all := established.FindAllStringSubmatch(c.Log(), -1)
	if len(all) == 0 {
		return errors.New("no session")
	}
	return c.w.srv.udpActive(all[len(all)-1][1])
}

// Proves that frames go by UDP where they must, in both directions.
func TestUDPAcceleration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.StartClient(usualFlags.with(flags{"udp": "require"}))
	c.WaitUp()
	c.WaitLog("frames go by UDP now", 5*time.Second)
	eventually(t, 20*time.Second, "the server sends by UDP", c.sendsByUDP)
	w.dialEcho().Check(5 * time.Second)
}

// Proves that auto goes by UDP where TCP loses packets, and tells why.
func TestUDPWhereTCPIsBad(t *testing.T) {
	t.Parallel()
	w, cable := newCabledWorld(t)
	cable.tcp.Delay(15 * time.Millisecond)
	cable.udp.Delay(15 * time.Millisecond)
	c := w.StartClient(usualFlags)
	c.WaitUp()
	cable.tcp.Lose(0.03)
	w.startTrickle()
	c.WaitLog("frames go by UDP now", 60*time.Second)
	eventually(t, 20*time.Second, "the server sends by UDP", c.sendsByUDP)
	w.dialEcho().Check(5 * time.Second)
	if lost, passed := cable.tcp.lost.Load(), cable.udp.passed.Load(); lost == 0 || passed == 0 {
		t.Errorf("TCP packets lost: %d, UDP packets passed: %d, want some of both", lost, passed)
	}
}

// startTrickle keeps a download going through the tunnel, slow enough that loss and not
// speed is what TCP sees of the way.
func (w *world) startTrickle() {
	w.t.Helper()
	cmd := w.cli.Command("curl", "--silent", "--output", "/dev/null", "--limit-rate", "300k", "--retry", "100", "--retry-all-errors",
		"--proxy", w.proxy, "http://"+w.siteAddress()+"/zeros/1000000000")
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}
