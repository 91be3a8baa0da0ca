//go:build linux

package integration

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

var profileOut = flag.String("profile", "", "where TestProfile writes the client's CPU profile under the loads of -compare (make pgo)")

// TestProfile has both modes carry what TestCompare has them carry, on the embedded
// hub, and merges their CPU profiles for the compiler.
func TestProfile(t *testing.T) {
	if *profileOut == "" {
		t.Skip("takes a profile and proves nothing: make pgo")
	}
	needRoot(t)
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} { // the SOCKS client runs as nobody
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	clientFlags = []string{"-tags", "profile", "-ldflags", "-X main.profileDir=" + dir}
	p := newPlace(t, ourHub)
	entrants := p.enter(oursTAP, oursSOCKS)
	for _, e := range entrants {
		for _, b := range bulks {
			e.bulk(b)
		}
	}
	for _, d := range []direction{up, down} {
		entrants[0].packets(d)
	}
	entrants[1].manyPorts()
	entrants[1].churn()
	var parts []string
	for _, e := range entrants {
		for _, pid := range e.pids {
			if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
				t.Fatal(err)
			}
		}
	}
	for deadline := time.Now().Add(20 * time.Second); len(parts) < len(entrants); time.Sleep(20 * time.Millisecond) {
		parts, _ = filepath.Glob(filepath.Join(dir, "*.pprof"))
		if time.Now().After(deadline) {
			t.Fatalf("profiles are missing; there are %v", parts)
		}
	}
	merged, err := exec.Command("go", append([]string{"tool", "pprof", "-proto"}, parts...)...).Output()
	if err == nil {
		err = os.WriteFile(*profileOut, merged, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
