package udpaccel

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// busyDatagrams within lookEvery are many: 16,000 a second, which full ones are at
	// 170 Mbit/s.
	busyDatagrams = 16
	lookEvery     = time.Millisecond

	// restFor is how long such gather. Of 1 Gbit/s that is 22, and the least room that
	// Linux gives a socket is for some 180.
	restFor = 250 * time.Microsecond
)

// A pacer lets the datagrams of a fast stream gather before they are read, as network
// cards let them before they interrupt. vpnserver sends them one by one: to wake up for
// each costs more than to decrypt it, and what follows has nothing to glue.
type pacer struct {
	since time.Time // datagrams are counted since
	came  int
	busy  bool // there are many
}

// count takes the datagrams of a read.
func (p *pacer) count(n int, now time.Time) {
	p.came += n
	if d := now.Sub(p.since); d >= lookEvery {
		p.busy = time.Duration(p.came)*lookEvery >= busyDatagrams*d
		p.since, p.came = now, 0
	}
}

// rest sleeps if it is worth it. It does so in the kernel without a word to the
// scheduler: while a goroutine sleeps the poller is woken for each datagram, which is
// what this is to spare, and the runtime's clock is no finer than a millisecond. A
// processor is taken from other goroutines for that moment; so a rest is for a reader
// that has just been woken, and they have had their turn.
func (p *pacer) rest() {
	if !p.busy {
		return
	}
	ts := unix.NsecToTimespec(int64(restFor))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}
