package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Signals that the front gets for the command. Those of the keyboard the kernel sends to
// the whole process group, so the command has them already: whom they are passed on to
// sees to that.
var (
	passedOn   = []syscall.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT}
	ofKeyboard = []syscall.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP}
	ofTerminal = []syscall.Signal{unix.SIGTTIN, unix.SIGTTOU} // if they stop the command, we hear of it
)

// notify catches the signals, but for those that our parent had us ignore: so will
// the command.
func notify(c chan<- os.Signal) (release func()) {
	for _, s := range slices.Concat(passedOn, ofKeyboard, ofTerminal) {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	return func() { signal.Stop(c) }
}

// signal passes a signal on. Before the command starts, and when there is only what it
// has left behind, one that ends programs ends us.
func (f *front) signal(s syscall.Signal) error {
	ends := slices.Contains([]syscall.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT}, s)
	switch {
	case ends && f.enters:
		return context.Canceled // as it was asked
	case ends && !f.started:
		return commandExit{code: 128 + int(s)}
	case ends && f.exit != nil:
		return f.ended()
	case slices.Contains(ofTerminal, s):
		return nil
	}
	if err := f.room.Signal(s); err != nil {
		f.log.Debug("signal not passed on", "signal", s, "cause", err)
	}
	return nil
}
