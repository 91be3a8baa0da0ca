package autoconf

import (
	"os"
	"testing"

	"softether-go/pkg/leaktest"
)

// TestMain fails the run if a goroutine is left.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }
