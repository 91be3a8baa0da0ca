package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"softether-go/pkg/frame"
)

func TestHalfClose(t *testing.T) {
	a, b := pair(t)
	client, server := connected(t, a, b)
	if _, err := client.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := client.(closeWriter).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(server) // ends, because the client's half has
	if err != nil || string(got) != "question" {
		t.Fatalf("server read: got %q, %v", got, err)
	}
	if _, err := server.Write([]byte("answer")); err != nil {
		t.Fatalf("the other half: %v", err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	got, err = io.ReadAll(client)
	if err != nil || string(got) != "answer" {
		t.Fatalf("client read: got %q, %v", got, err)
	}
	if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after CloseWrite: got %v, want EPIPE", err)
	}
}

func TestResetIsNeverTakenForTheEndOfTheStream(t *testing.T) {
	a, b := pair(t)
	client, server := connected(t, a, b)
	if err := server.(*conn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	// gVisor tells of the reset once; every reader and writer must hear of it.
	for range 3 {
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: got %v, want ECONNRESET", err)
		}
		if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write: got %v, want ECONNRESET", err)
		}
	}
}

func TestDataBeforeAResetIsStillRead(t *testing.T) {
	a, b := pair(t)
	client, server := connected(t, a, b)
	if _, err := server.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	if err := client.(*conn).waitReadable(); err != nil {
		t.Fatal(err)
	}
	_ = server.(*conn).SetLinger(0)
	_ = server.Close()
	b2 := make([]byte, 64)
	n, err := client.Read(b2)
	if err != nil || string(b2[:n]) != "last words" {
		t.Fatalf("read: got %q, %v", b2[:n], err)
	}
	if _, err := client.Read(b2); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read after the last words: got %v, want ECONNRESET", err)
	}
}

func TestCloseWithUnreadDataResets(t *testing.T) {
	a, b := pair(t)
	client, server := connected(t, a, b)
	if _, err := client.Write([]byte("nobody reads this")); err != nil {
		t.Fatal(err)
	}
	if err := server.(*conn).waitReadable(); err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: got %v, want ECONNRESET", err)
	}
}

func TestCloseUnblocksAndIsFinal(t *testing.T) {
	a, b := pair(t)
	client, _ := connected(t, a, b)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: got %v, want net.ErrClosed", err)
		}
	})
	wg.Go(func() {
		if _, err := io.Copy(client, zeros{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: got %v, want net.ErrClosed", err) // nobody reads: it blocks
		}
	})
	for a.Stats().OutboundFrames < 100 {
		time.Sleep(time.Millisecond)
	}
	if err := client.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	wg.Wait()
	if err := client.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: got %v, want net.ErrClosed", err)
	}
	if err := client.(closeWriter).CloseWrite(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("CloseWrite: got %v, want net.ErrClosed", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestDeadlines(t *testing.T) {
	a, b := pair(t)
	client, server := connected(t, a, b)
	isTimeout := func(what string, err error) {
		t.Helper()
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%s: got %v, want a timeout", what, err)
		}
	}
	buf := make([]byte, 16)

	_ = client.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := client.Read(buf)
	isTimeout("read past its deadline", err)
	_, err = client.(*conn).WriteTo(io.Discard)
	isTimeout("WriteTo past its deadline", err)

	_ = client.SetReadDeadline(time.Time{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := client.Read(buf)
		isTimeout("read whose deadline came while it waited", err)
	})
	time.Sleep(time.Millisecond) // either order is fine; this makes waiting likely
	_ = client.SetDeadline(time.Unix(1, 0))
	wg.Wait()
	_, err = client.Write([]byte("x"))
	isTimeout("write past its deadline", err)

	_ = client.SetDeadline(time.Now().Add(time.Hour))
	_ = client.SetDeadline(time.Time{})
	if _, err := server.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("read after the deadline was lifted: got %q, %v", buf[:n], err)
	}

	_ = client.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := io.Copy(client, zeros{}) // nobody reads
	isTimeout("write that found no room", err)
	if n == 0 {
		t.Error("write that found no room: no byte was taken at all")
	}
}

// The tunnel is away: applications wait, and nothing grows without bound.
func TestWritersWaitWhileNothingDrainsTheQueue(t *testing.T) {
	a, b := newStack(t, macA), newStack(t, macB)
	apply(t, a, prefix("10.0.0.1/24"))
	apply(t, b, prefix("10.0.0.2/24"))
	cut := join(t, a, b)
	client, server := connected(t, a, b)
	var wg sync.WaitGroup
	var got string
	wg.Go(func() { got = sum(t, server) })
	if _, err := io.Copy(client, noise(1, 4<<20)); err != nil { // opens the window
		t.Fatal(err)
	}
	cut()
	_ = client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	rest := noise(2, 64<<20)
	taken, err := io.Copy(client, io.TeeReader(rest, io.Discard))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("write without a tunnel: got %d bytes, %v; want a timeout", taken, err)
	}
	if most := int64(8<<20 + gateHigh + writeChunk); taken > most { // a send buffer and what the gate lets wait
		t.Errorf("took %d bytes without a tunnel, want at most %d", taken, most)
	}
	if q := a.Stats().OutboundQueued; q > queuePackets {
		t.Errorf("queued: got %d, want at most %d", q, queuePackets)
	}
	join(t, a, b)
	if err := client.(closeWriter).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	want := sum(t, io.MultiReader(noise(1, 4<<20), noise(2, taken)))
	if got != want {
		t.Errorf("SHA-256 of what was taken: got %s, want %s", got, want)
	}
}

