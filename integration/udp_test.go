//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/session"
	"softether-go/pkg/udpaccel"
	"softether-go/pkg/wire"
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

// counter asks the client for one line of its table about UDP.
func (c *client) counter(name string) uint64 {
	c.t.Helper()
	m := regexp.MustCompile(`(?m)^ ` + name + ` (\d+)$`).FindStringSubmatch(c.counters("udp"))
	if m == nil {
		c.t.Fatalf("no counter %s", name)
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// Proves that frames go by UDP where they must, in both directions, and what that path
// bears: each fault shows by its own counter, and a connection inside goes on.
func TestUDPRequired(t *testing.T) {
	t.Parallel()
	const port = "45000"
	w, cable := newCabledWorld(t)
	c := w.StartClient(usualFlags.with(flags{"udp": "require", "udp-port": port}))
	c.WaitUp()
	c.WaitLog("frames go by UDP now", 5*time.Second)
	eventually(t, 20*time.Second, "the server sends by UDP", c.sendsByUDP)
	inner := w.dialEcho()
	inner.Check(5 * time.Second)

	t.Run("TCP stands still", func(t *testing.T) {
		cable.tcp.Cut(true)
		defer cable.tcp.Cut(false)
		for range 5 {
			inner.Check(2 * time.Second)
			time.Sleep(200 * time.Millisecond)
		}
		if cable.udp.passed.Load() == 0 {
			t.Error("nothing went by UDP")
		}
	})
	t.Run("the NAT forgets its mapping", func(t *testing.T) {
		before := cable.translated.Load()
		for range 3 {
			cable.Rebind()
			inner.Check(5 * time.Second)
		}
		if cable.translated.Load() == before {
			t.Error("the NAT has translated nothing")
		}
		if err := c.sendsByUDP(); err != nil {
			t.Error(err)
		}
		cable.port.Store(0)
		inner.Check(5 * time.Second)
	})
	t.Run("packets are lost and late", func(t *testing.T) {
		cable.udp.Lose(0.1)
		cable.udp.Delay(20 * time.Millisecond)
		defer cable.udp.Delay(0)
		defer cable.udp.Lose(0)
		for range 10 {
			inner.Check(10 * time.Second)
		}
		eventually(t, 10*time.Second, "packets were lost", func() error {
			if cable.udp.lost.Load() == 0 {
				return errors.New("none")
			}
			return nil
		})
	})
	t.Run("datagrams of an enemy", func(t *testing.T) { enemyDatagrams(t, w, cable, c, inner) })
	t.Run("the connection is cut", func(t *testing.T) {
		seen := len(c.Log())
		w.cli.ss("-K", "dst", serverAddress)
		c.WaitLogAfter(seen, "session joined again", recoverTime)
		inner.Check(recoverTime)
		if err := c.sendsByUDP(); err != nil {
			t.Error(err)
		}
	})
	t.Run("our address changes", func(t *testing.T) {
		seen := len(c.Log())
		w.cli.IP("address", "del", clientAddress+"/24", "dev", "eth0")
		w.cli.IP("address", "add", movedAddress+"/24", "dev", "eth0")
		c.WaitLogAfter(seen, "session joined again", recoverTime)
		inner.Check(recoverTime)
		eventually(t, 20*time.Second, "the server sends by UDP", c.sendsByUDP)
	})
	if got := strings.Count(c.Log(), "session established"); got != 1 {
		t.Errorf("sessions: got %d, want the one", got)
	}
	t.Run("the server starts again", func(t *testing.T) {
		seen := len(c.Log())
		w.srv.Kill()
		w.srv.Start()
		w.lan.Attach()
		c.WaitLogAfter(seen, "frames go by UDP now", recoverTime)
		inner.Check(recoverTime)
		eventually(t, 20*time.Second, "the server sends by UDP", c.sendsByUDP)
	})
}

// movedAddress is one that the client gets later.
const movedAddress = "198.18.0.3"

// ss runs ss(8) in the namespace.
func (n *netns) ss(args ...string) {
	n.t.Helper()
	if out, err := n.Command(append([]string{"ss"}, args...)...).CombinedOutput(); err != nil {
		n.t.Fatalf("ss %v: %v\n%s", args, err, out)
	}
}

// enemyDatagrams come to the client's port from beside the server's. The last is one of
// the server's own, caught on the way.
func enemyDatagrams(t *testing.T, w *world, cable *cable, c *client, inner *innerConn) {
	enemy := w.srv.ns.ListenPacket(serverAddress + ":6666")
	target := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(clientAddress + ":45000"))
	random := make([]byte, 200)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	cable.catch.Store(true)
	var caught *[]byte
	eventually(t, 5*time.Second, "a datagram of the server's is caught", func() error {
		if caught = cable.caught.Load(); caught == nil {
			return errors.New("none yet")
		}
		return nil
	})
	for _, row := range []struct {
		counter string
		data    []byte
	}{
		{"dropped_forged", random}, {"dropped_truncated", random[:5]}, {"dropped_oversized", make([]byte, 3000)}, {"dropped_replayed", *caught},
	} {
		before := c.counter(row.counter)
		for range 3 {
			if _, err := enemy.WriteTo(row.data, target); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 5*time.Second, row.counter+" counts", func() error {
			if got := c.counter(row.counter) - before; got != 3 {
				return fmt.Errorf("got %d of 3; all:\n%s", got, c.counters("udp"))
			}
			return nil
		})
		inner.Check(5 * time.Second)
	}
	if err := c.sendsByUDP(); err != nil {
		t.Error(err)
	}
}

// Proves that UDP that must be and cannot is one line with a remedy.
func TestUDPRequiredAndBlocked(t *testing.T) {
	t.Parallel()
	w, cable := newCabledWorld(t)
	cable.udp.Cut(true)
	c := w.StartClient(usualFlags.with(flags{"udp": "require"}))
	if code := c.ExitCode(40 * time.Second); code == 0 {
		t.Error("it ended as if all were well")
	}
	if got := strings.Count(c.Log(), "does not get through"); got == 0 || !strings.Contains(c.Log(), "or use -udp auto") {
		t.Errorf("the log has no remedy")
	}
	if cable.udp.held.Load() == 0 {
		t.Error("nothing was held back: UDP was not blocked")
	}
}

// Proves that auto goes by UDP where TCP loses packets, says why, comes back at once when
// UDP fails, and that the connections inside notice nothing but a pause.
func TestUDPWhereTCPIsBad(t *testing.T) {
	t.Parallel()
	w, cable := newCabledWorld(t)
	cable.tcp.Delay(15 * time.Millisecond)
	cable.udp.Delay(15 * time.Millisecond)
	c := w.StartClient(usualFlags)
	c.WaitUp()
	inner := w.dialEcho()
	w.startTrickle("/zeros/1000000000")
	w.startTrickle("/sink", "--upload-file", "/dev/zero")
	cable.tcp.Lose(0.03)
	c.WaitLog(`frames go by UDP now[^\n]*cause="TCP loses packets`, 60*time.Second)
	eventually(t, 20*time.Second, "the server sends by UDP", c.sendsByUDP)
	inner.Check(5 * time.Second)
	if lost, passed := cable.tcp.lost.Load(), cable.udp.passed.Load(); lost == 0 || passed == 0 {
		t.Errorf("TCP packets lost: %d, UDP packets passed: %d, want some of both", lost, passed)
	}
	// Both transfers have agreed on segments that are too long now. Neither may send anything
	// for a while, for what TCP has lost: that none of them is seen tells nothing by itself.
	eventually(t, 30*time.Second, "long segments have been replaced by shorter ones", func() error {
		if got := c.counter("told_narrow"); got < 2 {
			return fmt.Errorf("senders were told %d times, want both", got)
		}
		large, pieces := c.counter("large_by_tcp"), cable.udp.pieces.Load()
		time.Sleep(time.Second)
		if l, p := c.counter("large_by_tcp")-large, cable.udp.pieces.Load()-pieces; l+uint64(p) > 0 {
			return fmt.Errorf("in a second %d frames too long for UDP, and %d datagrams in pieces", l, p)
		}
		return nil
	})
	if c.counter("carries") != 1 || c.counter("moved_to_udp") != 1 {
		t.Error("the table of counters does not say that UDP carries")
	}

	cable.udp.Cut(true)
	c.WaitLog(`frames go by TCP now[^\n]*not heard by UDP`, 10*time.Second)
	inner.Check(20 * time.Second)
	if cable.udp.held.Load() == 0 {
		t.Error("nothing was held back: UDP was not cut")
	}
}

// Proves that auto leaves alone what is good: with the connections full of data it asks
// for nothing, and the server's segments stay as they are.
func TestUDPWhereTCPIsGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.StartClient(usualFlags)
	c.WaitUp()
	if _, err := w.Curl("--proxy", w.proxy, "--output", "/dev/null", "--max-time", "60", "http://"+w.siteAddress()+"/zeros/150000000"); err != nil {
		t.Fatal(err)
	}
	if log := c.Log(); strings.Contains(log, "by UDP") || strings.Contains(log, "logging in again") {
		t.Error("it did not stay with TCP")
	}
	if out := w.srv.Hub("SessionGet " + w.Session()); !strings.Contains(out, "UDP Acceleration is Supported,No") {
		t.Errorf("the server says:\n%s", out)
	}
}

