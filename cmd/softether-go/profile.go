//go:build profile

package main

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

// profileDir is set by the linker.
var profileDir string

// A build with the tag profile, which make pgo makes for itself, writes a CPU profile
// of the time from its start to SIGUSR2 into that directory.
func init() {
	f, err := os.CreateTemp(profileDir, "cpu-*.part")
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		panic(err)
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR2)
	go func() {
		<-asked
		pprof.StopCPUProfile()
		_ = f.Close()
		_ = os.Rename(f.Name(), f.Name()+".pprof") // whole from now on
	}()
}
