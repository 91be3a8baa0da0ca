//go:build linux

package integration

import (
	"os"
	"os/exec"
	"testing"
)

// needRoot ends the test unless it runs as root: namespaces and the server want it.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "needs root: run it with sudo")
	}
}

// needTool ends the test unless the program exists, by name in PATH or by path.
func needTool(t testing.TB, program, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		missing(t, "needs "+program+": apt-get install "+debianPackage+", or all of it with sudo integration/setup.sh")
	}
}

// needFile ends the test unless the file exists.
func needFile(t testing.TB, path, debianPackage string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		missing(t, "needs "+path+": apt-get install "+debianPackage+", or all of it with sudo integration/setup.sh")
	}
}

// missing skips where a person tests what they can, and fails where nothing may be left out.
func missing(t testing.TB, remedy string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(remedy)
	}
	t.Skip(remedy)
}
