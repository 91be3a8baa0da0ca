package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// failing is a listener that first fails n times.
type failing struct {
	*memListener
	n   atomic.Int32
	err error
}

func (l *failing) Accept() (net.Conn, error) {
	if l.n.Add(-1) >= 0 {
		return nil, l.err
	}
	return l.memListener.Accept()
}

func TestServeOutlivesFailuresToAccept(t *testing.T) {
	for _, cause := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, errors.New("odd")} {
		t.Run(cause.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				ln := &failing{memListener: newMemListener(), err: opError(cause)}
				ln.n.Store(20)
				s := NewSOCKS5(Config{Dialer: newNever(), Log: slog.New(slog.NewTextHandler(&log, nil))})
				serveOn(t, s, ln)
				begin := time.Now()
				c := ln.dial(t)
				send(t, c, hello)
				expect(t, c, helloReply)
				// 5, 10, … 640 ms, then a second each.
				if got, want := time.Since(begin), 1275*time.Millisecond+12*time.Second; got != want {
					t.Errorf("paused for %v in all, want %v", got, want)
				}
				if got := strings.Count(log.String(), "level=WARN"); got != 20 {
					t.Errorf("warnings: got %d, want 20", got)
				}
				c.Close()
			})
		})
	}
}

func TestServeStopsInPauseAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &failing{memListener: newMemListener(), err: opError(syscall.EMFILE)}
		ln.n.Store(1 << 20)
		s := NewSOCKS5(Config{Dialer: newNever()})
		served := make(chan error, 1)
		go func() { served <- s.Serve(t.Context(), ln) }()
		time.Sleep(time.Minute)
		begin := time.Now()
		s.Close()
		<-served
		if d := time.Since(begin); d != 0 {
			t.Errorf("Close took %v, want no time", d)
		}
	})
}

// services has each kind of proxy, and how a client gets through.
var services = []struct {
	name   string
	new    func(Config) service
	enter  string // what a client sends
	answer string // what it hears before its own bytes return
}{
	{"SOCKS5", func(c Config) service { return NewSOCKS5(c) }, hello + toName, helloReply + granted},
	{"HTTP", func(c Config) service { return NewHTTP(c) }, connectName, connectOK},
	{"SOCKS4", func(c Config) service { return NewSOCKS5(c) }, toName4, granted4a},
	{"SOCKS5 on a mixed port", func(c Config) service { return NewMixed(c) }, hello + toName, helloReply + granted},
	{"SOCKS4 on a mixed port", func(c Config) service { return NewMixed(c) }, toName4, granted4a},
	{"HTTP on a mixed port", func(c Config) service { return NewMixed(c) }, connectName, connectOK},
}

const connectName = "CONNECT files.corp:80 HTTP/1.1\r\nHost: files.corp:80\r\n\r\n"

// enterBy gets through a proxy, of which answer is the length that counts.
func enterBy(t testing.TB, c net.Conn, enter, answer string) {
	t.Helper()
	send(t, c, enter)
	if _, err := io.CopyN(io.Discard, c, int64(len(answer))); err != nil {
		t.Fatalf("read answer: %v", err)
	}
}

func TestServeLimitsClients(t *testing.T) {
	for _, tt := range services {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.new(Config{Dialer: &dialTo{addr: listenTCP(t, echo)}, MaxConns: 2})
			addr := serve(t, s)
			first, second := connect(t, addr), connect(t, addr)
			enterBy(t, first, tt.enter, tt.answer)
			enterBy(t, second, tt.enter, tt.answer)
			third := connect(t, addr)
			if n, err := io.Copy(io.Discard, third); n > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("third client: got %d bytes and %v, want none and an end", n, err)
			}
			if got := s.Stats().Refused[Limit]; got != 1 {
				t.Errorf("refused for the limit: got %d, want 1", got)
			}
			send(t, second, "still there")
			expect(t, second, "still there")

			first.CloseWrite()
			expectEOF(t, first)
			eventually(t, "the place is free", func() bool { return s.Stats().Open < 2 })
			fourth := connect(t, addr)
			enterBy(t, fourth, tt.enter, tt.answer)
		})
	}
}

func TestShutdownLetsRelaysFinish(t *testing.T) {
	for _, tt := range services {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.new(Config{Dialer: &dialTo{addr: listenTCP(t, echo)}})
			addr := serve(t, s)
			c := connect(t, addr)
			enterBy(t, c, tt.enter, tt.answer)
			shut := make(chan error, 1)
			go func() { shut <- s.Shutdown(context.Background()) }()
			for { // until the listener has closed
				late, err := net.Dial("tcp", addr)
				if err != nil {
					break
				}
				late.Close()
			}
			send(t, c, "finishing")
			expect(t, c, "finishing")
			select {
			case err := <-shut:
				t.Fatalf("Shutdown returned %v before the relay ended", err)
			default:
			}
			c.CloseWrite()
			expectEOF(t, c)
			if err := <-shut; err != nil {
				t.Errorf("Shutdown: got %v, want nil", err)
			}
		})
	}
}

