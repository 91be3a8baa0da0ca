package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/relay"
)

const (
	hello          = "\x05\x01\x00"                                                     // version 5, one method: none
	helloReply     = "\x05\x00"                                                         // none it is
	helloAuth      = "\x05\x02\x00\x02"                                                 // none or password
	toIPv4         = "\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50"                         // CONNECT 192.0.2.1:80
	toName         = "\x05\x01\x00\x03\x0afiles.corp\x00\x50"                           // CONNECT files.corp:80
	granted        = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"                         // success, bound address unknown
	toIPv6         = "\x05\x01\x00\x04" + ipv6Bytes + "\x01\xbb"                        // CONNECT [2001:db8::1]:443
	ipv6Bytes      = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" // 2001:db8::1
	mappedIPv6     = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01" // ::ffff:192.0.2.1
	mappedLoopback = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01"
	loginRight     = "\x01\x05alice\x06secret" // RFC 1929
	loginOK        = "\x01\x00"
	loginBad       = "\x01\x01"
	noMethod       = "\x05\xff"
	failPrefix     = "\x05"
	failSuffix     = "\x00\x01\x00\x00\x00\x00\x00\x00" // after version and code
)

// failure is a reply with a code.
func failure(code byte) string { return failPrefix + string(code) + failSuffix }

func newAuth(t testing.TB) Auth {
	t.Helper()
	a, err := NewAuth("alice", "secret")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// dialed runs a handshake in memory and returns all that the server said and what
// it dialed.
func dialed(t *testing.T, c Config, input string, dialErr error) (output string, asked []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c.Dialer = dialFunc(func(_ context.Context, network, address string) (net.Conn, error) {
			asked = append(asked, network+" "+address)
			if dialErr != nil {
				return nil, dialErr
			}
			conn, far := memPipe()
			far.Close()
			return conn, nil
		})
		s, ln := NewSOCKS5(c), newMemListener()
		serveOn(t, s, ln)
		client := ln.dial(t)
		go io.WriteString(client, input)
		b, err := io.ReadAll(client)
		if err != nil && !errors.Is(err, errReset) {
			t.Fatal(err)
		}
		output = string(b)
		client.Close()
	})
	return output, asked
}

