//go:build linux

package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A contender is a way to a SOCKS5 proxy behind the same hub.
type contender struct {
	name  string
	proxy string
	pids  []int // of the processes whose CPU time counts

	seconds, cpu float64 // of all rounds
}

// BenchmarkDownload compares one download through our SOCKS5 proxy with one
// through SoftEther's client and microsocks, on the same server and in turns, so
// that a noisy machine is noisy for both. The ratios are what to look at.
func BenchmarkDownload(b *testing.B) {
	benchmarkTransfer(b, func(size int64) []string {
		return []string{"--output", "/dev/null", "http://" + lanGateway + "/zeros/" + strconv.FormatInt(size, 10)}
	})
}

// BenchmarkUpload is BenchmarkDownload the other way.
func BenchmarkUpload(b *testing.B) {
	benchmarkTransfer(b, func(size int64) []string {
		file := filepath.Join(run.dir, "zeros") // sparse
		f, err := os.Create(file)
		if err == nil {
			err = f.Truncate(size)
		}
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
		return []string{"--upload-file", file, "http://" + lanGateway + "/discard"}
	})
}

func benchmarkTransfer(b *testing.B, curl func(size int64) []string) {
	const size, rounds = 256 << 20, 4
	w := newWorld(b)
	ours, theirs := w.startContenders()
	args := curl(size)
	n := 0
	for b.Loop() {
		for range rounds {
			w.measure(ours, args)
			w.measure(theirs, args)
			n++
		}
	}
	total := float64(n) * size
	for _, c := range []*contender{ours, theirs} {
		b.ReportMetric(total*8/1e9/c.seconds, c.name+"-Gbit/s")
		b.ReportMetric(c.cpu/(total/1e9), c.name+"-cpu-s/GB")
	}
	b.ReportMetric(theirs.seconds/ours.seconds, "rate-ratio")
	b.ReportMetric(ours.cpu/theirs.cpu, "cpu-ratio")
	b.ReportMetric(0, "ns/op") // says nothing here
}

// startContenders connects both clients. They share a namespace: ours has its own
// network stack, the other has the kernel's.
func (w *world) startContenders() (ours, theirs *contender) {
	w.t.Helper()
	needTool(w.t, "microsocks", "microsocks")
	c := w.StartClient(usualFlags)
	c.WaitUp()
	o := startOfficial(w.t, w.cli)
	o.Connect(serverAddress+":"+serverPort, hubName, userPassword, officialAddress)
	m := start(w.t, "microsocks", w.cli.Command("microsocks", "-i", "127.0.0.1", "-p", "1081"))
	ours = &contender{name: "ours", proxy: "socks5h://" + socksProxy, pids: []int{c.PID()}}
	theirs = &contender{name: "official", proxy: "socks5h://127.0.0.1:1081", pids: append(family(w.t, o.proc.PID()), m.PID())}
	for _, c := range []*contender{ours, theirs} {
		eventually(w.t, upTime, c.name+" carries traffic", func() error {
			_, err := w.Curl("--proxy", c.proxy, "--max-time", "2", "http://"+lanGateway+"/")
			return err
		})
	}
	return ours, theirs
}

// measure runs one transfer and adds up its time and CPU time.
func (w *world) measure(c *contender, curl []string) {
	w.t.Helper()
	cpu, begun := cpuSeconds(w.t, c.pids), time.Now()
	if _, err := w.Curl(append([]string{"--proxy", c.proxy}, curl...)...); err != nil {
		w.t.Fatalf("%s: %v", c.name, err)
	}
	c.seconds += time.Since(begun).Seconds()
	c.cpu += cpuSeconds(w.t, c.pids) - cpu
}

// cpuSeconds returns the CPU time of processes. Not the sum over their threads'
// schedstat: threads that have ended, of which microsocks has one for each
// connection, are missing there. The kernel scales this sum to the scheduler's
// own count, so that only the rounding to clock ticks (10 ms) is lost.
func cpuSeconds(t testing.TB, pids []int) float64 {
	t.Helper()
	ticks := 0
	for _, pid := range pids {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			t.Fatal(err)
		}
		// Fields count from the one after the name, which is the third (proc_pid_stat(5)).
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, field := range fields[14-3 : 16-3] { // user and system time
			n, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			ticks += n
		}
	}
	return float64(ticks) / 100 // USER_HZ of every Linux that Go supports
}

// family returns the processes of the session that a process of ours leads:
// itself and what it forked.
func family(t testing.TB, leader int) []int {
	t.Helper()
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		if session, err := unix.Getsid(pid); err == nil && session == leader {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		t.Fatalf("process %d is gone", leader)
	}
	return pids
}
