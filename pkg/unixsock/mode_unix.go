//go:build unix

package unixsock

import (
	"io/fs"
	"syscall"
)

// setMode gives a socket that has no path yet the permissions that its file will have.
// Systems that cannot fail, which does not matter: the file has its turn.
func setMode(fd uintptr, mode fs.FileMode) { _ = syscall.Fchmod(int(fd), uint32(mode.Perm())) }
