package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/relay/relaytest"
)

// A lab is a relay between the inner ends of two connections in memory.
type lab struct {
	client, target    *relaytest.Conn // the outer ends
	outbound, inbound atomic.Uint64
	buffers           Buffers
	relay             *Relay
}

func newLab() *lab {
	l := new(lab)
	client, inner := relaytest.Pipe()
	outer, target := relaytest.Pipe()
	l.client, l.target = client, target
	l.relay = &Relay{Client: inner, Target: outer, Outbound: &l.outbound, Inbound: &l.inbound,
		HalfClose: 5 * time.Minute, Buffers: &l.buffers}
	return l
}

// start relays until the test ends, and returns the outcome.
func (l *lab) start(t *testing.T, ctx context.Context) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- l.relay.Run(ctx) }()
	t.Cleanup(func() {
		l.client.Close()
		l.target.Close()
	})
	return done
}

// startRelay makes and starts one.
func startRelay(t *testing.T, ctx context.Context) (client, target *relaytest.Conn, l *lab, ended <-chan error) {
	t.Helper()
	l = newLab()
	return l.client, l.target, l, l.start(t, ctx)
}

func TestRelayPassesOnHalfClose(t *testing.T) {
	tests := []struct {
		name        string
		first, last func(client, target *relaytest.Conn) *relaytest.Conn
	}{
		{"client ends first", func(c, _ *relaytest.Conn) *relaytest.Conn { return c }, func(_, t *relaytest.Conn) *relaytest.Conn { return t }},
		{"target ends first", func(_, t *relaytest.Conn) *relaytest.Conn { return t }, func(c, _ *relaytest.Conn) *relaytest.Conn { return c }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, target, _, ended := startRelay(t, t.Context())
				first, last := tt.first(client, target), tt.last(client, target)
				go func() {
					io.WriteString(first, "request")
					first.CloseWrite()
				}()
				relaytest.Expect(t, last, "request")
				relaytest.ExpectEOF(t, last)
				time.Sleep(4 * time.Minute) // thinking, within the limit
				go func() {
					io.WriteString(last, "answer")
					last.CloseWrite()
				}()
				relaytest.Expect(t, first, "answer")
				relaytest.ExpectEOF(t, first)
				if err := <-ended; err != nil {
					t.Errorf("outcome: got %v, want nil", err)
				}
			})
		})
	}
}

// With one direction over, the other may be slow for ever but not silent.
func TestRelayLimitsSilenceOfLastDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, target, _, ended := startRelay(t, t.Context())
		client.CloseWrite()
		relaytest.ExpectEOF(t, target)
		for range 10 { // 40 minutes
			time.Sleep(4 * time.Minute)
			go io.WriteString(target, "x")
			relaytest.Expect(t, client, "x")
		}
		begin := time.Now()
		_, err := io.ReadAll(client)
		if !errors.Is(err, relaytest.ErrReset) {
			t.Errorf("client: got %v, want %v", err, relaytest.ErrReset)
		}
		if d := time.Since(begin); d > 10*time.Minute {
			t.Errorf("silence lasted %v, want at most twice the limit of 5m", d)
		}
		if err := <-ended; !isTimeout(err) {
			t.Errorf("outcome: got %v, want a timeout", err)
		}
	})
}

func TestRelayHasNoLimitWhileBothDirectionsAreOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, target, s, _ := startRelay(t, t.Context())
		time.Sleep(1000 * time.Hour)
		go io.WriteString(target, "good morning")
		relaytest.Expect(t, client, "good morning")
		synctest.Wait()
		if got, want := s.inbound.Load(), uint64(len("good morning")); got != want {
			t.Errorf("inbound bytes: got %d, want %d", got, want)
		}
	})
}

// A stream that was cut must not look complete to whoever reads it.
func TestRelayPassesOnReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, target, _, ended := startRelay(t, t.Context())
		go func() {
			io.WriteString(target, "half an ans")
			Reset(target)
		}()
		relaytest.Expect(t, client, "half an ans")
		if _, err := io.ReadAll(client); !errors.Is(err, relaytest.ErrReset) {
			t.Errorf("client: got %v, want %v", err, relaytest.ErrReset)
		}
		if err := <-ended; !errors.Is(err, relaytest.ErrReset) {
			t.Errorf("outcome: got %v, want %v", err, relaytest.ErrReset)
		}
	})
}

func TestRelayEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client, target, _, ended := startRelay(t, ctx)
		synctest.Wait()
		cancel()
		for name, c := range map[string]*relaytest.Conn{"client": client, "target": target} {
			if _, err := io.ReadAll(c); !errors.Is(err, relaytest.ErrReset) {
				t.Errorf("%s: got %v, want %v", name, err, relaytest.ErrReset)
			}
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("outcome: got %v, want %v", err, context.Canceled)
		}
	})
}

// refusesWrites is a target that answers and will hear no more, as a server does
// that rejects an upload.
type refusesWrites struct{ *relaytest.Conn }

func (refusesWrites) Write([]byte) (int, error) {
	return 0, &net.OpError{Op: "write", Err: io.ErrClosedPipe}
}

func TestRelayDeliversAnswerToRejectedUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		client, target := l.client, l.target
		l.relay.Target = refusesWrites{l.relay.Target.(*relaytest.Conn)}
		ended := l.start(t, t.Context())
		if _, err := io.WriteString(client, "upload"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the write has failed
		go func() {
			io.WriteString(target, "too large")
			target.CloseWrite()
		}()
		relaytest.Expect(t, client, "too large")
		relaytest.ExpectEOF(t, client)
		if _, err := io.ReadAll(target); !errors.Is(err, relaytest.ErrReset) {
			t.Errorf("target, which did not get all: got %v, want %v", err, relaytest.ErrReset)
		}
		if err := <-ended; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("outcome: got %v, want %v", err, io.ErrClosedPipe)
		}
		client.Close()
	})
}

// own is a connection that copies by itself, as the stack's do. It passes the peer
// it was given to seen.
type own struct {
	*relaytest.Conn
	wrote, read chan<- any
}

func (c own) WriteTo(w io.Writer) (int64, error) {
	c.wrote <- w
	return io.Copy(w, c.Conn)
}

func (c own) ReadFrom(r io.Reader) (int64, error) {
	c.read <- r
	return io.Copy(struct{ io.Writer }{c.Conn}, struct{ io.Reader }{r})
}

// A tunnel connection that copies by itself is given the kernel's connection, after
// what was sent ahead.
func TestRelayLetsTunnelCopy(t *testing.T) {
	wrote, read := make(chan any, 1), make(chan any, 1)
	client, accepted := tcpPair(t)
	s := newLab()
	target := s.target
	s.relay.Client, s.relay.Early = accepted, []byte("early ")
	s.relay.Target = own{s.relay.Target.(*relaytest.Conn), wrote, read}
	ended := s.start(t, t.Context())
	go func() {
		io.WriteString(client, "late")
		client.CloseWrite()
	}()
	relaytest.Expect(t, target, "early late")
	relaytest.ExpectEOF(t, target)
	go func() {
		io.WriteString(target, "answer")
		target.CloseWrite()
	}()
	relaytest.Expect(t, client, "answer")
	relaytest.ExpectEOF(t, client)
	if err := <-ended; err != nil {
		t.Errorf("outcome: got %v, want nil", err)
	}
	if got := <-wrote; got != accepted {
		t.Errorf("WriteTo was given a %T, want the accepted connection", got)
	}
	if got := <-read; got != accepted {
		t.Errorf("ReadFrom was given a %T, want the accepted connection", got)
	}
	if in, out := s.inbound.Load(), s.outbound.Load(); in != 6 || out != 10 {
		t.Errorf("bytes: got %d inbound and %d outbound, want 6 and 10", in, out)
	}
}