func TestShutdownCutsOffWhenItsContextEnds(t *testing.T) {
	for _, tt := range services {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.new(Config{Dialer: &dialTo{addr: listenTCP(t, echo)}})
			c := connect(t, serve(t, s))
			enterBy(t, c, tt.enter, tt.answer)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Shutdown: got %v, want %v", err, context.DeadlineExceeded)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("client: got %v, want a reset", err)
			}
		})
	}
}

// Whatever a client is doing, Close ends it and the end of the context does.
func TestServeEnds(t *testing.T) {
	occupations := []struct {
		name string
		busy func(t *testing.T, c net.Conn, d *never, enter string)
	}{
		{"silent client", func(*testing.T, net.Conn, *never, string) {}},
		{"amid the handshake", func(t *testing.T, c net.Conn, _ *never, enter string) { send(t, c, enter[:5]) }},
		{"dialing", func(t *testing.T, c net.Conn, d *never, enter string) {
			send(t, c, enter)
			<-d.began
		}},
	}
	for _, tt := range services {
		for _, o := range occupations {
			t.Run(tt.name+" "+o.name, func(t *testing.T) {
				for name, end := range map[string]func(service, context.CancelFunc){
					"close":   func(s service, _ context.CancelFunc) { s.Close() },
					"context": func(_ service, cancel context.CancelFunc) { cancel() },
				} {
					d := newNever()
					s := tt.new(Config{Dialer: d})
					ln, err := Listen(t.Context(), "127.0.0.1:0", nil, LoopbackOnly)
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					served := make(chan error, 1)
					go func() { served <- s.Serve(ctx, ln) }()
					c := connect(t, ln.Addr().String())
					eventually(t, "the client is in", func() bool { return s.Stats().Open > 0 })
					o.busy(t, c, d, tt.enter)
					end(s, cancel)
					err = <-served
					if want := map[string]error{"close": net.ErrClosed, "context": context.Canceled}[name]; !errors.Is(err, want) {
						t.Errorf("Serve by %s: got %v, want %v", name, err, want)
					}
					if n := s.Stats().Open; n != 0 {
						t.Errorf("clients after %s: got %d, want 0", name, n)
					}
				}
			})
		}
	}
}

func TestServeAfterCloseIsRefused(t *testing.T) {
	for _, tt := range services {
		t.Run(tt.name, func(t *testing.T) {
			s, ln := tt.new(Config{Dialer: newNever()}), newMemListener()
			s.Close()
			if err := s.Serve(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Serve: got %v, want %v", err, net.ErrClosed)
			}
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the listener was left open")
			}
		})
	}
}

// A server may serve several listeners, and the end of one leaves the other.
func TestServeSeveralListeners(t *testing.T) {
	for _, tt := range services {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.new(Config{Dialer: &dialTo{addr: listenTCP(t, echo)}})
			a := connect(t, serve(t, s))
			ctx, cancel := context.WithCancel(t.Context())
			ln, err := Listen(t.Context(), "127.0.0.1:0", nil, LoopbackOnly)
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- s.Serve(ctx, ln) }()
			b := connect(t, ln.Addr().String())
			enterBy(t, a, tt.enter, tt.answer)
			enterBy(t, b, tt.enter, tt.answer)
			cancel()
			<-served
			if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("client of the ended listener: got %v, want a reset", err)
			}
			send(t, a, "still there")
			expect(t, a, "still there")
		})
	}
}

// A client that is turned away may still be sending. It hears why, and is read from
// for a while: closing at once would be a reset that may overtake the answer.
func TestRefusalIsHeard(t *testing.T) {
	for _, tt := range services {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, ln := tt.new(Config{Dialer: dialFunc(func(context.Context, string, string) (net.Conn, error) {
					return nil, opError(syscall.ECONNREFUSED)
				})}), newMemListener()
				serveOn(t, s, ln)
				c := ln.dial(t)
				go io.WriteString(c, tt.enter)
				begin := time.Now()
				if b, err := io.ReadAll(c); err != nil || len(b) == 0 || string(b) == tt.answer {
					t.Errorf("got %q and %v, want the answer and EOF", b, err)
				}
				if _, err := c.Write(make([]byte, 2*readAhead)); err != nil {
					t.Errorf("sending after the answer: %v", err)
				}
				eventually(t, "the client is gone", func() bool { return s.Stats().Open == 0 })
				if d := time.Since(begin); d < lingerTime || d > lingerTime+time.Millisecond {
					t.Errorf("the end came after %v, want %v", d, lingerTime)
				}
			})
		})
	}
}
