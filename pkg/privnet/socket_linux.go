package privnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxMessage is more than any message has: a configuration with the routes of the
	// longest DHCP options is below 32 KiB as JSON.
	maxMessage = 128 << 10
	// maxPassed is how many descriptors a message may bring.
	maxPassed = 4
)

// A Socket is one end of a connection between two of our processes: messages in JSON,
// whole and in order, with descriptors beside them. Send may be called from
// several goroutines, Receive from one at a time.
type Socket struct {
	c       *net.UnixConn
	sending sync.Mutex
	buf     []byte // Receive's
}

// Pair returns the two ends of a connection as files that children do not inherit.
func Pair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// NewSocket takes f over, also on an error.
func NewSocket(f *os.File) (*Socket, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a local socket")
	}
	return &Socket{c: u}, nil
}

// Connect connects to who listens at a path.
func Connect(path string) (*Socket, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	return &Socket{c: c}, nil
}

// A Listener takes connections at a path.
type Listener struct{ l *net.UnixListener }

// Listen listens at a path, in place of a socket there that nobody listens at any more.
func Listen(path string) (*Listener, error) {
	if s, err := Connect(path); err == nil {
		s.Close()
		return nil, fmt.Errorf("%s: somebody listens there already", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	return &Listener{l}, nil
}

// Accept waits for a connection. After Close it fails.
func (l *Listener) Accept() (*Socket, error) {
	c, err := l.l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &Socket{c: c}, nil
}

// Close removes the socket at the path too.
func (l *Listener) Close() error { return l.l.Close() }

// Send sends a message with copies of files, which stay the caller's.
func (s *Socket) Send(m any, files ...*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", len(b))
	}
	return withDescriptors(files, nil, func(fds []int) error {
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		s.sending.Lock()
		defer s.sending.Unlock()
		_, _, err := s.c.WriteMsgUnix(b, rights, nil)
		return err
	})
}

// withDescriptors calls use with the files' descriptors, which stay valid and in their
// mode meanwhile.
func withDescriptors(files []*os.File, fds []int, use func([]int) error) error {
	if len(files) == 0 {
		return use(fds)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = withDescriptors(files[1:], append(fds, int(fd)), use) })
	return errors.Join(err, inner)
}

// Receive waits for a message and returns the files that came with it. io.EOF says that
// the other end is closed.
func (s *Socket) Receive(m any) ([]*os.File, error) {
	if s.buf == nil {
		s.buf = make([]byte, maxMessage)
	}
	rights := make([]byte, unix.CmsgSpace(4*maxPassed))
	n, rn, flags, _, err := s.c.ReadMsgUnix(s.buf, rights)
	if errors.Is(err, unix.ECONNRESET) || err == nil && n == 0 && rn == 0 {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	files, err := received(rights[:rn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("a message was cut off")
	}
	if err == nil {
		err = json.Unmarshal(s.buf[:n], m)
	}
	if err != nil {
		closeAll(files)
		return nil, fmt.Errorf("receive: %w", err)
	}
	return files, nil
}

// received returns the files of a control message. They are in non-blocking mode, so
// that what can be polled is.
func received(rights []byte) (files []*os.File, err error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			if err := unix.SetNonblock(fd, true); err != nil {
				unix.Close(fd)
				closeAll(files)
				return nil, err
			}
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Close ends the connection; the other end's Receive returns io.EOF.
func (s *Socket) Close() error { return s.c.Close() }
