//go:build linux

package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A process is a long-running program with its output in a file. It leads a
// session of its own, so that killing it takes its children along.
//
// It is not tied to this process by a death signal: that signal follows the
// thread that started it, and threads that enter a namespace end early.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has been waited for
}

var logNumber atomic.Int64

// start runs cmd until the test ends or it is stopped.
func start(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: cmd, done: make(chan struct{})}
	p.log = filepath.Join(run.dir, fmt.Sprintf("%03d-%s.log", logNumber.Add(1), name))
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		pauseOnce(t)
		p.Kill()
		if t.Failed() {
			t.Logf("---- end of the output of %s:\n%s", name, lastLines(p.Log(), 40))
		}
	})
	return p
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Log returns all output so far.
func (p *process) Log() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

// PID returns the id of the program itself: what starts it replaces itself by it.
func (p *process) PID() int { return p.cmd.Process.Pid }

// Running reports whether the program has not ended yet.
func (p *process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends sig to the program alone.
func (p *process) Signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// Terminate ends the program as service managers do, and fails the test unless it
// ends promptly and well.
func (p *process) Terminate() {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	if got := p.ExitCode(promptly); got != exitStopped {
		p.t.Errorf("exit code: got %d, want %d", got, exitStopped)
	}
}

// Kill ends the program and its children without a chance to tidy up.
func (p *process) Kill() {
	err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("kill %s: %v", p.name, err)
	}
	<-p.done
}

// ExitCode waits for the program to end by itself and returns its code, -1 for a signal.
func (p *process) ExitCode(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("%s has not ended within %v", p.name, within)
		return -1
	}
}

// WaitLog waits until the output has a match of pattern.
func (p *process) WaitLog(pattern string, within time.Duration) {
	p.t.Helper()
	p.WaitLogAfter(0, pattern, within)
}

// WaitLogAfter is WaitLog for output beyond offset, a length of Log taken earlier.
func (p *process) WaitLogAfter(offset int, pattern string, within time.Duration) {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	eventually(p.t, within, fmt.Sprintf("%s prints %q", p.name, pattern), func() error {
		if log := p.Log(); re.MatchString(log[min(offset, len(log)):]) {
			return nil
		}
		if !p.Running() {
			return errors.New("it has ended")
		}
		return errors.New("not yet")
	})
}

// eventually tries until there is no error, and fails the test with the last one.
func eventually(t testing.TB, within time.Duration, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