// Proves that the real server speaks each version with us.
func TestUDPVersions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, row := range []struct {
		name      string
		most      udpaccel.Version
		cleartext bool
	}{{"v1", udpaccel.V1, false}, {"v2", udpaccel.V2, false}, {"plain", udpaccel.V2, true}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s, err := session.Dial(t.Context(), session.Config{
				Host: serverAddress, Hub: hubName, User: userName, Auth: wire.HashedPass, Password: userPassword,
				Trust: session.Trust{Insecure: true}, Direct: true, Cleartext: row.cleartext, DialContext: w.cli.dialContext,
				UDP: session.UDP{Policy: session.UDPRequire, MaxVersion: row.most,
					Listen: func(context.Context, netip.Addr, uint16) (net.PacketConn, error) {
						return w.cli.ListenPacket("0.0.0.0:0"), nil
					}},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var got frametest.Pipe
			go s.Run(t.Context(), &got)
			eventually(t, 20*time.Second, "frames come back by UDP", func() error {
				s.WriteFrames([][]byte{askWho(byte(row.most), lanGateway)})
				if u := s.UDP(); u.OutFrames == 0 || u.InFrames == 0 || u.DroppedForged+u.DroppedCookie+u.DroppedCorrupt > 0 {
					return fmt.Errorf("%+v", u)
				}
				return nil
			})
			if err := w.srv.udpActive(s.Welcome().SessionName); err != nil {
				t.Error(err)
			}
		})
	}
}

// askWho is an ARP request by a station of that number, which the gateway answers.
func askWho(station byte, who string) []byte {
	mac := net.HardwareAddr{2, 0, 0, 0, 1, station}
	from, to := netip.AddrFrom4([4]byte{10, 200, 0, 200 + station}), netip.MustParseAddr(who)
	p := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	p = append(append(p, mac...), from.AsSlice()...)
	p = append(append(p, make([]byte, 6)...), to.AsSlice()...)
	return frametest.Frame(net.HardwareAddr{255, 255, 255, 255, 255, 255}, mac, frame.TypeARP, p)
}

// startTrickle keeps a transfer going through the tunnel, slow enough that loss and not
// speed is what TCP sees of the way.
func (w *world) startTrickle(path string, args ...string) {
	w.t.Helper()
	cmd := w.cli.Command(slices.Concat([]string{"curl", "--silent", "--output", "/dev/null", "--limit-rate", "300k",
		"--proxy", w.proxy}, args, []string{"http://" + w.siteAddress() + path})...)
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}
