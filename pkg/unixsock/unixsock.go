// Package unixsock listens at Unix sockets: for those who may connect, in place of what a
// program that is gone has left, and never in place of one that lives.
//
// # Theory of operation
//
// A socket's file outlives a program that was killed. Who finds one connects to it: if
// nobody answers, the file is taken away and the path used; an answer is another program,
// and an error. The permissions are set before the path appears where the system can do
// that (Linux takes those of the socket itself), and right after elsewhere. Closing the
// listener removes the file.
//
// A name that begins with @ is of Linux's abstract namespace: it has no file, and no
// permissions, so that every program of the machine may connect.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Private are the permissions for programs of the same user alone.
const Private fs.FileMode = 0o600

// longest is what a path may have: 108 bytes and a zero in Linux's sockaddr_un, 104 in the
// BSDs'.
const longest = 103

// Listen listens at a path with these permissions, or at a name that begins with @. An
// error is one line that says what to do. The listener's file is removed when it closes.
func Listen(path string, mode fs.FileMode) (net.Listener, error) {
	if len(path) > longest {
		return nil, fmt.Errorf("listen at %s: a socket's path has at most %d bytes: choose a shorter one", path, longest)
	}
	ctx := context.Background() // listening at a path does not wait
	abstract := strings.HasPrefix(path, "@")
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { setMode(fd, mode) })
	}}
	ln, err := lc.Listen(ctx, "unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && !abstract && abandoned(path) && os.Remove(path) == nil {
		ln, err = lc.Listen(ctx, "unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, explain(path, err))
	}
	if abstract {
		return ln, nil
	}
	if err := os.Chmod(path, mode); err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return ln, nil
}

// abandoned reports whether a path is a socket at which nobody answers. Who is too busy to
// answer soon is there.
func abandoned(path string) bool {
	if !isSocket(path) {
		return false
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func isSocket(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}

// explain says what to do about an error.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && (strings.HasPrefix(path, "@") || isSocket(path)):
		return fmt.Errorf("another program listens there: end it, or choose another path (%w)", syscall.EADDRINUSE)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("there is a file that is no socket: choose another path (%w)", syscall.EADDRINUSE)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("its directory does not exist: make it, or choose another path (%w)", syscall.ENOENT)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission for its directory: choose another path (%w)", syscall.EACCES)
	}
	return err
}
