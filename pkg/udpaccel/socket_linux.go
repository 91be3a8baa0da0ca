package udpaccel

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"softether-go/pkg/pace"
)

// wantBuffer is how much should wait for us in the kernel: 50 ms at 1 Gbit/s. Without
// privileges we get what net.core.rmem_max allows.
const wantBuffer = 7 << 20

// busyDatagrams within a millisecond are many: 16,000 a second, which full ones are at 170
// Mbit/s. While the reader rests 22 come at 1 Gbit/s, and the least room that Linux gives a
// socket is for some 180.
const busyDatagrams = 16

// A batchSocket sends and receives many datagrams a system call (sendmmsg, recvmmsg),
// and leaves it to the kernel to cut runs into datagrams (UDP_SEGMENT).
type batchSocket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	six  bool // an IPv6 socket

	// writing
	out struct {
		msgs    [maxRuns]mmsghdr
		iov     [maxRuns]unix.Iovec
		control [maxRuns][controlLen]byte
		name    [unix.SizeofSockaddrInet6]byte
		nameLen uint32
		noGSO   bool
		next, n int // of msgs
		err     error
		try     func(fd uintptr) bool
	}
	// reading
	in struct {
		msgs [readBatch]mmsghdr
		iov  [readBatch]unix.Iovec
		name [readBatch]unix.RawSockaddrInet6 // large enough for both families
		n    int
		err  error
		try  func(fd uintptr) bool

		meter pace.Meter
		woken bool // there was nothing at first
	}
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// controlLen is room for one message of 16 bits.
const controlLen = (unix.SizeofCmsghdr + 2 + 7) &^ 7

func newUDPSocket(c *net.UDPConn) (socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &batchSocket{conn: c, raw: raw}
	err = raw.Control(func(fd uintptr) {
		family, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		s.six = err == nil && family == unix.AF_INET6
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, wantBuffer) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, wantBuffer)
		}
		// To ask for it is to learn whether there is UDP_SEGMENT (Linux 4.18).
		_, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.out.noGSO = err != nil
	})
	if err != nil {
		return nil, err
	}
	s.out.try, s.in.try = s.tryWrite, s.tryRead
	return s, nil
}

func (s *batchSocket) write(slab []byte, runs []run, to netip.AddrPort) (int, error) {
	s.address(to)
	done := 0
	for done < len(runs) {
		taken := s.prepare(slab, runs[done:])
		err := s.raw.Write(s.out.try)
		if err == nil {
			err = s.out.err
		}
		if err == nil {
			done += taken
			continue
		}
		if !s.out.noGSO && runs[done].n > 1 && (errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL)) {
			// The device cannot do checksums, or the path is narrower than a segment:
			// one by one it goes, or the error comes again. What has gone goes twice,
			// which is what datagrams do.
			s.out.noGSO = true
			continue
		}
		return done, os.NewSyscallError("sendmmsg", err)
	}
	return done, nil
}

// address sets where messages go.
func (s *batchSocket) address(to netip.AddrPort) {
	b := s.out.name[:]
	if !s.six {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&b[0]))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().Unmap().As4()}
		putPort(&sa.Port, to.Port())
		s.out.nameLen = unix.SizeofSockaddrInet4
		return
	}
	sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&b[0]))
	*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16(), Scope_id: zoneOf(to.Addr())}
	putPort(&sa.Port, to.Port())
	s.out.nameLen = unix.SizeofSockaddrInet6
}

func zoneOf(a netip.Addr) uint32 {
	if a.Zone() == "" {
		return 0
	}
	if n, err := strconv.Atoi(a.Zone()); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(a.Zone()); err == nil {
		return uint32(i.Index)
	}
	return 0
}

// putPort stores a port as the wire has it.
func putPort(at *uint16, port uint16) {
	b := (*[2]byte)(unsafe.Pointer(at))
	b[0], b[1] = byte(port>>8), byte(port)
}

// prepare makes messages of the first runs, and returns of how many.
func (s *batchSocket) prepare(slab []byte, runs []run) (taken int) {
	o := &s.out
	o.next, o.n = 0, 0
	for _, r := range runs {
		pieces := 1
		if o.noGSO {
			pieces = r.n
		}
		if o.n+pieces > len(o.msgs) {
			break
		}
		if !o.noGSO {
			s.message(slab[r.start:r.end], r.size)
		} else {
			for at := r.start; at < r.end; at += r.size {
				s.message(slab[at:min(at+r.size, r.end)], r.size)
			}
		}
		taken++
	}
	return taken
}

