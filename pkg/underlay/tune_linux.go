package underlay

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// unsentTime is how long what waits in a socket may take to be sent. More delays
	// what comes behind it; with less the kernel runs out of it while the writer is
	// being woken. One upload over 50 Mbit/s, with a call beside it:
	//
	//	2 ms    45.3 Mbit/s, 99 of 100 round trips within 12 ms
	//	1.5 ms  43.5 Mbit/s
	unsentTime = 2 * time.Millisecond

	// minUnsent is room for a few frames, whatever the speed.
	minUnsent = 6 << 10
)

// suit sets how much may wait unsent to what the way takes in unsentTime. It reports
// whether that is possible.
//
// Of the kernel's two estimates the lower counts. One is what has arrived lately, which
// acknowledgements that come in a bunch exaggerate; the other is the congestion window
// per round trip and some more, which a window that is not used does.
// (net/ipv4/tcp_rate.c, tcp_rate_gen; net/ipv4/tcp_input.c, tcp_update_pacing_rate)
func (c *tuned) suit(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return false
	}
	perSecond := min(info.Delivery_rate, info.Pacing_rate, uint64(notSent*time.Second/unsentTime))
	room := max(int(perSecond)/int(time.Second/unsentTime), minUnsent)
	if room >= c.room-c.room/4 && room <= c.room+c.room/4 {
		return true // not worth a system call
	}
	if unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, room) != nil {
		return false
	}
	c.room = room
	return true
}

// unsentBytes returns how many bytes wait for their first transmission, or -1.
func unsentBytes(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQNSD)
	if err != nil {
		return -1
	}
	return n
}

// isWritable reports whether a socket has half of its room left. If not, the kernel
// notes that somebody waits and will tell the poller, which hears of changes alone,
// and of none otherwise, as no write has failed. (net/ipv4/tcp.c, tcp_poll)
//
// To write and be refused would not do: the kernel looks at TCP_NOTSENT_LOWAT only
// when it begins another buffer, each of up to 64 KiB. (tcp_sendmsg_locked)
func isWritable(fd uintptr) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		n, err := unix.Poll(p[:], 0)
		if err != unix.EINTR {
			return n != 0 || err != nil
		}
	}
}
