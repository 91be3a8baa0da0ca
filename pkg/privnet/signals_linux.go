package privnet

import (
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// groupLag is how much later than the front init may see a signal that was for the
	// whole process group: some scheduling delays. Who gets one of these twice does
	// the same again.
	groupLag = 200 * time.Millisecond
	// keyLag is the same for the keyboard's: a second Ctrl-C is more than one, so we are
	// to be surer.
	keyLag = time.Second
	// groupAge is after how long a signal that init got has nothing to do with one that
	// the front tells of.
	groupAge = 3 * time.Second
)

// shared are signals that may be for the whole process group: those of the keyboard and
// the terminal, and what people send to a job.
var shared = []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGHUP,
	unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM}

// groupSignals tells signals for the whole process group from those for the front alone.
// The front, init and the command are in one group, so of the former init has got its own,
// and the command too: it needs no second one. Init itself lets them pass. The command
// has their default action, as a signal that is caught, unlike one that is ignored, is not
// inherited so.
type groupSignals struct {
	caught chan os.Signal
	done   chan struct{}

	mu   sync.Mutex // guards all below
	seen map[syscall.Signal]time.Time
	more chan struct{} // closed and replaced at each
}

func (g *groupSignals) catch() {
	g.caught, g.done = make(chan os.Signal, 16), make(chan struct{})
	g.seen, g.more = map[syscall.Signal]time.Time{}, make(chan struct{})
	for _, s := range shared {
		if !signal.Ignored(s) { // else the command is to ignore it too
			signal.Notify(g.caught, s)
		}
	}
	go func() {
		defer close(g.done)
		for s := range g.caught {
			g.note(s.(syscall.Signal))
		}
	}()
}

func (g *groupSignals) release() {
	signal.Stop(g.caught)
	close(g.caught)
	<-g.done
}

func (g *groupSignals) note(s syscall.Signal) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen[s] = time.Now()
	close(g.more)
	g.more = make(chan struct{})
}

// had reports whether a signal that the front has got was for the whole group. It waits
// for groupLag or keyLag to be sure that it was not.
func (g *groupSignals) had(s syscall.Signal) bool {
	if !slices.Contains(shared, os.Signal(s)) {
		return false
	}
	lag := groupLag
	if s == unix.SIGINT || s == unix.SIGQUIT || s == unix.SIGTSTP {
		lag = keyLag
	}
	late := time.NewTimer(lag)
	defer late.Stop()
	for {
		g.mu.Lock()
		at, ok := g.seen[s]
		delete(g.seen, s)
		more := g.more
		g.mu.Unlock()
		if ok && time.Since(at) < groupAge {
			return true
		}
		select {
		case <-more:
		case <-late.C:
			return false
		}
	}
}
