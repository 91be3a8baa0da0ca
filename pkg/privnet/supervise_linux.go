package privnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// supervise starts the command and waits for it and for all that it leaves behind.
func (i *inside) supervise() error {
	if err := i.startCommand(); err != nil {
		return i.front.Send(Event{Exited: &Exit{Code: startCode(err), Why: err.Error()}})
	}
	_ = i.front.Send(Event{Started: true}) // a front that is gone has us killed
	releaseTerminal()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil:
			return fmt.Errorf("wait for processes: %w", err)
		}
		i.note(pid, status)
	}
}

// startCommand starts the command as a child of this thread.
func (i *inside) startCommand() error {
	attributes := &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if i.spec.Capture {
		attributes.AmbientCaps = []uintptr{unix.CAP_NET_RAW}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended {
		return errors.New("nobody waits for it any more")
	}
	pid, _, err := syscall.StartProcess(i.command.Path, i.command.Args, &syscall.ProcAttr{
		Env: i.command.Env, Files: []uintptr{0, 1, 2}, Sys: attributes})
	if err != nil {
		return fmt.Errorf("%s: %w", i.command.Path, err)
	}
	i.pid = pid
	return nil
}

// startCode is what a shell returns for a command that does not start.
func startCode(err error) int {
	if errors.Is(err, fs.ErrNotExist) {
		return 127
	}
	return 126
}

// releaseTerminal gives up what only the command needs: a reader at the other end of a
// pipe is to see the end when the command closes it.
func releaseTerminal() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	for fd := range 3 {
		_ = unix.Dup3(int(null.Fd()), fd, 0)
	}
}

// note tells the front what became of the command; others are just reaped.
func (i *inside) note(pid int, status unix.WaitStatus) {
	i.mu.Lock()
	command := pid == i.pid
	if command && !status.Stopped() {
		i.pid = 0
	}
	ended := i.ended
	i.mu.Unlock()
	if ended {
		killChildren() // those that a killed one left to us
	}
	if !command {
		return
	}
	switch {
	case status.Stopped():
		_ = i.front.Send(Event{Stopped: int(status.StopSignal())})
	case status.Signaled():
		_ = i.front.Send(Event{Exited: &Exit{Code: 128 + int(status.Signal())}})
	default:
		_ = i.front.Send(Event{Exited: &Exit{Code: status.ExitStatus()}})
	}
}

// killChildren kills all children of this process. Theirs become ours.
func killChildren() {
	for _, pid := range children() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// children lists the children of this process, of whichever of its threads.
func children() (pids []int) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	own := strconv.Itoa(os.Getpid())
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue
		}
		if parentOf(string(stat)) == own {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parentOf takes the parent from a line of /proc/PID/stat: the fourth field, behind the
// name in parentheses, which may contain anything (proc_pid_stat(5)).
func parentOf(stat string) string {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return ""
	}
	return fields[1]
}
