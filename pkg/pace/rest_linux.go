package pace

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rest sleeps for RestFor, in the kernel and without a word to the scheduler. While a
// goroutine sleeps the poller is woken for each frame, which is what this is to spare, and
// the runtime's clock is no finer than a millisecond. A processor is taken from other
// goroutines for that moment; so a rest is for a reader whose others have had their turn.
func Rest() {
	ts := unix.NsecToTimespec(int64(RestFor))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}
