//go:build unix

package main

import (
	"os"
	"syscall"
)

// reloadSignal has a running program read its files again.
var reloadSignal os.Signal = syscall.SIGHUP
