package netstack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/leaktest"
	"softether-go/pkg/netcfg"
)

var (
	macA = net.HardwareAddr{0x02, 0, 0, 0, 0, 0xa}
	macB = net.HardwareAddr{0x02, 0, 0, 0, 0, 0xb}
	macC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0xc}
)

// TestMain fails the run if a goroutine is left.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

func newStack(t testing.TB, mac net.HardwareAddr) *Stack {
	t.Helper()
	s, err := New(Config{MAC: mac})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func prefix(s string) netcfg.Config { return netcfg.Config{Address: netip.MustParsePrefix(s)} }

// prefix6 is prefix for an IPv6 address.
func prefix6(s string) netcfg.Config {
	p := netip.MustParsePrefix(s)
	return netcfg.Config{IPv6: netcfg.IPv6{
		Addresses: []netcfg.Address6{{Addr: p.Addr()}}, Routes: []netcfg.Route{{Dest: p.Masked()}},
	}}
}

func apply(t testing.TB, s *Stack, c netcfg.Config) {
	t.Helper()
	if err := s.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// join connects a and b until cut is called.
func join(t testing.TB, a, b frame.Endpoint) (cut func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := frame.Join(ctx, a, b); !errors.Is(err, context.Canceled) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Join: %v", err)
		}
	})
	cut = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(cut)
	return cut
}

// pair returns two joined hosts, 10.0.0.1 and 10.0.0.2.
func pair(t testing.TB) (a, b *Stack) {
	t.Helper()
	a, b = newStack(t, macA), newStack(t, macB)
	apply(t, a, prefix("10.0.0.1/24"))
	apply(t, b, prefix("10.0.0.2/24"))
	join(t, a, b)
	return a, b
}

func listen(t testing.TB, s *Stack, at string) net.Listener {
	t.Helper()
	l, err := s.ListenTCP(netip.MustParseAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func dial(t testing.TB, s *Stack, network, address string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := s.DialContext(ctx, network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func accept(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// connected returns both ends of a connection from a to b (10.0.0.2).
func connected(t testing.TB, a, b *Stack) (client, server net.Conn) {
	t.Helper()
	l := listen(t, b, "0.0.0.0:80")
	client = dial(t, a, "tcp", "10.0.0.2:80")
	server = accept(t, l)
	_ = l.Close()
	return client, server
}

// noise is n bytes that depend on seed alone.
func noise(seed uint64, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{byte(seed)}), n)
}

func sum(t testing.TB, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Errorf("read: %v", err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

type closeWriter interface{ CloseWrite() error }

// transfer sends n bytes from src to dst, ends the stream and compares hashes.
func transfer(t *testing.T, dst, src net.Conn, n int64) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := io.Copy(src, noise(7, n)); err != nil {
			t.Errorf("write: %v", err)
		}
		if err := src.(closeWriter).CloseWrite(); err != nil {
			t.Errorf("CloseWrite: %v", err)
		}
	})
	got := sum(t, dst)
	wg.Wait()
	if want := sum(t, noise(7, n)); got != want {
		t.Errorf("SHA-256: got %s, want %s", got, want)
	}
}

func TestTCPCarriesBytesUnchanged(t *testing.T) {
	a, b := pair(t)
	client, server := connected(t, a, b)
	transfer(t, server, client, bulk)
	transfer(t, client, server, bulk/8) // the other half is still open
	for name, s := range map[string]Stats{"client": a.Stats(), "server": b.Stats()} {
		if s.OutboundDropped != 0 {
			t.Errorf("%s: %d frames dropped with a reader that keeps up", name, s.OutboundDropped)
		}
	}
	if got := a.Stats().OutboundFrames; got < bulk/1460 {
		t.Errorf("client: %d frames sent, too few for %d bytes", got, bulk)
	}
}

func TestNewRefusesWhatIsNoStation(t *testing.T) {
	for name, mac := range map[string]net.HardwareAddr{
		"no address": nil,
		"zero":       {0, 0, 0, 0, 0, 0},
		"broadcast":  {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"multicast":  {1, 0, 0x5e, 0, 0, 1},
		"too long":   {2, 0, 0, 0, 0, 0, 0, 1},
	} {
		if s, err := New(Config{MAC: mac}); err == nil {
			_ = s.Close()
			t.Errorf("%s: New accepted %s", name, mac)
		}
	}
}

func TestCloseEndsEverythingAtOnce(t *testing.T) {
	before := runtime.NumGoroutine()
	a, b := pair(t)
	client, server := connected(t, a, b)
	l := listen(t, b, "10.0.0.2:81")
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read on a closed stack: got %v, want net.ErrClosed", err)
		}
	})
	wg.Go(func() {
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept on a closed stack: got %v, want net.ErrClosed", err)
		}
	})
	for _, s := range []*Stack{a, b, a} { // twice is once
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	wg.Wait()
	if err := a.WriteFrames([][]byte{make([]byte, 60)}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteFrames: got %v, want net.ErrClosed", err)
	}
	if err := a.Run(t.Context(), b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run: got %v, want net.ErrClosed", err)
	}
	if err := a.Apply(t.Context(), prefix("10.0.0.1/24")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Apply: got %v, want net.ErrClosed", err)
	}
	if _, err := a.DialContext(t.Context(), "tcp", "10.0.0.2:80"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial: got %v, want net.ErrClosed", err)
	}
	_ = client.Close()
	_ = server.Close()
	if !leaktest.Settles(before) {
		t.Errorf("goroutines: %d, before %d", runtime.NumGoroutine(), before)
	}
}

func TestOneRunAtATime(t *testing.T) {
	s := newStack(t, macA)
	apply(t, s, prefix("10.0.0.1/24")) // queues an announcement
	sink := frame.WriterFunc(func([][]byte) error { return nil })
	inside := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := s.Run(ctx, frame.WriterFunc(func([][]byte) error {
			close(inside)
			return nil
		}))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("first Run: got %v, want context.Canceled", err)
		}
	})
	<-inside
	if err := s.Run(t.Context(), sink); !errors.Is(err, errRunning) {
		t.Errorf("second Run beside the first: got %v, want %v", err, errRunning)
	}
	cancel()
	wg.Wait()
	if err := s.Run(ctx, sink); !errors.Is(err, context.Canceled) {
		t.Errorf("Run after the first: got %v, want to get past the check", err)
	}
}

func TestRunReturnsTheErrorOfItsWriter(t *testing.T) {
	s := newStack(t, macA)
	apply(t, s, prefix("10.0.0.1/24"))
	broken := errors.New("broken")
	if err := s.Run(t.Context(), frame.WriterFunc(func([][]byte) error { return broken })); !errors.Is(err, broken) {
		t.Errorf("Run: got %v, want %v", err, broken)
	}
}
