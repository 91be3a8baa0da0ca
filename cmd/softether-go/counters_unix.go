//go:build unix

package main

import (
	"os"
	"syscall"
)

// statisticsSignal asks a running program for its counters.
var statisticsSignal os.Signal = syscall.SIGUSR1
