package tap

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// busyReads within lookEvery are many: 32,000 a second, several times what a bulk
	// transfer by super-frames takes.
	busyReads = 32
	lookEvery = time.Millisecond

	// restFor is how long such gather. The kernel's queue has 500 places; when restUntil
	// were taken at the last time there is no rest.
	restFor   = 250 * time.Microsecond
	restUntil = 128
)

// A pacer keeps the reader of a flood of small frames from being woken for each: when it
// has read all that there was it rests a little, as network cards do before they
// interrupt, so that what comes meanwhile is read in one go, and becomes one TLS record
// and one system call.
type pacer struct {
	since time.Time // reads are counted since
	reads int
	last  int  // reads of the last batch
	busy  bool // there are many
}

// count takes the reads of a batch.
func (p *pacer) count(reads int, now time.Time) {
	p.last = reads
	p.reads += reads
	if d := now.Sub(p.since); d >= lookEvery {
		p.busy = time.Duration(p.reads)*lookEvery >= busyReads*d
		p.since, p.reads = now, 0
	}
}

// due reports whether a rest is worth it.
func (p *pacer) due() bool { return p.busy && p.last < restUntil }

// rest sleeps in the kernel without a word to the scheduler. While a goroutine sleeps
// the poller is woken for each frame, which is what this is to spare, and the runtime's
// clock is no finer than a millisecond. A processor is taken from other goroutines for
// that moment.
func (p *pacer) rest() {
	ts := unix.NsecToTimespec(int64(restFor))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}
