package session

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tcpCounts are what the kernel has counted of a connection.
type tcpCounts struct {
	out, in, retransmits, outOfOrder uint64
	rtt, leanRTT                     time.Duration
	stalled                          bool
}

// countTCP asks the kernel. It is false if that does not know.
func countTCP(c net.Conn) (n tcpCounts, ok bool) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return n, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return n, false
	}
	var info *unix.TCPInfo
	if e := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); e != nil || err != nil {
		return n, false
	}
	micro := func(us uint32) time.Duration { return time.Duration(us) * time.Microsecond }
	return tcpCounts{
		out: uint64(info.Data_segs_out), in: uint64(info.Data_segs_in),
		retransmits: uint64(info.Total_retrans), outOfOrder: uint64(info.Rcv_ooopack),
		rtt: micro(info.Rtt), leanRTT: micro(info.Min_rtt), stalled: info.Backoff > 0,
	}, true
}
