package ping

import (
	"os"
	"testing"

	"softether-go/pkg/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }
