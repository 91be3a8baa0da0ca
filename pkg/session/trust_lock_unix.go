//go:build unix && !aix && !solaris

package session

import (
	"os"
	"syscall"
)

// tryLock takes a lock that ends with f, unless somebody has it.
func tryLock(f *os.File) bool {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}