// tcpPair returns both ends of a connection of the kernel's.
func tcpPair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// A connection that copies by itself may be stopped by the silence limit and go on.
func TestRelayLimitsSilenceOfTunnelCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		client, target := l.client, l.target
		seen := make(chan any, 100)
		l.relay.Target = own{l.relay.Target.(*relaytest.Conn), seen, seen}
		ended := l.start(t, t.Context())
		client.CloseWrite()
		relaytest.ExpectEOF(t, target)
		for range 10 {
			time.Sleep(4 * time.Minute)
			go io.WriteString(target, "x")
			relaytest.Expect(t, client, "x")
		}
		if _, err := io.ReadAll(client); !errors.Is(err, relaytest.ErrReset) {
			t.Errorf("client: got %v, want %v", err, relaytest.ErrReset)
		}
		if err := <-ended; !isTimeout(err) {
			t.Errorf("outcome: got %v, want a timeout", err)
		}
		target.Close()
	})
}

// Whatever sizes bytes come in, all arrive in order.
func TestRelayCarriesAllSizes(t *testing.T) {
	s := newLab()
	client, target := s.client, s.target
	s.relay.Early = []byte("early")
	var wg sync.WaitGroup
	wg.Go(func() { s.relay.Run(t.Context()) })
	defer wg.Wait()

	rnd := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 8<<20)
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	sizes := []int{1, smallBuffer - 1, smallBuffer, smallBuffer + 1, largeBuffer - 1, largeBuffer, largeBuffer + 1, 3 * largeBuffer}
	write := func(c *relaytest.Conn, d []byte) {
		for i := 0; len(d) > 0; i++ {
			n := min(sizes[i%len(sizes)], len(d))
			c.Write(d[:n])
			d = d[n:]
		}
		c.CloseWrite()
	}
	wg.Go(func() { write(client, data) })
	wg.Go(func() { write(target, data) })
	var up, down [sha256.Size]byte
	var reading sync.WaitGroup
	reading.Go(func() { b, _ := io.ReadAll(target); up = sha256.Sum256(b) })
	reading.Go(func() { b, _ := io.ReadAll(client); down = sha256.Sum256(b) })
	reading.Wait()
	if want := sha256.Sum256(slices.Concat([]byte("early"), data)); up != want {
		t.Errorf("outbound: other bytes arrived than were sent")
	}
	if want := sha256.Sum256(data); down != want {
		t.Errorf("inbound: other bytes arrived than were sent")
	}
	if n := s.buffers.lent.Load(); n != 0 {
		t.Errorf("large buffers lent at the end: got %d, want 0", n)
	}
}

// Idle relays hold no large buffer, whatever they carried before.
func TestRelayIdleHoldsNoLargeBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, target, s, _ := startRelay(t, t.Context())
		burst := bytes.Repeat([]byte("x"), 2*largeBuffer+1)
		var most atomic.Int64
		go client.Write(burst)
		got := make([]byte, len(burst))
		for n := 0; n < len(got); {
			m, err := target.Read(got[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
			most.Store(max(most.Load(), s.buffers.lent.Load()))
		}
		synctest.Wait()
		if most.Load() == 0 {
			t.Error("the burst used no large buffer, so this test shows nothing")
		}
		if n := s.buffers.lent.Load(); n != 0 {
			t.Errorf("large buffers lent while idle: got %d, want 0", n)
		}
	})
}

// chunks is a source of n full reads and a sink of anything.
type chunks struct {
	net.Conn
	n int
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.n == 0 {
		return 0, io.EOF
	}
	c.n--
	return len(p), nil
}

func (c *chunks) Write(p []byte) (int, error) { return len(p), nil }

// What a relay allocates does not grow with what it carries.
func TestRelayAllocatesNothingPerChunk(t *testing.T) {
	var b Buffers
	var count atomic.Uint64
	allocs := func(n int) float64 {
		src := &chunks{}
		f := &flow{src: src, dst: &chunks{}, count: &count}
		return testing.AllocsPerRun(100, func() {
			src.n = n
			if _, err := b.pump(f); err != nil {
				t.Fatal(err)
			}
		})
	}
	allocs(10) // fills the pool
	if few, many := allocs(10), allocs(10_000); many > few {
		t.Errorf("allocations: got %v for 10000 chunks, want no more than the %v for 10", many, few)
	}
}