func TestSOCKS5Handshake(t *testing.T) {
	long := strings.Repeat("a", 255)
	checkHandshakes(t, []handshakeTest{
		{name: "IPv4 target", input: hello + toIPv4, want: helloReply + granted, asked: "tcp 192.0.2.1:80"},
		{name: "IPv6 target", input: hello + toIPv6, want: helloReply + granted, asked: "tcp [2001:db8::1]:443"},
		{name: "IPv4 target in IPv6 form", input: hello + "\x05\x01\x00\x04" + mappedIPv6 + "\x00\x50", want: helloReply + granted, asked: "tcp 192.0.2.1:80"},
		{name: "name is passed on unresolved", input: hello + toName, want: helloReply + granted, asked: "tcp files.corp:80"},
		{name: "localhost is not behind the tunnel", input: hello + "\x05\x01\x00\x03\x09localhost\x00\x50", want: helloReply + failure(2)},
		{name: "loopback address", input: hello + "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", want: helloReply + failure(2)},
		{name: "loopback address mapped into IPv6", input: hello + "\x05\x01\x00\x04" + mappedLoopback + "\x00\x50", want: helloReply + failure(2)},
		{name: "link-local address", input: hello + "\x05\x01\x00\x01\xa9\xfe\xa9\xfe\x00\x50", want: helloReply + failure(2)},
		{name: "multicast address", input: hello + "\x05\x01\x00\x01\xe0\x00\x00\x01\x00\x50", want: helloReply + failure(2)},
		{name: "address written as a name", input: hello + "\x05\x01\x00\x03\x0b2001:db8::1\x00\x50", want: helloReply + granted, asked: "tcp [2001:db8::1]:80"},
		{name: "longest name", input: hello + "\x05\x01\x00\x03\xff" + long + "\x00\x50", want: helloReply + granted, asked: "tcp " + long + ":80"},
		{name: "no authentication among other methods", input: "\x05\x03\x01\x02\x00" + toIPv4, want: helloReply + granted, asked: "tcp 192.0.2.1:80"},

		{name: "no method at all", input: "\x05\x00", want: noMethod},
		{name: "GSSAPI only", input: "\x05\x01\x01", want: noMethod},
		{name: "password where none is asked", input: "\x05\x01\x02", want: noMethod},
		{name: "SOCKS3", input: "\x03\x01\x00\x50\xc0\x00\x02\x01\x00", want: ""},
		{name: "HTTP", input: "GET / HTTP/1.1\r\n\r\n", want: httpHint},
		{name: "noise", input: "\x16\x03\x01\x02\x00\x01\x00", want: ""},
		{name: "request of another version", input: hello + "\x04\x01\x00\x01\xc0\x00\x02\x01\x00\x50", want: helloReply},

		{name: "BIND", input: hello + "\x05\x02\x00\x01\xc0\x00\x02\x01\x00\x50", want: helloReply + failure(7)},
		{name: "UDP ASSOCIATE", input: hello + "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", want: helloReply + failure(7)},
		{name: "unknown command", input: hello + "\x05\x09\x00\x01\xc0\x00\x02\x01\x00\x50", want: helloReply + failure(7)},
		{name: "unknown address type", input: hello + "\x05\x01\x00\x02\xc0\x00\x02\x01\x00\x50", want: helloReply + failure(8)},
		{name: "port 0", input: hello + "\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x00", want: helloReply + failure(1)},
		{name: "empty name", input: hello + "\x05\x01\x00\x03\x00\x00\x50", want: helloReply + failure(1)},
		{name: "NUL in a name", input: hello + "\x05\x01\x00\x03\x03a\x00b\x00\x50", want: helloReply + failure(1)},
		{name: "line end in a name", input: hello + "\x05\x01\x00\x03\x03a\r\n\x00\x50", want: helloReply + failure(1)},
		{name: "zone in an address", input: hello + "\x05\x01\x00\x03\x0cfe80::1%eth0\x00\x50", want: helloReply + failure(1)},

		{name: "right password", auth: true, input: helloAuth + loginRight + toIPv4, want: "\x05\x02" + loginOK + granted, asked: "tcp 192.0.2.1:80"},
		{name: "wrong password", auth: true, input: helloAuth + "\x01\x05alice\x06Secret", want: "\x05\x02" + loginBad},
		{name: "wrong user", auth: true, input: helloAuth + "\x01\x05alicf\x06secret", want: "\x05\x02" + loginBad},
		{name: "password cut short", auth: true, input: helloAuth + "\x01\x05alice\x05secre", want: "\x05\x02" + loginBad},
		{name: "empty user and password", auth: true, input: helloAuth + "\x01\x00\x00", want: "\x05\x02" + loginBad},
		{name: "longest user and password", auth: true, input: helloAuth + "\x01\xff" + long + "\xff" + long, want: "\x05\x02" + loginBad},
		{name: "password of another version", auth: true, input: helloAuth + "\x05\x05alice\x06secret", want: "\x05\x02"},
		{name: "no password offered where one is asked", auth: true, input: hello + toIPv4, want: noMethod},
	})
}

// A handshakeTest is what a client sends, what it hears, and what was dialed for it.
type handshakeTest struct {
	name, input, want string
	asked             string
	auth              bool // a password is asked for
}

func checkHandshakes(t *testing.T, tests []handshakeTest) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c Config
			if tt.auth {
				c.Auth = newAuth(t)
			}
			output, asked := dialed(t, c, tt.input, nil)
			if output != tt.want {
				t.Errorf("answer: got %q, want %q", output, tt.want)
			}
			if got := strings.Join(asked, " "); got != tt.asked {
				t.Errorf("dialed: got %q, want %q", got, tt.asked)
			}
		})
	}
}

