// Package leaktest fails a package's tests if they leave goroutines behind.
//
//	func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }
//
// It counts goroutines before the tests and after them, whosever they are, so that
// those that libraries start for us count too. One that is on its way out is no leak:
// it has ten seconds, which only a machine with far too much to do needs.
package leaktest

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// Run runs the tests and returns the exit code. What is left it prints to stderr.
func Run(m *testing.M) int {
	before := runtime.NumGoroutine()
	code := m.Run()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		return code // the fuzzer leaves one of its own
	}
	if Settles(before) {
		return code
	}
	stacks := make([]byte, 1<<20)
	fmt.Fprintf(os.Stderr, "%d goroutines left behind, among these:\n%s\n",
		runtime.NumGoroutine()-before, stacks[:runtime.Stack(stacks, true)])
	return max(code, 1)
}

// Settles waits until there are no more than n goroutines, ten seconds at most, and
// reports whether it came to that.
func Settles(n int) bool {
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > n; <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}
