package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"softether-go/pkg/config"
)

// typed runs the program on a terminal where answers are given one after another.
func typed(t *testing.T, args []string, answers ...string) (code int, out, shown string) {
	t.Helper()
	master, slave := pty(t)
	var screen syncBuffer
	go io.Copy(&screen, master)
	var o bytes.Buffer
	done := make(chan int, 1)
	go func() { done <- dispatch(t.Context(), args, terminal{in: slave, out: &o, err: slave}) }()
	for i, text := range answers {
		answer(t, master, slave, &screen, i+1, text)
	}
	select {
	case code := <-done:
		return code, o.String(), screen.String()
	case <-time.After(20 * time.Second):
		t.Fatalf("still asking; shown: %q", screen.String())
		return 0, "", ""
	}
}

// answer waits for the nth question, and for the terminal to show no more what is
// typed, and types.
func answer(t *testing.T, master, slave *os.File, screen *syncBuffer, n int, text string) {
	t.Helper()
	asked := func() bool {
		mode, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		return err == nil && mode.Lflag&unix.ECHO == 0 && strings.Count(screen.String(), ": ") >= n
	}
	for deadline := time.Now().Add(20 * time.Second); !asked(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("question %d did not come; shown: %q", n, screen.String())
		}
	}
	if _, err := io.WriteString(master, text+"\n"); err != nil {
		t.Fatal(err)
	}
}

func TestANewPasswordIsAskedForTwiceAndNotShown(t *testing.T) {
	code, out, shown := typed(t, []string{"hash", "-user", "Bob"}, "secret", "secret")
	if code != exitOK || out != bobHash || strings.Contains(shown, "secret") {
		t.Errorf("exit %d with %q, shown %q", code, out, shown)
	}
	code, out, shown = typed(t, []string{"hash", "-user", "Bob"}, "secret", "Secret")
	if code != exitUsage || out != "" || strings.Contains(shown, "ecret") {
		t.Errorf("two different ones: exit %d with %q, shown %q", code, out, shown)
	}
}

func TestThePassphraseIsAskedForOnATerminal(t *testing.T) {
	const keys = "../../pkg/credential/testdata/"
	args := []string{"-host", "h", "-user", "alice", "-socks5", "127.0.0.1:0", "-cert", keys + "cert.pem", "-key", keys + "pbes2-aes256-sha256.pem"}
	master, slave := pty(t)
	var screen syncBuffer
	go io.Copy(&screen, master)
	type result struct {
		cfg config.Config
		err error
	}
	done := make(chan result, 1)
	go func() {
		cfg, err := loadConfig(args, terminal{in: slave, out: slave, err: slave})
		done <- result{cfg, err}
	}()
	answer(t, master, slave, &screen, 1, "geheim")
	got := <-done
	if got.err != nil {
		t.Fatal(got.err)
	}
	if _, err := identity(got.cfg.Auth); err != nil || strings.Contains(screen.String(), "geheim") {
		t.Errorf("%v; shown: %q", err, screen.String())
	}
}
