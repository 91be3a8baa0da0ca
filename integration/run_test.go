//go:build linux

package integration

import (
	"testing"
)

// Proves that a command of an ordinary user gets a network of its own.
func TestRunGivesACommandANetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	out, errs, code := w.Run(t, runFlags, "curl", "--silent", "--show-error", "--max-time", "10", "http://"+siteName+"/")
	if out != sitePage || code != 0 {
		t.Errorf("got %q, exit code %d, want the page\n%s", out, code, errs)
	}
}
