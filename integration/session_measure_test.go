//go:build linux

package integration

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestConnectionsMeasured shows how fast sessions of 1 to 8 TCP connections are over ways
// of several kinds, and by UDP. It asserts nothing. What it has shown is told in package session.
//
//	go test ./integration -run TestConnectionsMeasured -compare -v
func TestConnectionsMeasured(t *testing.T) {
	if !*compare {
		t.Skip("measures for minutes and proves nothing: -compare")
	}
	for _, way := range []struct {
		name  string
		delay time.Duration // one way
		loss  float64
	}{
		{"clean", 0, 0},
		{"40 ms", 20 * time.Millisecond, 0},
		{"10 ms, 0.1 % lost", 5 * time.Millisecond, 0.001},
		{"40 ms, 0.1 % lost", 20 * time.Millisecond, 0.001},
		{"40 ms, 1 % lost", 20 * time.Millisecond, 0.01},
	} {
		t.Run(way.name, func(t *testing.T) {
			w, cable := newCabledWorld(t)
			cable.tcp.Delay(way.delay)
			cable.udp.Delay(way.delay)
			for _, n := range []int{1, 2, 4, 8, byUDP} {
				t.Run(strconv.Itoa(n), func(t *testing.T) { w.in(t).measureWay(cable, way.name, n, way.loss) })
			}
		})
	}
}

// byUDP stands for one connection and UDP acceleration beside it.
const byUDP = 0

func (w *world) measureWay(cable *cable, name string, n int, loss float64) {
	f := flags{"connections": strconv.Itoa(n), "udp": "off"}
	if n == byUDP {
		f = flags{"udp": "require"}
	}
	c := w.StartClient(usualFlags.with(f))
	c.WaitUp()
	session := w.Session()
	w.waitConnections(max(n, 1))
	if n == byUDP {
		eventually(w.t, 20*time.Second, "the server sends by UDP", c.sendsByUDP)
	}
	cable.tcp.Lose(loss)
	cable.udp.Lose(loss)
	var row []string
	for _, flows := range []int{1, 8} {
		row = append(row, fmt.Sprintf("%d down %5.1f", flows, w.pull(flows)), fmt.Sprintf("%d up %5.1f", flows, w.push(flows)))
	}
	w.t.Logf("%-18s %d connections, Mbit/s by flows: %s", name, n, strings.Join(row, ", "))
	cable.tcp.Lose(0)
	cable.udp.Lose(0)
	c.Terminate()
	w.srv.Disconnect(session)
}

// measureTime is how long each figure is taken over, after as much as flows take to start.
const measureTime = 6 * time.Second

// pull downloads by so many flows at once, and returns Mbit/s of all.
func (w *world) pull(flows int) float64 {
	return w.carryFlows(flows, "tx_bytes", "--output", "/dev/null", "http://"+w.siteAddress()+"/zeros/10000000000")
}

// push uploads likewise.
func (w *world) push(flows int) float64 {
	return w.carryFlows(flows, "rx_bytes", "--output", "/dev/null", "--upload-file", "/dev/zero", "http://"+w.siteAddress()+"/sink")
}

// carryFlows counts what the LAN's side has of it, headers included.
func (w *world) carryFlows(flows int, counter string, args ...string) float64 {
	w.t.Helper()
	seconds := strconv.Itoa(int(measureTime / time.Second))
	carried := func() float64 {
		n, err := strconv.ParseFloat(strings.TrimSpace(w.lan.ns.output("cat", "/sys/class/net/br0/statistics/"+counter)), 64)
		if err != nil {
			w.t.Fatal(err)
		}
		return n
	}
	before := carried()
	var g sync.WaitGroup
	for range flows {
		g.Go(func() {
			cmd := w.cli.Command(append([]string{"curl", "--silent", "--proxy", w.proxy, "--max-time", seconds}, args...)...)
			_ = cmd.Run() // it always runs out of time
		})
	}
	g.Wait()
	return (carried() - before) * 8 / 1e6 / measureTime.Seconds()
}
