//go:build linux

package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// exactCPU returns the CPU time of processes to the nanosecond, threads that have
// ended included: their CPU clocks, which any process may read (MAKE_PROCESS_CPUCLOCK
// of the kernel's posix-timers_types.h, with CPUCLOCK_SCHED).
func exactCPU(t testing.TB, pids []int) time.Duration {
	t.Helper()
	var total time.Duration
	for _, pid := range pids {
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
			t.Fatalf("CPU clock of process %d: %v", pid, err)
		}
		total += time.Duration(ts.Nano())
	}
	return total
}

// busyCPU returns the CPU time that the whole machine has used since it started:
// what is not idle. The kernel measures idle time, and only samples the rest.
// Steps of 10 ms.
func busyCPU(t testing.TB) time.Duration {
	t.Helper()
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	var idle time.Duration
	for _, field := range strings.Fields(line)[1+3 : 1+5] { // idle, iowait (proc_stat(5))
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		idle += time.Duration(n) * 10 * time.Millisecond
	}
	cores := strings.Count(string(stat), "\ncpu")
	return time.Duration(cores)*sinceBoot(t) - idle
}

func sinceBoot(t testing.TB) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// resident returns a figure of memory of processes, added up, in bytes: VmRSS is
// what they hold, VmHWM the most since forgetPeak.
func resident(t testing.TB, pids []int, field string) (total float64) {
	t.Helper()
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, found := strings.Cut(string(status), field+":")
		if !found {
			t.Fatalf("process %d has no %s", pid, field)
		}
		kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		total += kib * 1024
	}
	return total
}

// forgetPeak lets VmHWM begin anew.
func forgetPeak(t testing.TB, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// A syscallCounter counts the system calls of processes, new threads included.
// Counting slows every system call of the machine, so it has windows of its own.
type syscallCounter struct{ events []int }

// countSyscalls returns nil where the kernel cannot count, with the reason.
func countSyscalls(pids []int) (*syscallCounter, error) {
	id, err := tracepoint("raw_syscalls/sys_enter")
	if err != nil {
		return nil, err
	}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Bits: unix.PerfBitInherit}
	attr.Size = uint32(unsafe.Sizeof(attr))
	c := &syscallCounter{}
	for _, pid := range pids {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			fd, err := unix.PerfEventOpen(&attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if err == unix.ESRCH {
				continue // ended meanwhile
			}
			if err != nil {
				c.Close()
				return nil, fmt.Errorf("perf_event_open: %w", err)
			}
			c.events = append(c.events, fd)
		}
	}
	return c, nil
}

// tracepoint returns the kernel's number of one. Where nobody has mounted the file
// system that tells it, that is done for a moment.
func tracepoint(name string) (uint64, error) {
	number := filepath.Join("events", name, "id")
	for _, root := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		b, err := os.ReadFile(filepath.Join(root, number))
		if err == nil {
			return strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
		}
	}
	dir, err := os.MkdirTemp(run.dir, "tracefs")
	if err == nil {
		err = unix.Mount("none", dir, "tracefs", unix.MS_RDONLY, "")
	}
	if err != nil {
		return 0, fmt.Errorf("no tracepoint %s: mount tracefs: %w", name, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, number))
	if e := unix.Unmount(dir, unix.MNT_DETACH); err == nil {
		err = e
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
}

// Count returns the calls so far.
func (c *syscallCounter) Count() (total float64) {
	for _, fd := range c.events {
		var b [8]byte
		if _, err := unix.Read(fd, b[:]); err == nil {
			total += float64(binary.NativeEndian.Uint64(b[:]))
		}
	}
	return total
}

func (c *syscallCounter) Close() {
	for _, fd := range c.events {
		unix.Close(fd)
	}
}
