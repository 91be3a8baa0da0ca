package hub_test

import (
	"bytes"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain fails the run if a goroutine of this project is left. A moment is given
// to those that are on their way out.
func TestMain(m *testing.M) {
	code := m.Run()
	var left []byte
	for range 200 {
		if left = ours(); len(left) == 0 {
			os.Exit(code)
		}
		time.Sleep(5 * time.Millisecond)
	}
	os.Stderr.WriteString("goroutines left behind:\n" + string(left))
	os.Exit(max(code, 1))
}

func ours() (left []byte) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for i, s := range bytes.Split(stacks, []byte("\n\n")) {
		if i > 0 && bytes.Contains(s, []byte("softether-go/")) {
			left = append(append(left, s...), "\n\n"...)
		}
	}
	return left
}
