package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"testing"
	"time"
)

// startDemo runs the demo until the test ends. It returns what it writes and the
// SOCKS5 proxy's URL.
func startDemo(t *testing.T) (out, errs *syncBuffer, proxy string) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, errs = new(syncBuffer), new(syncBuffer)
	code := make(chan int, 1)
	go func() {
		code <- dispatch(ctx, []string{"demo", "-socks5", "127.0.0.1:0", "-http", "127.0.0.1:0"}, terminal{in: null, out: out, err: errs})
	}()
	t.Cleanup(func() {
		cancel()
		if got := <-code; got != exitOK {
			t.Errorf("exit %d:\n%s", got, errs.String())
		}
		null.Close()
	})
	out.await(t, "Ctrl-C ends the demo")
	return out, errs, regexp.MustCompile(`socks5h://[\d.:]+`).FindString(out.String())
}

func TestSignalShowsEveryCounter(t *testing.T) {
	if statisticsSignal == nil {
		t.Skip("no such signal on this system")
	}
	safe := make(chan os.Signal, 1) // should the program not listen yet, the signal would end the tests
	signal.Notify(safe, statisticsSignal)
	defer signal.Stop(safe)
	_, errs, _ := startDemo(t)
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(errs.String(), "allocated_bytes"); time.Sleep(50 * time.Millisecond) {
		if err := self.Signal(statisticsSignal); err != nil || time.Now().After(deadline) {
			t.Fatalf("no table after the signal (%v):\n%s", err, errs.String())
		}
	}
	for _, want := range []string{
		`(?m)^session$`, `(?m)^  in_frames +[1-9]`, // a counter that counts
		`(?m)^batches$`, `(?m)^  out +1:`,
		`(?m)^netstack$`, `(?m)^  inbound_not_for_us +\d`, `(?m)^  outbound_dropped +0$`, // and drops, zero or not
		`(?m)^socks5 127\.0\.0\.1:\d+$`, `(?m)^  accepted +[1-9]`,
		`(?m)^http 127\.0\.0\.1:\d+$`, `(?m)^process$`, `(?m)^  goroutines +[1-9]`,
	} {
		if !regexp.MustCompile(want).MatchString(errs.String()) {
			t.Errorf("the table lacks %s:\n%s", want, errs.String())
		}
	}
}

func TestTheEndOfASessionShowsItsCounters(t *testing.T) {
	code, _, errs := call(t, "demo", "-once", "-socks5", "127.0.0.1:0", "-http", "127.0.0.1:0")
	if code != exitOK {
		t.Fatalf("exit %d:\n%s", code, errs)
	}
	lines := regexp.MustCompile(`(?m)^.*statistics at the session's end.*$`).FindAllString(errs, -1)
	if len(lines) != 1 {
		t.Fatalf("%d lines of statistics, want 1:\n%s", len(lines), errs)
	}
	for _, want := range []string{"session.out_frames=", "netstack.inbound_frames=", "socks5.requests=1", "http.requests=1", "batches.in="} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("the line lacks %s: %s", want, lines[0])
		}
	}
}

func TestStatisticsAreLoggedEverySoOften(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0") // that never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ctx, cancel := context.WithCancel(t.Context())
	errs := new(syncBuffer)
	code := make(chan int, 1)
	go func() {
		code <- dispatch(ctx, []string{"-host", server.Addr().String(), "-user", "u", "-pass", "p", "-insecure", "-socks5", "127.0.0.1:0", "-stats", "5ms"},
			terminal{in: null, out: errs, err: errs})
	}()
	errs.await(t, "msg=statistics process.goroutines=")
	cancel()
	<-code
}
