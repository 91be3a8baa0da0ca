package session

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

func testFrame(fill byte, n int) []byte {
	return frametest.Frame(net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}, frame.TypeIPv4, bytes.Repeat([]byte{fill}, n))
}

func batch(frames ...[]byte) []byte {
	b, _ := wire.AppendBatch(nil, frames)
	return b
}

// start runs s in the background until the test or the returned stop ends it.
func start(s *Session, dst frame.Writer) (stop context.CancelFunc, done <-chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan error, 1)
	go func() { ch <- s.Run(ctx, dst) }()
	return cancel, ch
}

func TestFramesTravelBothWays(t *testing.T) {
	in, out := testFrame(1, 100), testFrame(2, 1500)
	received := make(chan []byte, 1)
	s := dial(t, server(t, func(p *peer) {
		p.Accept()
		p.Write(batch(in, in))
		parser := wire.NewParser(nil)
		for {
			frames, _, err := parser.Next(p)
			for _, f := range frames {
				received <- slices.Clone(f)
			}
			if err != nil {
				return
			}
		}
	}))
	var pipe frametest.Pipe
	stop, done := start(s, &pipe)
	if diff := cmp.Diff([][]byte{in, in}, pipe.Received(t.Context(), 2)); diff != "" {
		t.Errorf("inbound (-want +got):\n%s", diff)
	}
	if err := s.WriteFrames([][]byte{out, make([]byte, 13), make([]byte, 1601)}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(out, <-received); diff != "" {
		t.Errorf("outbound (-want +got):\n%s", diff)
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want context.Canceled", err)
	}
	got := s.Stats()
	got.InKeepAlives = 0
	want := Stats{InFrames: 2, InBytes: 228, InBatches: got.InBatches, OutFrames: 1, OutBytes: 1514, OutBatches: 1, OutDropped: 2, Connections: 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("statistics (-want +got):\n%s", diff)
	}
}

func TestFramesThatComeWithTheWelcomeAreNotLost(t *testing.T) {
	f := testFrame(1, 100)
	s := dial(t, server(t, func(p *peer) {
		p.Greet()
		var b bytes.Buffer
		wire.WriteReply(&b, sessiontest.Welcome().Pack())
		b.Write(batch(f))
		p.Write(b.Bytes())
		p.Discard()
	}))
	var pipe frametest.Pipe
	stop, done := start(s, &pipe)
	if diff := cmp.Diff([][]byte{f}, pipe.Received(t.Context(), 1)); diff != "" {
		t.Errorf("inbound (-want +got):\n%s", diff)
	}
	stop()
	<-done
}

// keepServer sends a keep-alive every so often and reads what comes.
func keepServer(every time.Duration) func(*peer) {
	return func(p *peer) {
		p.Accept()
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			p.Discard()
		}()
		for {
			select {
			case <-stop:
				return
			case <-time.After(every):
				p.Write(wire.AppendKeepAlive(nil, []byte{1, 2, 3}))
			}
		}
	}
}

func TestKeepAlivesAreSentAndHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		var begun time.Time
		s := dial(t, server(t, func(p *peer) {
			p.Accept()
			begun = time.Now()
			parser := wire.NewParser(nil)
			for {
				_, alive, err := parser.Next(p)
				if err != nil {
					return
				}
				if alive {
					at = append(at, time.Since(begun))
				}
				p.Write(wire.AppendKeepAlive(nil, nil))
			}
		}))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := s.Run(ctx, &frametest.Pipe{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run: %v", err)
		}
		if want := []time.Duration{0, 3 * time.Second, 6 * time.Second, 9 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("keep-alives at %v, want %v", at, want)
		}
		if s.Stats().InKeepAlives != 4 {
			t.Errorf("heard %d", s.Stats().InKeepAlives)
		}
	})
}

func TestAnIdleSessionLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dial(t, server(t, keepServer(9*time.Second)))
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if err := s.Run(ctx, &frametest.Pipe{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run ended with %v", err)
		}
	})
}

func TestASilentServerIsDeadAfterItsTimeout(t *testing.T) {
	for name, script := range map[string]func(*peer){
		"nothing at all": func(p *peer) { p.Accept(); p.Discard() },
		"half a frame, byte by byte": func(p *peer) {
			p.Accept()
			go p.Discard()
			for _, b := range batch(testFrame(1, 1400)) {
				time.Sleep(time.Second)
				if _, err := p.Write([]byte{b}); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := dial(t, server(t, script))
				begun := time.Now()
				err := s.Run(t.Context(), &frametest.Pipe{})
				var e *Error
				if !errors.Is(err, ErrSilent) || !errors.As(err, &e) || e.Advice() != wire.Retry {
					t.Errorf("Run: %v", err)
				}
				if took := time.Since(begun); took != 20*time.Second {
					t.Errorf("after %v, want 20s", took)
				}
				if err := s.WriteFrames([][]byte{testFrame(1, 50)}); !errors.Is(err, ErrSilent) {
					t.Errorf("a later write: %v", err)
				}
				if err := s.Run(t.Context(), &frametest.Pipe{}); !errors.Is(err, ErrSilent) {
					t.Errorf("a later Run: %v", err)
				}
			})
		})
	}
}

func TestAServerThatTakesNothingIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quit := make(chan struct{})
		defer close(quit)
		s := dial(t, server(t, func(p *peer) {
			p.Accept()
			for { // talks, but never reads
				select {
				case <-quit:
					return
				case <-time.After(time.Second):
					if _, err := p.Write(wire.AppendKeepAlive(nil, nil)); err != nil {
						return
					}
				}
			}
		}))
		written := make(chan error, 1)
		go func() { written <- s.WriteFrames([][]byte{testFrame(1, 1000)}) }()
		synctest.Wait() // so that the frame, not a keep-alive, is what hangs
		begun := time.Now()
		if err := s.Run(t.Context(), &frametest.Pipe{}); !errors.Is(err, ErrSilent) {
			t.Errorf("Run: %v", err)
		}
		if err := <-written; err == nil {
			t.Error("the hanging write reported success")
		}
		if took := time.Since(begun); took > 24*time.Second {
			t.Errorf("noticed after %v", took)
		}
	})
}

func TestTheEndSaysWhoseItWas(t *testing.T) {
	for _, row := range []struct {
		name string
		end  func(*peer)
		want error
		text string
	}{
		{"closed with notice", func(p *peer) { p.Close() }, ErrEnded, "server ended"},
		{"closed without notice", func(p *peer) { p.Raw.(*net.TCPConn).CloseWrite() }, ErrEnded, "server ended"},
		{"closed in mid-frame", func(p *peer) { p.Write(batch(testFrame(1, 99))[:50]); p.Raw.(*net.TCPConn).CloseWrite() }, ErrEnded, "server ended"},
		{"reset", func(p *peer) { p.Raw.(*net.TCPConn).SetLinger(0); p.Raw.Close() }, nil, "the connection broke"},
		{"nonsense below TLS", func(p *peer) { p.Raw.Write(bytes.Repeat([]byte{0x17}, 100)) }, nil, "the connection broke"},
		{"a block too long", func(p *peer) { p.Write([]byte{0, 0, 0, 1, 0xff, 0, 0, 0}) }, wire.ErrLongBlock, "3200"},
		{"a keep-alive too long", func(p *peer) { p.Write([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 2, 1}) }, wire.ErrLongKeepAlive, "512"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, p := tcpPair(t)
			go row.end(p)
			err := s.Run(t.Context(), &frametest.Pipe{})
			if !contains(err, row.text) || row.want != nil && !errors.Is(err, row.want) {
				t.Errorf("Run: %v, want %v with %q", err, row.want, row.text)
			}
			if errors.Is(err, ErrEnded) != (row.want == ErrEnded) {
				t.Errorf("%v is taken for the server's own end, or not, wrongly", err)
			}
		})
	}
}

func TestRunContinuesWhereAnotherStopped(t *testing.T) {
	more := make(chan struct{})
	s := dial(t, server(t, func(p *peer) {
		p.Accept()
		go p.Discard()
		b := batch(testFrame(1, 100), testFrame(2, 200))
		p.Write(b[:150]) // the second frame is cut
		<-more
		p.Write(b[150:])
		p.Discard()
	}))
	var first, second frametest.Pipe
	stop, done := start(s, &first)
	first.Received(t.Context(), 1)
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	stop, done = start(s, &second)
	close(more)
	if diff := cmp.Diff([][]byte{testFrame(2, 200)}, second.Received(t.Context(), 1)); diff != "" {
		t.Errorf("second Run (-want +got):\n%s", diff)
	}
	stop()
	<-done
}

func TestAFailingDestinationEndsRunButNotTheSession(t *testing.T) {
	s := dial(t, server(t, func(p *peer) { p.Accept(); go p.Discard(); p.Write(batch(testFrame(1, 100))); p.Discard() }))
	errFull := errors.New("full")
	err := s.Run(t.Context(), frametest.FailAfter(0, nil, errFull))
	if !errors.Is(err, errFull) {
		t.Errorf("Run: %v", err)
	}
	if err := s.WriteFrames([][]byte{testFrame(1, 50)}); err != nil {
		t.Errorf("the session died of it: %v", err)
	}
}

