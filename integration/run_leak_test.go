//go:build linux

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// strayRules count in the client's namespace what leaves by the host's interfaces that is
// not to or from the VPN server's port: by any interface and any protocol, ARP and IPv6's
// own included if it is not for the server.
const strayRules = `
table netdev stray {
	chain out {
		type filter hook egress device eth0 priority 0; policy accept;
		ip daddr ` + serverAddress + ` tcp dport { ` + serverPort + `, ` + middleboxPort + ` } counter name carried accept
		arp daddr ip ` + serverAddress + ` accept
		ip6 saddr :: accept
		icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept
		counter name strays
	}
	counter strays {}
	counter carried {}
}
`

// countStrays begins to count. The host's own resolver is asked by nobody here.
func (w *world) countStrays() {
	w.t.Helper()
	needTool(w.t, "nft", "nftables")
	file := filepath.Join(run.dir, w.cli.name+".nft")
	if err := os.WriteFile(file, []byte(strayRules), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if out, err := w.cli.Command("nft", "-f", file).CombinedOutput(); err != nil {
		w.t.Fatalf("count what leaves: %v\n%s", err, out)
	}
	// There is a way out for whoever is not held back.
	w.cli.IP("route", "add", "default", "via", serverAddress)
}

var counterPackets = regexp.MustCompile(`packets (\d+)`)

// left returns how many packets a counter has seen.
func (w *world) left(counter string) int {
	w.t.Helper()
	out, err := w.cli.Command("nft", "list", "counter", "netdev", "stray", counter).Output()
	m := counterPackets.FindStringSubmatch(string(out))
	if err != nil || m == nil {
		w.t.Fatalf("counter %s: %v\n%s", counter, err, out)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// Proves that whatever a command sends leaves by the tunnel or not at all: while it is
// up, while it reconnects and once the process that holds the session has been killed.
func TestRunLeavesNothingBesideTheTunnel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.startMiddlebox()
	w.countStrays()

	// The counter works, and there is a way out to be held back from.
	w.cli.Command("ping", "-n", "-c", "1", "-W", "1", "203.0.113.9").Run()
	before := w.left("strays")
	if before == 0 {
		t.Fatal("a packet of the host is not counted")
	}

	p := start(t, "run", w.RunCommand(runFlags.with(flags{"port": middleboxPort}),
		insideProgram(t), "send", "203.0.113.9", serverAddress, clientAddress, lanGateway, "2001:db8::9", "ff02::1"))
	p.WaitLog("sending", upTime)
	carried := w.left("carried")
	settle := func(state string) {
		t.Helper()
		time.Sleep(500 * time.Millisecond) // in which the command tries a hundred times
		if got := w.left("strays"); got != before {
			t.Errorf("%s: %d packets left beside the tunnel", state, got-before)
		}
	}
	settle("up")
	if w.left("carried") == carried {
		t.Error("nothing leaves by the tunnel either")
	}

	m.Refuse(true)
	m.Cut()
	p.WaitLog("session lost|not connected", upTime)
	settle("reconnecting")
	m.Refuse(false)

	vpn := childOf(t, p.PID(), "run-vpn")
	if err := syscall.Kill(vpn, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.WaitLog("no network any more", upTime)
	settle("after the VPN process was killed")
	if !p.Running() {
		t.Error("the command was killed along")
	}

	// The front's death is the command's.
	command := childOf(t, childOf(t, p.PID(), "run-init"), "send")
	p.Signal(syscall.SIGKILL)
	eventually(t, upTime, "the command ends with the front", func() error {
		if syscall.Kill(command, 0) == nil {
			return errors.New("it lives")
		}
		return nil
	})
	settle("after the front was killed")
}

// childOf returns the child of a process that has a word in its command line.
func childOf(t testing.TB, parent int, word string) (pid int) {
	t.Helper()
	eventually(t, upTime, fmt.Sprintf("%d has a child %s", parent, word), func() error {
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range stats {
			stat, _ := os.ReadFile(path)
			fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			if len(fields) > 1 && fields[1] == strconv.Itoa(parent) && strings.Contains(string(cmdline), word) {
				pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(path)))
				return nil
			}
		}
		return errors.New("not there")
	})
	return pid
}

// Proves that many commands run at once, each with a network of its own.
func TestTenRunsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(run.dir, w.cli.name+"-there") // by which each knows of the others
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	addresses := map[string]int{}
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			cmd := w.RunCommand(runFlags, "sh", "-c", "touch "+dir+"/$$; while [ $(ls "+dir+" | wc -l) -lt 10 ]; do sleep 0.1; done; "+
				"curl -sS --max-time 20 http://"+siteName+"/; ip -o -4 address show dev vpn0 | tr -s ' ' | cut -d' ' -f4; exit "+strconv.Itoa(i))
			out, errs, code := finish(t, cmd)
			page, address, _ := strings.Cut(out, "\n")
			if page+"\n" != sitePage || code != i {
				t.Errorf("number %d: got %q, exit code %d\n%s", i, out, code, errs)
			}
			mu.Lock()
			addresses[address]++
			mu.Unlock()
		})
	}
	all.Wait()
	if len(addresses) != 10 {
		t.Errorf("addresses: got %v, want ten", addresses)
	}
}
