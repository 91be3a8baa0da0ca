package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The port does not matter: a server may connect from any.
const (
	bindIPv4  = "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x00"
	bindIPv6  = "\x05\x02\x00\x04" + ipv6Bytes + "\x00\x15"
	bindAny   = "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"
	bindName  = "\x05\x02\x00\x03\x0aftp.corp.x\x00\x15"
	bindOther = "\x05\x02\x00\x01\xc0\x00\x02\x01\x00\x15"
	bindBy4   = "\x04\x02\x00\x15\x7f\x00\x00\x01me\x00"
	bindBy4a  = "\x04\x02\x00\x15\x00\x00\x00\x01\x00ftp.corp.x\x00"
)

// listenFunc is a Listener.
type listenFunc func(ctx context.Context, network, address string) (net.Listener, error)

func (f listenFunc) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return f(ctx, network, address)
}

// loopbackListener listens as if the tunnel were the loopback interface.
var loopbackListener = listenFunc(func(ctx context.Context, network, address string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, network, "127.0.0.1"+address)
})

// ftpCorp knows one name.
var ftpCorp = resolveFunc(func(_ context.Context, network, host string) ([]netip.Addr, error) {
	if network != "ip" || host != "ftp.corp.x" {
		return nil, &net.DNSError{Name: host, IsNotFound: true}
	}
	return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1")}, nil
})

// readAddress reads an answer of either version, which must be success, and returns the
// address in it.
func readAddress(t *testing.T, c io.Reader, request string) netip.AddrPort {
	t.Helper()
	want, at := "\x05\x00\x00\x01", 4
	if request[0] == 4 {
		want, at = "\x00\x5a", 2
	}
	expect(t, c, want)
	b := make([]byte, 6)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	if at == 2 { // the port is first
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[2:])), uint16(b[0])<<8|uint16(b[1]))
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), uint16(b[4])<<8|uint16(b[5]))
}

func TestBind(t *testing.T) {
	for name, request := range map[string]string{"IPv4": bindIPv4, "anybody": bindAny, "by name": bindName, "SOCKS4": bindBy4, "SOCKS4a": bindBy4a} {
		t.Run(name, func(t *testing.T) {
			s := NewMixed(Config{Dialer: newNever(), Listener: loopbackListener, Resolver: ftpCorp})
			c := connect(t, serve(t, s))
			if request[0] == 5 {
				send(t, c, hello)
				expect(t, c, helloReply)
			}
			send(t, c, request)
			at := readAddress(t, c, request)
			if at.Addr() != netip.MustParseAddr("127.0.0.1") || at.Port() == 0 {
				t.Fatalf("the peer is awaited at %v", at)
			}
			if name == "anybody" {
				send(t, c, "early")
			}
			peer := connect(t, at.String())
			if from := readAddress(t, c, request); from.String() != peer.LocalAddr().String() {
				t.Errorf("the peer is told as %v, want %v", from, peer.LocalAddr())
			}
			if name == "anybody" {
				expect(t, peer, "early")
			}
			send(t, peer, "from the peer")
			expect(t, c, "from the peer")
			send(t, c, "from the client")
			expect(t, peer, "from the client")
			peer.CloseWrite()
			expectEOF(t, c)
			c.CloseWrite()
			expectEOF(t, peer)
			if _, err := net.Dial("tcp", at.String()); err == nil {
				t.Error("a second peer may connect")
			}
			if got := s.Stats(); got.Requests != 1 || len(got.Refused) > 0 {
				t.Errorf("counters: got %+v", got)
			}
		})
	}
}

// Another than the peer that was named is turned away, and the peer is awaited further.
func TestBindTurnsStrangersAway(t *testing.T) {
	s := NewSOCKS5(Config{Dialer: newNever(), BindTimeout: time.Second, Listener: loopbackListener})
	c := connect(t, serve(t, s))
	send(t, c, hello)
	expect(t, c, helloReply)
	send(t, c, bindOther)
	at := readAddress(t, c, bindOther).String()
	for range 3 {
		stranger, err := net.Dial("tcp", at)
		if err == nil { // or the reset came first
			_, err = io.Copy(io.Discard, stranger)
			stranger.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a stranger: got %v, want a reset", err)
		}
	}
	expect(t, c, failure(6)) // nobody else came
	expectEOF(t, c)
	if got, want := s.Stats().Refused, (map[Reason]uint64{Stranger: 3, Timeout: 1}); !cmp.Equal(got, want) {
		t.Errorf("refused: %s", cmp.Diff(want, got))
	}
}

func TestBindIsRefused(t *testing.T) {
	fails := listenFunc(func(context.Context, string, string) (net.Listener, error) { return nil, opError(syscall.ENETUNREACH) })
	for _, tt := range []struct {
		name, input, want string
		listener          Listener
	}{
		{"nothing to listen with", hello + bindIPv4, helloReply + failure(7), nil},
		{"nothing to listen with, SOCKS4", bindBy4, rejected, nil},
		{"no address yet", hello + bindIPv4, helloReply + failure(3), fails},
		{"no address yet, SOCKS4", bindBy4, rejected, fails},
		{"no such name", hello + "\x05\x02\x00\x03\x01a\x00\x15", helloReply + failure(4), fails},
		{"no name at all", hello + "\x05\x02\x00\x03\x03a\x00b\x00\x15", helloReply + failure(1), fails},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if output, _ := dialed(t, Config{Listener: tt.listener, Resolver: ftpCorp}, tt.input, nil); output != tt.want {
				t.Errorf("answer: got %q, want %q", output, tt.want)
			}
		})
	}
}

// memBind listens in memory.
type memBind struct {
	*memListener
	network chan string
}

func newMemBind() memBind { return memBind{newMemListener(), make(chan string, 1)} }

func (b memBind) Listen(_ context.Context, network, _ string) (net.Listener, error) {
	b.network <- network
	return b.memListener, nil
}

func TestBindWaitsItsTimeAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ln := NewSOCKS5(Config{Dialer: newNever(), Listener: newMemBind(), BindTimeout: 90 * time.Second}), newMemListener()
		serveOn(t, s, ln)
		c := ln.dial(t)
		send(t, c, hello)
		expect(t, c, helloReply)
		begin := time.Now()
		send(t, c, bindIPv6)
		expect(t, c, granted)
		expect(t, c, failure(6))
		if got := time.Since(begin); got != 90*time.Second {
			t.Errorf("waited %v, want 90s", got)
		}
	})
}

func TestBindEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemBind()
		s, ln := NewSOCKS5(Config{Dialer: newNever(), Listener: b}), newMemListener()
		serveOn(t, s, ln)
		c := ln.dial(t)
		send(t, c, hello)
		expect(t, c, helloReply)
		send(t, c, bindIPv6)
		expect(t, c, granted)
		if got := <-b.network; got != "tcp6" {
			t.Errorf("listened on %s, want tcp6: the peer has an IPv6 address", got)
		}
		time.Sleep(time.Second)
		c.Close()
		synctest.Wait()
		select {
		case <-b.done:
		default:
			t.Error("the listener is still open")
		}
		if got, want := s.Stats().Refused, (map[Reason]uint64{Canceled: 1}); !cmp.Equal(got, want) {
			t.Errorf("refused: %s", cmp.Diff(want, got))
		}
	})
}
