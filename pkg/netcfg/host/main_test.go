package host

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"
)

// TestMain fails the run if a goroutine of this package is left.
func TestMain(m *testing.M) {
	code := m.Run()
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for i, s := range bytes.Split(stacks, []byte("\n\n")) {
		if i > 0 && bytes.Contains(s, []byte("softether-go/pkg/netcfg/host")) {
			fmt.Fprintf(os.Stderr, "leaked goroutine:\n%s\n", s)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}
