//go:build linux

package integration

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A typist sits at a terminal.
type typist struct {
	t      testing.TB
	master *os.File
	cmd    *exec.Cmd
	done   chan struct{}

	mu    sync.Mutex
	shown strings.Builder
}

// newTypist starts a program at a terminal of its own.
func newTypist(t testing.TB, cmd *exec.Cmd) *typist {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("%v; a container wants -t or /dev/pts mounted", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	if err := slave.Chmod(0o666); err != nil { // the program is another user's
		t.Fatal(err)
	}
	ty := &typist{t: t, master: master, cmd: cmd, done: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(ty.done)
		cmd.Wait()
	}()
	go io.Copy(ty, master)
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ty.done
		if t.Failed() {
			t.Logf("---- the terminal:\n%s", ty.screen())
		}
	})
	return ty
}

func (ty *typist) Write(b []byte) (int, error) {
	ty.mu.Lock()
	defer ty.mu.Unlock()
	return ty.shown.Write(b)
}

func (ty *typist) screen() string {
	ty.mu.Lock()
	defer ty.mu.Unlock()
	return ty.shown.String()
}

// Type types keys and waits for text in what is shown from then on.
func (ty *typist) Type(keys, want string) {
	ty.t.Helper()
	before := len(ty.screen())
	if _, err := io.WriteString(ty.master, keys); err != nil {
		ty.t.Fatal(err)
	}
	eventually(ty.t, upTime, fmt.Sprintf("%q is answered by %q", keys, want), func() error {
		if got := ty.screen()[before:]; !strings.Contains(got, want) {
			return fmt.Errorf("got %q", got)
		}
		return nil
	})
}

// TypeJob types a line that brings a job to the foreground, and waits until it is there:
// keys typed before would be the shell's.
func (ty *typist) TypeJob(line, want string) {
	ty.t.Helper()
	shell := ty.foreground()
	ty.Type(line, want)
	eventually(ty.t, upTime, fmt.Sprintf("%q is in the foreground", line), func() error {
		if ty.foreground() == shell {
			return errors.New("the shell is")
		}
		return nil
	})
}

// foreground returns the process group that the keys are for.
func (ty *typist) foreground() int {
	ty.t.Helper()
	group, err := unix.IoctlGetInt(int(ty.master.Fd()), unix.TIOCGPGRP)
	if err != nil {
		ty.t.Fatal(err)
	}
	return group
}

const (
	ctrlC = "\x03"
	ctrlZ = "\x1a"
)

// Proves that a shell inside has a terminal with job control.
func TestRunAShellWithJobControl(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ty := newTypist(t, w.RunCommand(runFlags, "bash", "--norc", "--noprofile", "-i"))
	ty.Type("PS1='pro''mpt> '; unset HISTFILE\n", "prompt> ")
	ty.Type("tty; curl -sS --max-time 10 http://"+siteName+"/\n", strings.TrimSpace(sitePage))
	ty.TypeJob("sleep 1000\n", "sleep")
	ty.Type(ctrlZ, "Stopped")
	ty.TypeJob("fg\n", "sleep 1000")
	ty.Type(ctrlC, "prompt> ")
	ty.Type("echo code $?\n", "code 130")
	ty.Type("stty -a | tr ' ' '\\n' | grep -x isig; exit 7\n", "exit")
	<-ty.done
	if code := ty.cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit code: got %d, want 7", code)
	}
}

// Proves that the shell outside sees one job: stopped, continued, interrupted, in a pipe
// and in the background like any other program.
func TestRunIsAJobLikeAnyOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(run.dir, w.cli.name+"-bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nexec " + client + " run " + shellWords(runFlags.args()) + "-- \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "vpn"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	ty := newTypist(t, w.asUser("bash", "--norc", "--noprofile", "-i"))
	ty.Type("PS1='pro''mpt> '; unset HISTFILE; PATH=$PATH:"+bin+"\n", "prompt> ")
	ty.Type("vpn bash -c 'echo be''gun; sleep 1000'\n", "begun")
	ty.Type(ctrlZ, "Stopped")
	ty.Type("jobs\n", "Stopped")
	ty.Type("fg\n", "vpn")
	ty.Type(ctrlC, "prompt> ")
	ty.Type("echo code $?\n", "code 130")

	// One that stops itself alone.
	ty.Type("vpn bash -c 'kill -STOP $$; echo went on; exit 9'\n", "Stopped")
	ty.Type("fg\n", "went on")
	ty.Type("echo code $?\n", "code 9")

	ty.Type("vpn curl -sS --max-time 10 http://"+siteName+"/ | cat | tr a-z A-Z\n", strings.ToUpper(strings.TrimSpace(sitePage)))
	ty.Type("vpn bash -c 'read -t 30 -p que''stion: answer; echo got $answer' | cat\n", "question:")
	ty.Type("this\n", "got this")

	// It is interrupted once by one key.
	ty.Type("vpn "+insideProgram(t)+" signals\n", "waiting")
	ty.Type(ctrlC, "got interrupt")
	ty.Type(ctrlZ, "Stopped")
	ty.Type("bg\n", "vpn")
	ty.Type("kill %1; wait; echo \"[\"done\"]\"\n", "[done]")
	if n := strings.Count(ty.screen(), "got interrupt"); n != 1 {
		t.Errorf("got %d interrupts of one key, want 1", n)
	}
	// By one that is for the program alone too, also in the foreground.
	before := len(ty.screen())
	now := filepath.Join(bin, "now")
	ty.Type("sh -c '(while [ ! -e "+now+" ]; do sleep 0.1; done; kill -INT $$) & exec vpn "+insideProgram(t)+" signals'\n", "waiting")
	if err := os.WriteFile(now, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ty.Type("", "got interrupt")
	ty.Type(ctrlC, "got interrupt")
	ty.Type(ctrlZ, "Stopped")
	ty.Type("bg\n", "vpn")
	ty.Type("kill %1; wait; echo \"[\"gone\"]\"\n", "[gone]")
	if n := strings.Count(ty.screen()[before:], "got interrupt"); n != 2 {
		t.Errorf("got %d interrupts of one signal and one key, want 2", n)
	}
	ty.Type("exit 0\n", "exit")
	<-ty.done
}

// shellWords quotes arguments for a shell.
func shellWords(args []string) string {
	var b strings.Builder
	for _, a := range args {
		b.WriteString("'" + strings.ReplaceAll(a, "'", `'\''`) + "' ")
	}
	return b.String()
}