// dialErrors has an error of each kind as a Dialer would return it.
var dialErrors = []struct {
	name string
	err  error
	want Reason
}{
	{"refused", opError(syscall.ECONNREFUSED), Refused},
	{"reset", opError(syscall.ECONNRESET), Refused},
	{"not permitted", opError(syscall.EACCES), NotPermitted},
	{"host unreachable", opError(syscall.EHOSTUNREACH), HostUnreachable},
	{"host down", opError(syscall.EHOSTDOWN), HostUnreachable},
	{"network unreachable", opError(syscall.ENETUNREACH), NetUnreachable},
	{"network down", opError(syscall.ENETDOWN), NetUnreachable},
	{"timed out by the stack", opError(syscall.ETIMEDOUT), Timeout},
	{"timed out by a deadline", opError(os.ErrDeadlineExceeded), Timeout},
	{"timed out by the context", fmt.Errorf("dial: %w", context.DeadlineExceeded), Timeout},
	{"no such family", opError(syscall.EAFNOSUPPORT), NoFamily},
	{"no port left", opError(syscall.EADDRNOTAVAIL), NoPort},
	{"no such name", opError(&net.DNSError{Err: "no such host", IsNotFound: true}), Resolve},
	{"resolver timed out", &net.DNSError{Err: "timeout", IsTimeout: true, UnwrapErr: context.DeadlineExceeded}, Resolve},
	{"unknown", errors.New("odd"), Other},
	{"several addresses, one refused", errors.Join(opError(syscall.ENETUNREACH), opError(syscall.ECONNREFUSED)), Refused},
	{"several addresses, one timed out", errors.Join(opError(syscall.ENETUNREACH), opError(os.ErrDeadlineExceeded)), Timeout},
	{"several addresses, the rest canceled", errors.Join(context.Canceled, opError(syscall.EHOSTUNREACH)), HostUnreachable},
}

func opError(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }

func TestSOCKS5ReplyToFailedDial(t *testing.T) {
	codes := map[Reason]byte{
		Refused: 5, NotPermitted: 2, HostUnreachable: 4, NetUnreachable: 3, Timeout: 6, NoFamily: 8, NoPort: 1, Resolve: 4, Other: 1,
	}
	for _, tt := range dialErrors {
		t.Run(tt.name, func(t *testing.T) {
			output, _ := dialed(t, Config{}, hello+toName, tt.err)
			if want := helloReply + failure(codes[tt.want]); output != want {
				t.Errorf("answer: got %q, want %q", output, want)
			}
		})
	}
}

// Every way to stop talking in mid-handshake ends at the deadline, not before and
// not after, without a dial.
func TestSOCKS5SilenceEndsHandshake(t *testing.T) {
	whole := helloAuth + loginRight + toName
	for n := range len(whole) {
		t.Run(fmt.Sprintf("after %d bytes", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newNever()
				s, ln := NewSOCKS5(Config{Dialer: d, Auth: newAuth(t), HandshakeTimeout: 7 * time.Second}), newMemListener()
				serveOn(t, s, ln)
				begin := time.Now()
				c := ln.dial(t)
				go io.WriteString(c, whole[:n])
				io.Copy(io.Discard, c)
				if got, want := time.Since(begin), 7*time.Second; got != want {
					t.Errorf("closed after %v, want %v", got, want)
				}
				synctest.Wait()
				if got, want := s.Stats().Refused, (map[Reason]uint64{Slow: 1}); !cmp.Equal(got, want) {
					t.Errorf("refused: %s", cmp.Diff(want, got))
				}
				if len(d.began) > 0 {
					t.Errorf("dialed %s", <-d.began)
				}
			})
		})
	}
}

// Every short prefix with an end after it is closed at once.
func TestSOCKS5EndInHandshake(t *testing.T) {
	whole := helloAuth + loginRight + toName
	for n := range len(whole) {
		t.Run(fmt.Sprintf("after %d bytes", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, ln := NewSOCKS5(Config{Dialer: newNever(), Auth: newAuth(t)}), newMemListener()
				serveOn(t, s, ln)
				begin := time.Now()
				c := ln.dial(t)
				go func() {
					io.WriteString(c, whole[:n])
					c.CloseWrite()
				}()
				io.Copy(io.Discard, c)
				if got := time.Since(begin); got != 0 {
					t.Errorf("closed after %v, want at once", got)
				}
				synctest.Wait()
				want := map[Reason]uint64{Malformed: 1}
				if n == 0 {
					want = map[Reason]uint64{} // a port scan is no refusal
				}
				if got := s.Stats().Refused; !cmp.Equal(got, want) {
					t.Errorf("refused: %s", cmp.Diff(want, got))
				}
			})
		})
	}
}

