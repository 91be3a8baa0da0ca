//go:build linux

package integration

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var pause = flag.Bool("pause", false, "stop each test at its end and print how to attach to its namespaces")

// paused holds the names of the tests that were paused.
var paused sync.Map

// pauseOnce holds a test for a person to look around in, with -pause. Whatever is
// about to end a process at the end of a test calls it first: cleanups run in
// reverse, so the first to come finds everything still running.
func pauseOnce(t testing.TB) {
	if _, done := paused.LoadOrStore(t.Name(), true); done || !*pause {
		return
	}
	resume := filepath.Join(run.dir, "resume-"+strings.ReplaceAll(t.Name(), "/", "-"))
	fmt.Fprintf(os.Stderr, "\n%s is paused. Attach with:\n", t.Name())
	spaces, _ := filepath.Glob("/run/netns/" + nsPrefix + run.id + "-*")
	for _, space := range spaces {
		fmt.Fprintf(os.Stderr, "  ip netns exec %s bash\n", filepath.Base(space))
	}
	fmt.Fprintf(os.Stderr, "Logs are in %s. Go on with:\n  touch %s\n", run.dir, resume)
	for {
		if _, err := os.Stat(resume); err == nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}
