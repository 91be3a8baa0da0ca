//go:build linux

package integration

import (
	"slices"
	"strings"
	"testing"
)

// Proves that a command in a container has a network of its own without a capability over
// the container's, and without a file system to write to, if the container's filters allow
// namespaces, and that else one line says what would.
func proveRunContainer(t *testing.T, w *dockerWorld) {
	command := func(options ...string) (out, errs string, code int) {
		options = append([]string{"--rm", "--volume", w.visitor + ":/visitor:ro", "--device", openTUN(t),
			"--read-only", "--cap-drop", "ALL"}, options...)
		f := containerFlags.with(flags{"port": serverPort})
		return finish(t, w.run(w.network, options, slices.Concat([]string{"run"}, f.args(), []string{"--", "/visitor", sitePageURL})))
	}
	unconfined := []string{"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"}
	root := append(unconfined, "--user", "0")
	for _, options := range [][]string{unconfined, append(root, "--cap-add", "SETFCAP")} {
		if out, errs, code := command(options...); out != sitePage || code != 0 {
			t.Errorf("%v: got %q, exit code %d, want the page\n%s", options, out, code, errs)
		}
	}
	if out, errs, code := command(root...); code != 1 || out != "" || !strings.Contains(errs, "--cap-add SETFCAP") {
		t.Errorf("as root without any capability: got %q, exit code %d, want to be told what to do\n%s", out, code, errs)
	}
	if out, errs, code := command(); code != 1 || out != "" || !strings.Contains(errs, "--security-opt seccomp=unconfined") {
		t.Errorf("with Docker's filters: got %q, exit code %d, want to be told what to do\n%s", out, code, errs)
	}
}
