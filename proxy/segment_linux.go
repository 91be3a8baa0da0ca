package proxy

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

// From linux/udp.h; package syscall has neither.
const (
	solUDP     = 17
	udpSegment = 103
)

// canSegment reports whether the kernel can cut what is sent by a socket. One that cannot
// would not refuse but send a row as one datagram.
func canSegment(c syscall.Conn) (can bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		_, err := syscall.GetsockoptInt(int(fd), solUDP, udpSegment)
		can = err == nil
	})
	return can && err == nil
}

// A segmentControl is the message that says how to cut.
type segmentControl [24]byte // CMSG_SPACE(sizeof(uint16_t)), at most

// segments returns the message for datagrams of a size. It is in c.
func segments(c *segmentControl, size int) []byte {
	const header = syscall.SizeofCmsghdr
	h := (*syscall.Cmsghdr)(unsafe.Pointer(c))
	h.Level, h.Type = solUDP, udpSegment
	h.SetLen(syscall.CmsgLen(2))
	binary.NativeEndian.PutUint16(c[header:], uint16(size))
	return c[:syscall.CmsgSpace(2)]
}