func TestConnectionsSurviveReconnects(t *testing.T) {
	a, b := newStack(t, macA), newStack(t, macB)
	apply(t, a, prefix("10.0.0.1/24"))
	apply(t, b, prefix("10.0.0.2/24"))
	cut := join(t, a, b)
	client, server := connected(t, a, b)
	const size, cuts = 24 << 20, 5
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := io.Copy(client, noise(3, size)); err != nil {
			t.Errorf("write: %v", err)
		}
		_ = client.(closeWriter).CloseWrite()
	})
	var all bytes.Buffer
	for range cuts {
		if _, err := io.CopyN(&all, server, size/(cuts+1)); err != nil {
			t.Fatal(err)
		}
		cut()
		for _, s := range []*Stack{a, b} { // what the client does on return
			apply(t, s, s.cfg)
			if err := s.Announce(); err != nil {
				t.Fatal(err)
			}
		}
		cut = join(t, a, b)
	}
	if _, err := io.Copy(&all, server); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got, want := sum(t, &all), sum(t, noise(3, size)); got != want {
		t.Errorf("SHA-256: got %s, want %s", got, want)
	}
}

func TestRelayToAndFromKernelSockets(t *testing.T) {
	a, b := pair(t)
	tunnel, far := connected(t, a, b)
	near, kernel := loopback(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := tunnel.(io.ReaderFrom).ReadFrom(kernel); err != nil {
			t.Errorf("ReadFrom: %v", err)
		}
		_ = tunnel.(closeWriter).CloseWrite()
	})
	wg.Go(func() {
		if _, err := tunnel.(io.WriterTo).WriteTo(kernel); err != nil {
			t.Errorf("WriteTo: %v", err)
		}
		_ = kernel.CloseWrite()
	})
	transfer(t, far, near, bulk/4)
	transfer(t, near, far, bulk/4)
	wg.Wait()
}

func TestReadFromReportsItsReader(t *testing.T) {
	a, b := pair(t)
	tunnel, _ := connected(t, a, b)
	near, kernel := loopback(t)
	_ = kernel.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := tunnel.(io.ReaderFrom).ReadFrom(kernel); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reader past its deadline: got %v, want a timeout", err)
	}
	_ = kernel.SetReadDeadline(time.Time{})
	_ = near.SetLinger(0)
	_ = near.Close()
	if _, err := tunnel.(io.ReaderFrom).ReadFrom(kernel); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reader that was reset: got %v, want ECONNRESET", err)
	}
	broken := errors.New("broken")
	r := io.MultiReader(bytes.NewReader([]byte("abc")), readerFunc(func([]byte) (int, error) { return 0, broken }))
	if n, err := tunnel.(io.ReaderFrom).ReadFrom(r); n != 3 || !errors.Is(err, broken) {
		t.Errorf("any reader: got %d, %v; want 3, %v", n, err, broken)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// loopback returns both ends of a kernel connection.
func loopback(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	near, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

func TestSmallReadsAndWritesDoNotAllocate(t *testing.T) {
	a, b := pair(t)
	client, _ := connected(t, a, b)
	_ = client.SetReadDeadline(time.Unix(1, 0))
	c := client.(*conn)
	buf := make([]byte, 1)
	// An error allocates; what leads to it must not.
	if got := testing.AllocsPerRun(1000, func() { _, _ = c.read(buf) }); got != 0 {
		t.Errorf("read: got %v allocations, want 0", got)
	}
	if got := testing.AllocsPerRun(1000, func() { _ = a.out.gateShut() }); got != 0 {
		t.Errorf("gate: got %v allocations, want 0", got)
	}
}

// swallow makes s believe that it talks: what it sends goes nowhere.
func swallow(t testing.TB, s *Stack) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx, frame.WriterFunc(func([][]byte) error { return nil })) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// A deadline far away holds nothing of a connection that was closed.
func TestCloseStopsTheTimersOfDeadlines(t *testing.T) {
	a, b := pair(t)
	client, _ := connected(t, a, b)
	c := client.(*conn)
	if err := c.SetDeadline(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	for _, d := range []*deadline{&c.readBy, &c.writeBy} {
		if d.timer == nil || d.timer.Stop() {
			t.Error("a timer goes on after Close")
		}
	}
}
