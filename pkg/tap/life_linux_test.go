package tap

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
)

func TestRunAgainCarriesOnWithTheSameInterface(t *testing.T) {
	d := openUp(t)
	setAddress(t, "vpn0", "10.77.0.1")
	conn, err := net.ListenPacket("udp4", "10.77.0.1:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	host := newWire(t, d.Index())
	for session := range 20 {
		r := start(t, d)
		host.send(numbered(session, 100))
		same(t, r.frames(1)[0], numbered(session, 100))
		if session%2 == 0 { // a frame between the sessions waits for the next one
			if err := r.stop(); !errors.Is(err, context.Canceled) {
				t.Fatalf("Run: got %v, want the context's error", err)
			}
			host.send(numbered(1000, 99))
			r = start(t, d)
			same(t, r.frames(1)[0], numbered(1000, 99))
		}
		if err := r.stop(); !errors.Is(err, context.Canceled) {
			t.Fatalf("Run: got %v, want the context's error", err)
		}
	}
	hello := datagram(d.MAC(), "10.77.0.9", "10.77.0.1", "still here")
	if err := d.WriteFrames([][]byte{hello}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(patience))
	if n, _, err := conn.ReadFrom(b); string(b[:n]) != "still here" {
		t.Errorf("the socket received %q, %v", b[:n], err)
	}
}

func TestRunEndsAtOnceIfItsContextHasEnded(t *testing.T) {
	d := openUp(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if err := d.Run(ctx, &frametest.Pipe{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want the context's error", err)
		}
	}
}

func TestStopOfARunNeverReachesTheNextOne(t *testing.T) {
	d := openUp(t)
	host, broken := newWire(t, d.Index()), errors.New("session lost")
	fails := frametest.FailAfter(0, nil, broken)
	for range 300 {
		// Its context ends, but it ends for another reason just then.
		ctx, cancel := context.WithCancel(t.Context())
		host.send(numbered(1, 60))
		err := d.Run(ctx, frame.WriterFunc(func([][]byte) error {
			cancel()
			return broken
		}))
		if err != broken {
			t.Fatalf("got %v, want %v", err, broken)
		}
		next := make(chan error)
		go func() { next <- d.Run(t.Context(), fails) }()
		host.send(numbered(2, 60))
		if err := <-next; err != broken {
			t.Fatalf("the next Run: got %v, want %v", err, broken)
		}
	}
}

func TestRunReturnsTheDeadlineOfItsContext(t *testing.T) {
	d := openUp(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := d.Run(ctx, &frametest.Pipe{}); err != context.DeadlineExceeded {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestRunReturnsTheErrorOfItsDestination(t *testing.T) {
	d := openUp(t)
	host, broken := newWire(t, d.Index()), errors.New("session lost")
	host.send(numbered(1, 60))
	if err := d.Run(t.Context(), frametest.FailAfter(0, nil, broken)); err != broken {
		t.Errorf("got %v, want %v", err, broken)
	}
	host.send(numbered(2, 60))
	same(t, start(t, d).frames(1)[0], numbered(2, 60))
}

func TestSecondRunAtOnceIsRefused(t *testing.T) {
	d := openUp(t)
	r := start(t, d)
	newWire(t, d.Index()).send(numbered(1, 60))
	r.frames(1)
	if err := d.Run(t.Context(), &frametest.Pipe{}); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want an error that says that a Run is active", err)
	}
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("the first Run: got %v, want the context's error", err)
	}
}

func TestCloseEndsRunAndTheInterface(t *testing.T) {
	enterNamespace(t)
	for range 20 {
		d := openTap(t, Config{Name: "vpn0"})
		setLink(t, "vpn0", true)
		r := start(t, d)
		newWire(t, d.Index()).send(numbered(1, 60))
		r.frames(1)
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if exists(t, "vpn0") {
			t.Error("the interface exists after Close")
		}
		if err := r.end(); err != net.ErrClosed {
			t.Errorf("Run: got %v, want %v", err, net.ErrClosed)
		}
	}
}

func TestCloseWhileFramesFlowBothWays(t *testing.T) {
	enterNamespace(t)
	for range 10 {
		d := openTap(t, Config{Name: "vpn0"})
		setLink(t, "vpn0", true)
		host, r := newWire(t, d.Index()), start(t, d)
		written := make(chan error)
		for range 2 {
			go func() {
				batch := [][]byte{numbered(1, 60), numbered(2, 1514)}
				for {
					if err := d.WriteFrames(batch); err != nil {
						written <- err
						return
					}
				}
			}()
		}
		for i := range 200 {
			host.send(numbered(i, 60))
		}
		r.frames(1)
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		for range 2 {
			if err := <-written; err != net.ErrClosed {
				t.Errorf("WriteFrames: got %v, want %v", err, net.ErrClosed)
			}
		}
		if err := r.end(); err != net.ErrClosed {
			t.Errorf("Run: got %v, want %v", err, net.ErrClosed)
		}
	}
}

func TestClosedDeviceSaysSo(t *testing.T) {
	d := openUp(t)
	mac := d.MAC()
	for range 2 {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := d.WriteFrames([][]byte{numbered(1, 60)}); err != net.ErrClosed {
		t.Errorf("WriteFrames: got %v, want %v", err, net.ErrClosed)
	}
	if err := d.Run(t.Context(), &frametest.Pipe{}); err != net.ErrClosed {
		t.Errorf("Run: got %v, want %v", err, net.ErrClosed)
	}
	if got := d.MAC(); got.String() != mac.String() {
		t.Errorf("MAC: got %v, want the last one, %v", got, mac)
	}
	if d.Name() != "vpn0" || d.Index() == 0 {
		t.Errorf("got %q, index %d, want what it was", d.Name(), d.Index())
	}
}

func TestRemovedInterfaceEndsTheDevice(t *testing.T) {
	d := openUp(t)
	r := start(t, d)
	newWire(t, d.Index()).send(numbered(1, 60))
	r.frames(1)
	ip(t, "link", "delete", "vpn0")
	gone := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrGone) || errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: got %v, want %v", what, err, ErrGone)
		}
	}
	gone("Run", r.end())
	gone("WriteFrames", d.WriteFrames([][]byte{numbered(1, 60)}))
	gone("WriteFrames again", d.WriteFrames(nil))
	gone("Run again", d.Run(t.Context(), &frametest.Pipe{}))
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := d.WriteFrames(nil); err != net.ErrClosed {
		t.Errorf("WriteFrames after Close: got %v, want %v", err, net.ErrClosed)
	}
}

func TestNothingRemainsOpenAfterClose(t *testing.T) {
	enterNamespace(t)
	count := func() (goroutines, files int) {
		t.Helper()
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(all)
	}
	cycle := func() {
		d, err := Open(Config{Name: "vpn0"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.Run(ctx, &frametest.Pipe{}) }()
		cancel()
		<-ended
		d.Close()
		if _, err := Open(Config{Name: "lo"}); err == nil {
			t.Fatal("got a device named lo")
		}
	}
	cycle() // the poller opens files of its own the first time
	goroutines, files := count()
	const cycles = 20
	for range cycles {
		cycle()
	}
	g, f := count()
	if f > files { // an earlier test may just be closing its own
		t.Errorf("files: got %d, want at most %d as before", f, files)
	}
	if g >= goroutines+cycles { // some may just be about to end
		t.Errorf("goroutines: got %d after %d cycles, want about %d as before", g, cycles, goroutines)
	}
}
