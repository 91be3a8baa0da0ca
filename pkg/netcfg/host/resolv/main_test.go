package resolv

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain fails the run if a goroutine of this package or of a D-Bus connection
// is left. Those of a closed connection may need a moment to see it.
func TestMain(m *testing.M) {
	code := m.Run()
	var left []byte
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if left = leaked(); left == nil || time.Now().After(deadline) {
			break
		}
	}
	if left != nil {
		fmt.Fprintf(os.Stderr, "leaked goroutine:\n%s\n", left)
		code = max(code, 1)
	}
	os.Exit(code)
}

func leaked() []byte {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for i, s := range bytes.Split(stacks, []byte("\n\n")) {
		if i > 0 && (bytes.Contains(s, []byte("host/resolv")) || bytes.Contains(s, []byte("godbus"))) {
			return s
		}
	}
	return nil
}
