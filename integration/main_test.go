//go:build linux

package integration

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// waitingTests is how many tests may run at once. They mostly wait for timers
// of the protocol, so this is more than the cores.
const waitingTests = "6"

const (
	runPrefix = "softether-go-it-" // directories of runs, in the temporary directory
	nsPrefix  = "se-"              // namespaces of runs: se-<run>-<number><role>
)

// run is what one execution of the test binary owns.
var run struct {
	id   string
	dir  string   // readable by the unprivileged client
	lock *os.File // locked as long as this process lives
}

func TestMain(m *testing.M) {
	flag.Parse()
	if signal.Ignored(syscall.SIGHUP) { // by nohup, and all that we start would ignore it too
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	explicit := false
	flag.Visit(func(f *flag.Flag) { explicit = explicit || f.Name == "test.parallel" })
	if !explicit {
		flag.Set("test.parallel", waitingTests)
	}
	if os.Geteuid() != 0 {
		return m.Run() // everything skips by itself
	}
	removeLeftovers()
	if err := openRun(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	defer removeRun(run.id, run.dir)
	return m.Run()
}

// openRun makes the directory of this run. The lock appears under its name only
// when it is held, so another run never takes a directory in the making for a leftover.
func openRun() error {
	dir, err := os.MkdirTemp("", runPrefix)
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	lock, err := os.Create(filepath.Join(dir, "lock.new"))
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	run.id, run.dir, run.lock = strings.TrimPrefix(filepath.Base(dir), runPrefix), dir, lock
	return os.Rename(lock.Name(), filepath.Join(dir, "lock"))
}

// removeLeftovers clears what killed runs left: a run directory whose lock is free.
func removeLeftovers() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), runPrefix+"*"))
	for _, dir := range dirs {
		lock, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil {
			continue
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			removeRun(strings.TrimPrefix(filepath.Base(dir), runPrefix), dir)
		}
		lock.Close()
	}
}

// removeRun ends what runs in the containers and namespaces of one run and removes
// them and its files.
func removeRun(id, dir string) {
	removeDocker(id)
	names, _ := filepath.Glob("/run/netns/" + nsPrefix + id + "-*")
	for _, name := range names {
		removeNamespace(filepath.Base(name))
	}
	os.RemoveAll(dir)
}

// removeNamespace kills everything in a namespace of ours, then the namespace.
func removeNamespace(name string) {
	out, _ := exec.Command("ip", "netns", "pids", name).Output()
	for pid := range strings.FieldsSeq(string(out)) {
		exec.Command("kill", "-KILL", pid).Run()
	}
	exec.Command("ip", "netns", "del", name).Run()
}