func TestCloseTellsTheServer(t *testing.T) {
	ended := make(chan error, 1)
	s := dial(t, server(t, func(p *peer) {
		p.Accept()
		_, err := io.Copy(io.Discard, p)
		ended <- err
	}))
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the server saw %v, want a close-notify, which reads as a plain end", err)
	}
	if err := s.WriteFrames([][]byte{testFrame(1, 50)}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	if err := s.Run(t.Context(), &frametest.Pipe{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run after Close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestCloseWaitsNotForAServerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quit := make(chan struct{})
		defer close(quit)
		s := dial(t, server(t, func(p *peer) { p.Accept(); <-quit }))
		begun := time.Now()
		s.Close()
		if took := time.Since(begun); took > closeGrace {
			t.Errorf("Close took %v", took)
		}
	})
}

// tcpPair is a session and its server's end over loopback.
func tcpPair(t testing.TB) (*Session, *peer) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cert := sessiontest.Certificate(t, nil)
	ready := make(chan *peer, 1)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}, DynamicRecordSizingDisabled: true})
		p := sessiontest.NewPeer(t, raw, conn)
		p.Accept()
		ready <- p
	}()
	cfg := server(t, nil)
	cfg.DialContext = func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("tcp", ln.Addr().String())
	}
	s := dial(t, cfg)
	p := <-ready
	t.Cleanup(func() { p.Raw.Close() })
	return s, p
}

func bigBatch() [][]byte {
	frames := make([][]byte, 32)
	for i := range frames {
		frames[i] = testFrame(byte(i), 1500)
	}
	return frames
}

func TestSendingDoesNotAllocate(t *testing.T) {
	s, p := tcpPair(t)
	go io.Copy(io.Discard, p.Raw) // not by TLS, whose allocations would count
	frames := bigBatch()
	send := func() {
		if err := s.WriteFrames(frames); err != nil {
			t.Fatal(err)
		}
	}
	if a := testing.AllocsPerRun(500, send); a != 0 {
		t.Errorf("%v allocations a batch of %d frames", a, len(frames))
	}
}

// crypto/tls itself allocates when it reads from the network, at most twice a
// record, which is eleven full frames. We add nothing to that.
func TestReceivingDoesNotAllocatePerFrame(t *testing.T) {
	s, p := tcpPair(t)
	go func() {
		b := batch(bigBatch()...)
		for {
			if _, err := p.Write(b); err != nil {
				return
			}
		}
	}()
	first := s.all()[0]
	frames, runs := 0, 0
	receive := func() {
		got, _, err := first.parser.Next(first.stream)
		if err != nil {
			t.Fatal(err)
		}
		frames += len(got)
		runs++
	}
	a := testing.AllocsPerRun(500, receive)
	perFrame := a * float64(runs) / float64(frames)
	if perFrame > 2.0/10 {
		t.Errorf("%.2f allocations a frame", perFrame)
	}
}

// barePair is crypto/tls alone over loopback.
func barePair(b *testing.B) (client, server *tls.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { near.Close(); far.Close() })
	cert := sessiontest.Certificate(b, nil)
	client = tls.Client(near, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
	server = tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}, DynamicRecordSizingDisabled: true})
	go server.Handshake()
	if err := client.Handshake(); err != nil {
		b.Fatal(err)
	}
	return client, server
}

// The benchmarks have a twin on bare crypto/tls with the same bytes in the same
// writes: the ratio is what the session costs.
func BenchmarkSend(b *testing.B) {
	frames := bigBatch()
	unit := batch(frames...)
	b.Run("session", func(b *testing.B) {
		s, p := tcpPair(b)
		go io.Copy(io.Discard, p)
		b.SetBytes(int64(len(unit)))
		b.ReportAllocs()
		for b.Loop() {
			if err := s.WriteFrames(frames); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tls", func(b *testing.B) {
		client, server := barePair(b)
		go io.Copy(io.Discard, server)
		b.SetBytes(int64(len(unit)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Write(unit); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkReceive(b *testing.B) {
	unit := batch(bigBatch()...)
	flood := func(w io.Writer) {
		for {
			if _, err := w.Write(unit); err != nil {
				return
			}
		}
	}
	b.Run("session", func(b *testing.B) {
		s, p := tcpPair(b)
		first := s.all()[0]
		go flood(p)
		b.SetBytes(int64(len(unit)))
		b.ReportAllocs()
		for got := 0; b.Loop(); got -= len(unit) {
			for got < len(unit) {
				frames, _, err := first.parser.Next(first.stream)
				if err != nil {
					b.Fatal(err)
				}
				for _, f := range frames {
					got += len(f) + 4
				}
			}
		}
	})
	b.Run("tls", func(b *testing.B) {
		client, server := barePair(b)
		go flood(server)
		b.SetBytes(int64(len(unit)))
		b.ReportAllocs()
		buf := make([]byte, 64<<10)
		for got := 0; b.Loop(); got -= len(unit) {
			for got < len(unit) {
				n, err := client.Read(buf)
				if err != nil {
					b.Fatal(err)
				}
				got += n
			}
		}
	})
}
