package main

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestDemoShowsThePageThroughBothProxies(t *testing.T) {
	code, out, errs := call(t, "demo", "-once", "-socks5", "127.0.0.1:0", "-http", "127.0.0.1:0")
	if code != exitOK {
		t.Fatalf("exit %d:\n%s", code, errs)
	}
	if n := strings.Count(out, "It works. You reached hub.demo behind the hub."); n != 2 {
		t.Errorf("the page was shown %d times, want once for each proxy:\n%s", n, out)
	}
	for _, want := range []string{"session established", "tunnel up", "lease released"} {
		if !strings.Contains(errs, want) {
			t.Errorf("the log does not say %q:\n%s", want, errs)
		}
	}
}

func TestDemoKeepsRunningUntilStopped(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, errs syncBuffer
	code := make(chan int, 1)
	go func() {
		code <- dispatch(ctx, []string{"demo", "-socks5", "127.0.0.1:0", "-http", "127.0.0.1:0"}, terminal{in: null, out: &out, err: &errs})
	}()
	out.await(t, "Ctrl-C ends the demo")
	proxy := regexp.MustCompile(`socks5h://[\d.:]+`).FindString(out.String())
	page, err := fetch(ctx, proxy, demoPage)
	if err != nil || !strings.Contains(page, "It works") {
		t.Errorf("while it runs: %q, %v", page, err)
	}
	cancel()
	if got := <-code; got != exitOK {
		t.Errorf("exit %d:\n%s", got, errs.String())
	}
	if _, err := fetch(t.Context(), proxy, demoPage); err == nil {
		t.Error("the proxy outlived the demo")
	}
}

// syncBuffer is a buffer that can be read while it is written to.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *syncBuffer) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(b.String(), text) {
			return
		}
	}
	t.Fatalf("waited in vain for %q in\n%s", text, b.String())
}
