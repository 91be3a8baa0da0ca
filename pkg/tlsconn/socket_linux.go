package tlsconn

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A socket is a TCP connection that carries bulk data with little ado: its reader is
// woken when there is something worth it, and its system calls are not announced to the
// scheduler.
//
// Around a system call Go makes ready for a long wait: once it has lasted for 20 µs
// another thread takes over what else there is to do. A socket never waits in the
// kernel, but to send 64 KiB takes about as long. With one processor each such call cost
// two switches of threads, and kept the runtime's monitor awake.
type socket struct {
	net.Conn
	raw      syscall.RawConn
	gatherer *gatherer

	read, wrote     transfer
	onRead, onWrite func(fd uintptr) bool
}

// A transfer is what one Read or Write asks of the kernel, and the outcome.
type transfer struct {
	b   []byte
	n   int
	err error
}

// bulk returns c as a socket if it is a TCP connection of the kernel.
func bulk(c net.Conn) net.Conn {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return c
	}
	s := &socket{Conn: c, raw: raw, gatherer: newGatherer(raw)}
	// Made once: a method value made for each call would be allocated each time.
	s.onRead, s.onWrite = s.tryRead, s.tryWrite
	return s
}

// Read is net.Conn's. One may be under way at a time.
func (s *socket) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	s.read = transfer{b: b}
	err := s.raw.Read(s.onRead)
	n, failed := s.read.n, s.read.err
	s.read.b = nil // lent
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, s.opError("read", failed)
	case n == 0:
		return 0, io.EOF
	}
	s.gatherer.came(n)
	return n, nil
}

// tryRead is false if there is nothing to read yet.
func (s *socket) tryRead(fd uintptr) bool {
	t := &s.read
	t.n, t.err = call(unix.SYS_READ, fd, t.b)
	return t.err != unix.EAGAIN
}

// Write is net.Conn's. One may be under way at a time.
func (s *socket) Write(b []byte) (int, error) {
	s.wrote = transfer{b: b}
	err := s.raw.Write(s.onWrite)
	n, failed := s.wrote.n, s.wrote.err
	s.wrote.b = nil // lent
	if err == nil && failed != nil {
		err = s.opError("write", failed)
	}
	return n, err
}

// tryWrite is false if there is no room for the rest yet.
func (s *socket) tryWrite(fd uintptr) bool {
	t := &s.wrote
	for t.n < len(t.b) {
		n, err := call(unix.SYS_WRITE, fd, t.b[t.n:])
		if err == unix.EAGAIN {
			return false
		}
		if err != nil {
			t.err = err
			break
		}
		t.n += n
	}
	return true
}

// call reads or writes b, which is not empty.
func call(number, fd uintptr, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(number, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// opError is an error as package net makes it.
func (s *socket) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}

// setLeast sets how many bytes must wait before the poller says so.
func setLeast(fd, bytes int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes) }