// message adds one of b, which the kernel is to cut into datagrams of size.
func (s *batchSocket) message(b []byte, size int) {
	o := &s.out
	iov := &o.iov[o.n]
	iov.Base = &b[0]
	iov.SetLen(len(b))
	h := &o.msgs[o.n].hdr
	*h = unix.Msghdr{Name: &o.name[0], Namelen: o.nameLen, Iov: iov}
	h.SetIovlen(1)
	if len(b) > size {
		c := &o.control[o.n]
		cmsg := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
		cmsg.Level, cmsg.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		cmsg.SetLen(unix.CmsgLen(2))
		*(*uint16)(unsafe.Pointer(&c[unix.CmsgLen(0)])) = uint16(size)
		h.Control = &c[0]
		h.SetControllen(unix.CmsgSpace(2))
	}
	o.n++
}

// tryWrite sends the messages that are left. It is false when the socket is full.
func (s *batchSocket) tryWrite(fd uintptr) bool {
	o := &s.out
	for o.err = nil; o.next < o.n; {
		n, errno := call(unix.SYS_SENDMMSG, fd, o.msgs[o.next:o.n])
		switch errno {
		case 0:
			o.next += n
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			o.err = errno
			return true
		}
	}
	return true
}

func (s *batchSocket) read(in *inbox) error {
	r := &s.in
	if r.iov[0].Base != &in.slot(0)[0] {
		for i := range r.msgs {
			slot := in.slot(i)
			r.iov[i].Base = &slot[0]
			r.iov[i].SetLen(len(slot))
			h := &r.msgs[i].hdr
			h.Name = (*byte)(unsafe.Pointer(&r.name[i]))
			h.Iov = &r.iov[i]
			h.SetIovlen(1)
		}
	}
	in.n = 0
	for i := range r.msgs {
		r.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet6
	}
	r.woken = false
	if err := s.raw.Read(r.try); err != nil {
		return err
	}
	if r.err != nil {
		return os.NewSyscallError("recvmmsg", r.err)
	}
	for i := range r.n {
		in.data[i] = in.slot(i)[:r.msgs[i].len]
		in.from[i] = addressOf(&r.name[i])
	}
	in.n = r.n
	r.meter.Count(r.n, time.Now())
	return nil
}

// tryRead is false if there is nothing to read yet.
func (s *batchSocket) tryRead(fd uintptr) bool {
	r := &s.in
	if r.woken && r.meter.Rate() >= busyDatagrams {
		pace.Rest()
	}
	for {
		n, errno := call(unix.SYS_RECVMMSG, fd, r.msgs[:])
		switch errno {
		case 0:
			r.n, r.err = n, nil
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			r.woken = true // next time
			return false
		default:
			r.n, r.err = 0, errno
			return true
		}
	}
}

// call sends or receives messages. It does not tell the scheduler, which would make ready
// for a long wait each time: it never waits, but what the kernel does for a batch takes
// it longer than the 20 µs after which another thread takes over what else there is to do.
func call(number, fd uintptr, msgs []mmsghdr) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(number, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

func addressOf(sa *unix.RawSockaddrInet6) netip.AddrPort {
	if sa.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), portIn(&v4.Port))
	}
	a := netip.AddrFrom16(sa.Addr).Unmap()
	if sa.Scope_id != 0 && a.Is6() {
		a = a.WithZone(strconv.Itoa(int(sa.Scope_id)))
	}
	return netip.AddrPortFrom(a, portIn(&sa.Port))
}

func portIn(at *uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(at))
	return uint16(b[0])<<8 | uint16(b[1])
}

func (s *batchSocket) setReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }
func (s *batchSocket) localPort() uint16                 { return portOf(s.conn.LocalAddr()) }
func (s *batchSocket) close() error                      { return s.conn.Close() }

// mtu asks the kernel, by a socket connected to nowhere but there.
func (s *batchSocket) mtu(to netip.AddrPort) int {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return 0
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	mtu := 0
	raw.Control(func(fd uintptr) {
		if to.Addr().Unmap().Is4() {
			mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
		} else {
			mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
		}
	})
	if err != nil {
		return 0
	}
	return mtu
}
