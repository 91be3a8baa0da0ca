package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A lock is a file that is locked as long as its owner lives; the kernel frees it
// however that ends. A process id would not do: in another container it is someone
// else's.
type lock struct{ f *os.File }

// errHeld: someone lives who has the lock.
var errHeld = errors.New("held by a running instance")

func lockPath(dir, tap string) string { return filepath.Join(dir, tap+".lock") }

// lockInstance takes the lock of a TAP's instance, or fails with errHeld.
func lockInstance(dir, tap string) (*lock, error) {
	l, err := lockNamed(lockPath(dir, tap), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errHeld
	}
	return l, err
}

// lockTurn is held while an instance changes the host. It waits for others.
func lockTurn(dir string) (*lock, error) {
	return lockNamed(filepath.Join(dir, "turn"), unix.LOCK_EX)
}

// lockNamed locks the file of that name, not one that its last owner removed
// between our open and our lock.
func lockNamed(path string, how int) (*lock, error) {
	for {
		l, err := openLock(path, how)
		if err != nil || l.isNamed() {
			return l, err
		}
		l.f.Close()
	}
}

func openLock(path string, how int) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &lock{f}, nil
}

// isNamed reports whether the locked file is still the one of its name.
func (l *lock) isNamed() bool {
	held, err := l.f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(l.f.Name())
	return err == nil && os.SameFile(held, named)
}

// release may be called on nil.
func (l *lock) release() {
	if l != nil {
		l.f.Close()
	}
}

// remove releases the lock of an instance that will not come back.
func (l *lock) remove() {
	if l != nil {
		os.Remove(l.f.Name())
		l.f.Close()
	}
}
