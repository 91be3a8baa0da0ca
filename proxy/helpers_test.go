package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"softether-go/pkg/leaktest"
	"softether-go/pkg/relay/relaytest"
)

// TestMain fails the run if a goroutine is left.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// dialFunc is a Dialer.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

// dialTo is a Dialer for which every target is at one address, as if names were
// resolved in a tunnel. It remembers what was asked.
type dialTo struct {
	addr string

	mu    sync.Mutex
	asked []string
}

func (d *dialTo) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.asked = append(d.asked, address)
	d.mu.Unlock()
	var nd net.Dialer
	return nd.DialContext(ctx, network, d.addr)
}

func (d *dialTo) addresses() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.asked...)
}

// never is a Dialer whose dials last until their context ends. It tells when one
// begins and how it ended.
type never struct {
	began chan string
	ended chan error
}

func newNever() *never { return &never{make(chan string, 16), make(chan error, 16)} }

func (n *never) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	n.began <- address
	<-ctx.Done()
	n.ended <- context.Cause(ctx)
	return nil, ctx.Err()
}

// service is what SOCKS5 and HTTP have in common.
type service interface {
	Serve(ctx context.Context, ln net.Listener) error
	Shutdown(ctx context.Context) error
	Close() error
	Stats() Stats
}

// serve runs s on a loopback port until the test ends and returns its address.
func serve(t testing.TB, s service) string {
	t.Helper()
	ln, err := Listen(t.Context(), "127.0.0.1:0", nil, LoopbackOnly)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, s, ln)
	return ln.Addr().String()
}

// serveOn runs s on ln until the test ends.
func serveOn(t testing.TB, s service, ln net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: got %v, want %v", err, net.ErrClosed)
		}
		if n := s.Stats().Open; n != 0 {
			t.Errorf("clients after Serve: got %d, want 0", n)
		}
	})
}

// eventually waits for ok: what a service counts and gives back follows what its clients see.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// listenTCP accepts on a loopback port and runs handle for each connection, until
// the test ends.
func listenTCP(t testing.TB, handle func(c *net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// echo answers with what it gets, and ends when the client has.
func echo(c *net.TCPConn) {
	io.Copy(c, c)
	c.CloseWrite()
}

// connect opens a connection that lasts no longer than the test.
func connect(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second)) // a hang fails
	return c.(*net.TCPConn)
}

// send writes b, which must succeed.
func send(t testing.TB, c net.Conn, b string) {
	t.Helper()
	if _, err := io.WriteString(c, b); err != nil {
		t.Fatalf("write %q: %v", b, err)
	}
}

func expect(t testing.TB, r io.Reader, want string) {
	t.Helper()
	relaytest.Expect(t, r, want)
}

func expectEOF(t testing.TB, r io.Reader) {
	t.Helper()
	relaytest.ExpectEOF(t, r)
}

// memListener is a listener in memory, for virtual time.
type memListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memListener) Addr() net.Addr { return addrString("memory") }

// dial returns the client's end of a new connection.
func (l *memListener) dial(t testing.TB) *memConn {
	t.Helper()
	client, server := memPipe()
	t.Cleanup(func() { client.Close() })
	l.conns <- server
	return client
}

// memConn is one end of a connection in memory.
type memConn = relaytest.Conn

func memPipe() (a, b *memConn) { return relaytest.Pipe() }

var errReset = relaytest.ErrReset
