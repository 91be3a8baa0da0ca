//go:build linux

package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	residentMemory    metric = "resident-MB"
	coreShare         metric = "percent-of-a-core"
	connsPerSecond    metric = "connections/s"
	connTimeP99       metric = "connection-p99-ms"
	cpuPerConn        metric = "CPU-ms/connection"
	failedConnections metric = "errors"
	openConnections   metric = "open"
	memoryPerConn     metric = "KB/connection"

	dialers = 32 // that open connections at once
)

var manySheets = []sheet{{
	name:  churnTable,
	about: fmt.Sprintf("SOCKS5 connections one after the other by %d workers: connect, a byte to an echo service and back, close.", dialers),
	peers: peers,
	columns: []column{
		{connsPerSecond, "connections/s", map[string]string{oursSOCKS: "≥ 3,000 on the hub"}, false},
		{connTimeP99, "p99, ms", nil, false},
		{cpuPerConn, "CPU ms each, client", nil, false},
		{failedConnections, "errors", map[string]string{oursSOCKS: "0"}, true},
	},
}, {
	name:  openTable,
	about: "SOCKS5 connections held open after a byte to an echo service and back; fresh clients. As many as the limit of open files allows.",
	peers: peers,
	columns: []column{
		{openConnections, "open", nil, true},
		{residentMemory, "resident MB, client", map[string]string{oursSOCKS: "≤ 300 for 10,000"}, true},
		{memoryPerConn, "KB each", nil, false},
		{failedConnections, "errors", map[string]string{oursSOCKS: "0"}, true},
	},
}, {
	name:  idleTable,
	about: "Connected, and nothing to do, 3 s after the start.",
	peers: peers,
	columns: []column{
		{residentMemory, "resident MB, client", map[string]string{oursTAP: "≤ 20", oursSOCKS: "≤ 20"}, false},
		{coreShare, "% of a core, client", map[string]string{oursTAP: "≤ 0.2", oursSOCKS: "≤ 0.2"}, false},
	},
}}

// compareIdle watches all entrants at once: none of them does much.
func compareIdle(t testing.TB, r *report, entrants []*entrant) {
	const idle = 10 * time.Second
	time.Sleep(3 * time.Second)
	before := make([]time.Duration, len(entrants))
	for i, e := range entrants {
		before[i] = exactCPU(t, e.pids)
	}
	time.Sleep(idle)
	for i, e := range entrants {
		used := exactCPU(t, e.pids) - before[i]
		r.Add(t, idleTable, "connected", e.name, figures{
			residentMemory: resident(t, e.pids, "VmRSS") / 1e6,
			coreShare:      used.Seconds() / idle.Seconds() * 100,
		})
	}
}

func compareChurn(t testing.TB, r *report, entrants []*entrant) {
	for _, e := range entrants {
		e.manyPorts()
	}
	inTurns(entrants, func(e *entrant) { r.Add(t, churnTable, e.place.name, e.name, e.churn()) })
}

// manyPorts makes room for connections that wait out their end (RFC 9293, TIME-WAIT).
func (e *entrant) manyPorts() {
	e.t.Helper()
	err := e.ns.do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("11000 65000"), 0o644)
	})
	if err != nil {
		e.t.Fatal(err)
	}
}

// churn opens and closes connections for a window.
func (e *entrant) churn() figures {
	e.t.Helper()
	cpu := exactCPU(e.t, e.pids)
	p, err := childCommand(e.ns, childMany, e.proxy, window().String())
	if err != nil {
		e.t.Fatal(err)
	}
	if code := p.ExitCode(window() + 20*time.Second); code != 0 {
		e.t.Fatalf("the dialers ended with code %d:\n%s", code, p.Log())
	}
	cpu = exactCPU(e.t, e.pids) - cpu
	var m many
	if err := json.NewDecoder(strings.NewReader(p.Log())).Decode(&m); err != nil {
		e.t.Fatal(err)
	}
	f := figures{connsPerSecond: float64(m.Opened) / m.Elapsed.Seconds(), failedConnections: float64(m.Failed)}
	if m.Opened > 0 {
		f[connTimeP99] = milliseconds(m.P99)
		f[cpuPerConn] = milliseconds(cpu) / float64(m.Opened)
	}
	return f
}

// byDialers calls work from threads in the entrant's namespace until each call has
// returned false.
func (e *entrant) byDialers(work func(worker int) bool) {
	var g sync.WaitGroup
	for worker := range dialers {
		g.Go(func() {
			e.ns.do(func() error {
				for work(worker) {
				}
				return nil
			})
		})
	}
	g.Wait()
}

// openEcho opens a connection that is known to carry bytes, by a SOCKS5 proxy or if
// that is empty by the kernel.
func openEcho(proxy string) (net.Conn, error) {
	const patience = 10 * time.Second
	c, err := connectBy(proxy, echoTarget, patience)
	if err != nil {
		return nil, err
	}
	if err := echoOnce(c, patience); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// compareOpen holds connections open through clients that have done nothing else.
func compareOpen(t testing.TB, r *report) {
	p := newPlace(t, realServer)
	files := allowManyFiles(t)
	for _, e := range p.enter(officialSOCKS, oursSOCKS) {
		e.manyPorts()
		idle := resident(t, e.pids, "VmRSS")
		var conns []net.Conn
		for _, n := range []int{1_000, 10_000} {
			// Microsocks has two files for each, and this process one.
			more, failed := e.openMany(min(n, (files-200)/2) - len(conns))
			conns = append(conns, more...)
			time.Sleep(time.Second)
			used := resident(t, e.pids, "VmRSS")
			f := figures{openConnections: float64(len(conns)), residentMemory: used / 1e6, failedConnections: float64(failed)}
			if len(conns) > 0 {
				f[memoryPerConn] = (used - idle) / 1e3 / float64(len(conns))
			}
			r.Add(t, openTable, fmt.Sprintf("%d wanted", n), e.name, f)
		}
		for _, c := range conns {
			c.Close()
		}
		time.Sleep(12 * time.Second) // we look every 2 s whether it is quiet, and connections wait 5 s for their end
		r.Add(t, openTable, "12 s after their end", e.name, figures{residentMemory: resident(t, e.pids, "VmRSS") / 1e6})
	}
}

func (e *entrant) openMany(n int) (conns []net.Conn, failed int) {
	var mu sync.Mutex
	e.byDialers(func(worker int) bool {
		mu.Lock()
		left := n
		n--
		mu.Unlock()
		if left <= 0 {
			return false
		}
		c, err := openEcho(e.proxy)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed++
		} else {
			conns = append(conns, c)
		}
		return true
	})
	return conns, failed
}

// allowManyFiles lets this process and all it starts have as many open files as
// the system allows, and returns how many that is.
func allowManyFiles(t testing.TB) int {
	t.Helper()
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	if err == nil {
		limit.Cur = min(limit.Max, 1<<20)
		err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) // without it children get what was before Go raised it
	}
	if err != nil {
		t.Fatal(err)
	}
	return int(limit.Cur)
}