// A byte a second does not extend the deadline.
func TestSOCKS5SlowHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ln := NewSOCKS5(Config{Dialer: newNever(), HandshakeTimeout: 5500 * time.Millisecond}), newMemListener()
		serveOn(t, s, ln)
		c := ln.dial(t)
		begin := time.Now()
		var writer sync.WaitGroup
		defer writer.Wait()
		writer.Go(func() {
			for _, b := range []byte(hello + toName) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		io.Copy(io.Discard, c)
		if got, want := time.Since(begin), 5500*time.Millisecond; got != want {
			t.Errorf("disconnected after %v, want %v", got, want)
		}
	})
}

func TestSOCKS5DialTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ln := NewSOCKS5(Config{Dialer: newNever(), DialTimeout: 20 * time.Second}), newMemListener()
		serveOn(t, s, ln)
		c := ln.dial(t)
		begin := time.Now()
		send(t, c, hello)
		expect(t, c, helloReply)
		send(t, c, toName)
		expect(t, c, failure(6))
		if got, want := time.Since(begin), 20*time.Second; got != want {
			t.Errorf("gave up after %v, want %v", got, want)
		}
		c.Close()
	})
}

func TestSOCKS5HangUpEndsDial(t *testing.T) {
	tests := []struct {
		name  string
		leave func(c *net.TCPConn)
	}{
		{"closed", func(c *net.TCPConn) { c.Close() }},
		{"reset", func(c *net.TCPConn) { relay.Reset(c) }},
		{"reset after sending ahead", func(c *net.TCPConn) {
			io.WriteString(c, "early")
			relay.Reset(c)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newNever()
			s := NewSOCKS5(Config{Dialer: d})
			c := connect(t, serve(t, s))
			send(t, c, hello)
			expect(t, c, helloReply)
			send(t, c, toName)
			<-d.began
			tt.leave(c)
			if err := <-d.ended; err != errHungUp {
				t.Errorf("dial ended by %v, want %v", err, errHungUp)
			}
		})
	}
}

// What a client sends ahead of the answer reaches the target, whole and in order,
// before what it sends after.
func TestSOCKS5SendsAhead(t *testing.T) {
	for _, size := range []int{1, 100, readAhead, readAhead + 1, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			target := listenTCP(t, echo)
			proceed := make(chan struct{})
			s := NewSOCKS5(Config{Dialer: dialFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
				<-proceed
				return (&dialTo{addr: target}).DialContext(ctx, network, "")
			})})
			c := connect(t, serve(t, s))
			early := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
			go func() {
				c.Write([]byte(hello + toName + string(early)))
				close(proceed)
				c.Write([]byte("later"))
				c.CloseWrite()
			}()
			expect(t, c, helloReply)
			io.CopyN(io.Discard, c, int64(len(granted)))
			expect(t, c, string(early)+"later")
			expectEOF(t, c)
		})
	}
}

// A client that has sent its all and closed its half is still answered.
func TestSOCKS5SendsAheadAndEnds(t *testing.T) {
	target := listenTCP(t, echo)
	d := newNever()
	proceed := make(chan struct{})
	s := NewSOCKS5(Config{Dialer: dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		d.began <- address
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-proceed:
		}
		return (&dialTo{addr: target}).DialContext(ctx, network, "")
	})})
	c := connect(t, serve(t, s))
	send(t, c, hello+toName+"all")
	c.CloseWrite()
	<-d.began
	close(proceed)
	expect(t, c, helloReply)
	io.CopyN(io.Discard, c, int64(len(granted)))
	expect(t, c, "all")
	expectEOF(t, c)
}

func TestSOCKS5BoundAddress(t *testing.T) {
	tests := []struct {
		name string
		addr net.Addr
		want string
	}{
		{"IPv4", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 5), Port: 258}, "\x05\x00\x00\x01\x0a\x00\x00\x05\x01\x02"},
		{"IPv6", &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 258}, "\x05\x00\x00\x04" + ipv6Bytes + "\x01\x02"},
		{"unknown", addrString("memory"), granted},
		{"none", nil, granted},
		{"empty", &net.TCPAddr{}, granted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(reply5(0, tt.addr)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
