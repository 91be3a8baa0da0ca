//go:build !unix

package unixsock

import "io/fs"

// setMode does nothing: the file has its turn.
func setMode(uintptr, fs.FileMode) {}
