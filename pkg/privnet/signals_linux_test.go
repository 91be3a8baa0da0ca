package privnet

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestASignalForTheGroupIsToldFromOneForTheFront(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := groupSignals{seen: map[syscall.Signal]time.Time{}, more: make(chan struct{})}
		if g.had(unix.SIGINT) {
			t.Error("one that init did not get is for the group")
		}
		g.note(unix.SIGINT)
		if !g.had(unix.SIGINT) {
			t.Error("one that init got just before is not for the group")
		}
		if g.had(unix.SIGINT) {
			t.Error("one of the group counts twice")
		}
		time.AfterFunc(groupLag/2, func() { g.note(unix.SIGINT) })
		if !g.had(unix.SIGINT) {
			t.Error("one that init gets a little later is not for the group")
		}
		g.note(unix.SIGTERM)
		if g.had(unix.SIGINT) {
			t.Error("another signal counts")
		}
		time.Sleep(groupAge)
		if g.had(unix.SIGTERM) {
			t.Error("one of long ago counts")
		}
		begun := time.Now()
		if g.had(unix.SIGCONT) || time.Since(begun) > 0 {
			t.Error("one that is never for the group is waited for")
		}
	})
}
