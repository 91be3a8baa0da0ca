package underlay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const proxySecret = "hunter2-hunter2"

// scripted is a Dialer whose proxy, at 192.0.2.9:1080, does as a script says.
func scripted(p Proxy, script func(net.Conn)) *Dialer {
	p.Host, p.Port = "192.0.2.9", 1080
	return &Dialer{
		Via:    func(string, uint16) *Proxy { return &p },
		lookup: both,
		connect: func(_ context.Context, _, address string) (net.Conn, error) {
			if address != "192.0.2.9:1080" {
				return nil, fmt.Errorf("connects to %s", address)
			}
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				script(far)
			}()
			return near, nil
		},
	}
}

// hears reads want, and says what else came.
func hears(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Errorf("the proxy hears %q, %v, want %q", got, err, want)
	}
}

// An exchange is what a proxy hears and answers, in turns.
type exchange []string

func (e exchange) play(t *testing.T) func(net.Conn) {
	return func(c net.Conn) {
		for i, words := range e {
			if i%2 == 0 {
				hears(t, c, words)
			} else {
				io.WriteString(c, words)
			}
		}
		io.WriteString(c, "from the server") // only those who are in read it
	}
}

func httpAsks(more string) string {
	return "CONNECT vpn.example.com:443 HTTP/1.1\r\nHost: vpn.example.com:443\r\nUser-Agent: softether-go\r\n" + more + "\r\n"
}

const asked = "\x05\x01\x00\x03\x0fvpn.example.com\x01\xbb"

func TestThroughAProxy(t *testing.T) {
	for _, row := range []struct {
		name  string
		proxy Proxy
		talk  exchange
	}{
		{"HTTP", Proxy{Scheme: "http"}, exchange{httpAsks(""), "HTTP/1.1 200 OK\r\n\r\n"}},
		{"HTTP with a login", Proxy{Scheme: "http", User: "me", Password: "p:w"},
			exchange{httpAsks("Proxy-Authorization: Basic bWU6cDp3\r\n"), "HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n"}},
		{"HTTP with headers", Proxy{Scheme: "http", Header: http.Header{"X-Team": {"a", "b, c"}}},
			exchange{httpAsks("X-Team: a\r\nX-Team: b, c\r\n"), "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"}},
		{"SOCKS4", Proxy{Scheme: "socks4", User: "me"}, exchange{"\x04\x01\x01\xbb\xc0\x00\x02\x01me\x00", "\x00\x5a......"}},
		{"SOCKS4A", Proxy{Scheme: "socks4a"}, exchange{"\x04\x01\x01\xbb\x00\x00\x00\x01\x00vpn.example.com\x00", "\x00\x5a......"}},
		{"SOCKS5 by name", Proxy{Scheme: "socks5h"}, exchange{"\x05\x01\x00", "\x05\x00", asked, "\x05\x00\x00\x01......"}},
		{"SOCKS5 by address", Proxy{Scheme: "socks5"},
			exchange{"\x05\x01\x00", "\x05\x00", "\x05\x01\x00\x04\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01\x01\xbb", "\x05\x00\x00\x04" + strings.Repeat(".", 18)}},
		{"SOCKS5 with a login", Proxy{Scheme: "socks5h", User: "me", Password: "pw"},
			exchange{"\x05\x02\x00\x02", "\x05\x02", "\x01\x02me\x02pw", "\x01\x00", asked, "\x05\x00\x00\x03\x04name.."}},
		{"SOCKS5 with a login that is not wanted", Proxy{Scheme: "socks5h", User: "me", Password: "pw"},
			exchange{"\x05\x02\x00\x02", "\x05\x00", asked, "\x05\x00\x00\x01......"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := scripted(row.proxy, row.talk.play(t))
			var protected []netip.Addr
			d.Protect = func(_ context.Context, addrs []netip.Addr) error { protected = addrs; return nil }
			c, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got, err := io.ReadAll(c); err != nil || string(got) != "from the server" {
				t.Errorf("behind the proxy: %q, %v", got, err)
			}
			if len(protected) != 1 || protected[0].String() != "192.0.2.9" {
				t.Errorf("protected %v, want the proxy", protected)
			}
		})
	}
}

func TestWhatProxiesRefuse(t *testing.T) {
	login := Proxy{Scheme: "http", User: "me", Password: proxySecret}
	socks := Proxy{Scheme: "socks5h", User: "me", Password: proxySecret}
	inTurns := func(e ...string) func(net.Conn) {
		return func(c net.Conn) {
			for _, words := range e {
				c.Read(make([]byte, 4096)) // one request
				io.WriteString(c, words)
			}
		}
	}
	says := func(words string) func(net.Conn) { return inTurns(words) }
	for _, row := range []struct {
		name   string
		proxy  Proxy
		script func(net.Conn)
		final  bool
		want   string
	}{
		{"HTTP wants a login", Proxy{Scheme: "http"}, says("HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n"), true, "wants a user and password (407 Proxy Authentication Required)"},
		{"HTTP refuses the login", login, says("HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate, Basic realm=x\r\n\r\n"), true, "refuses our user and password (407"},
		{"HTTP refuses the login like a server", login, says("HTTP/1.1 401 No\r\n\r\n"), true, "refuses our user and password (401 Unauthorized)"},
		{"HTTP wants another login", login, says("HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n"), true, "of another kind than Basic"},
		{"HTTP forbids", login, says("HTTP/1.1 403 \x1b[31mNo\r\n\r\n"), false, "does not allow connections to vpn.example.com:443 (403 Forbidden)"},
		{"HTTP does not reach", login, says("HTTP/1.1 503 x\r\n\r\n"), false, "cannot reach vpn.example.com:443 (503 Service Unavailable)"},
		{"HTTP server", login, says("HTTP/1.1 405 x\r\n\r\n"), false, `answers "405 Method Not Allowed" where a proxy gives a connection; is it one`},
		{"HTTP speaks too early", login, says("HTTP/1.1 200 x\r\n\r\nhello"), false, "nobody asked for"},
		{"HTTP without end", login, endless, false, "does not answer as an HTTP proxy"},
		{"HTTP for ever interim", login, says(strings.Repeat("HTTP/1.1 102 x\r\n\r\n", 9)), false, "does not answer as an HTTP proxy"},
		{"HTTP is SSH", login, says("SSH-2.0-x\r\n"), false, "does not answer as an HTTP proxy"},
		{"HTTP hangs up", login, says(""), false, "closed the connection without an answer"},
		{"HTTP hangs up half-way", login, says("HTTP/1.1 20"), false, "does not answer as an HTTP proxy"},

		{"SOCKS4 refuses", Proxy{Scheme: "socks4a"}, says("\x00\x5b......"), false, "refuses or cannot reach vpn.example.com:443 (SOCKS4 code 91)"},
		{"SOCKS4 refuses the user", Proxy{Scheme: "socks4a"}, says("\x00\x5d......"), true, "refuses the user in its URL"},
		{"SOCKS4 is HTTP", Proxy{Scheme: "socks4a"}, says("HTTP/1.1 400 x\r\n\r\n"), false, "does not answer as a SOCKS4 proxy"},
		{"SOCKS4 of nonsense", Proxy{Scheme: "socks4a"}, says("\x00\x00......"), false, "does not answer as a SOCKS4 proxy"},
		{"SOCKS4 hangs up", Proxy{Scheme: "socks4a"}, says("\x00\x5a."), false, "closed the connection without an answer"},

		{"SOCKS5 wants a login", Proxy{Scheme: "socks5h"}, says("\x05\xff"), true, "wants a user and password"},
		{"SOCKS5 wants something else", socks, says("\x05\xff"), true, "no common method"},
		{"SOCKS5 refuses the login", socks, inTurns("\x05\x02", "\x01\x01"), true, "refuses our user and password (SOCKS5 status 1)"},
		{"SOCKS5 hangs up on the login", socks, inTurns("\x05\x02", ""), true, "refuses our user and password (it hung up)"},
		{"SOCKS5 chooses what was not offered", Proxy{Scheme: "socks5h"}, says("\x05\x02"), false, "does not answer as a SOCKS5 proxy"},
		{"SOCKS5 fails", socks, inTurns("\x05\x00", "\x05\x01"), false, "for a reason of its own (SOCKS5 code 1)"},
		{"SOCKS5 forbids", socks, inTurns("\x05\x00", "\x05\x02\x00\x01......"), false, "does not allow connections to vpn.example.com:443 (SOCKS5 code 2)"},
		{"SOCKS5 has no way", socks, inTurns("\x05\x00", "\x05\x03"), false, "network unreachable"},
		{"SOCKS5 finds no host", socks, inTurns("\x05\x00", "\x05\x04"), false, "host unreachable"},
		{"SOCKS5 is refused", socks, inTurns("\x05\x00", "\x05\x05"), false, "connection refused"},
		{"SOCKS5 waits in vain", socks, inTurns("\x05\x00", "\x05\x06"), false, "time-out"},
		{"SOCKS5 without connections", socks, inTurns("\x05\x00", "\x05\x07"), true, "does not do connections"},
		{"SOCKS5 without names", socks, inTurns("\x05\x00", "\x05\x08"), false, "SOCKS5 code 8"},
		{"SOCKS5 of nonsense", socks, inTurns("\x05\x00", "\x05\x63"), false, "does not answer as a SOCKS5 proxy"},
		{"SOCKS5 with another address", socks, inTurns("\x05\x00", "\x05\x00\x00\x07......"), false, "does not answer as a SOCKS5 proxy"},
		{"SOCKS5 ends amid its answer", socks, inTurns("\x05\x00", "\x05\x00\x00\x01.."), false, "closed the connection"},
		{"SOCKS5 is HTTP", socks, says("HTTP/1.1 400 x\r\n\r\n"), false, "does not answer as a SOCKS5 proxy"},
		{"https is http", Proxy{Scheme: "https"}, says("HTTP/1.1 400 x\r\n\r\n"), false, "does not speak TLS; is it an http:// proxy?"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := scripted(row.proxy, row.script)
			c, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443")
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			var pe *ProxyError
			if !errors.As(err, &pe) || pe.Permanent() != row.final {
				t.Errorf("%#v: want a ProxyError, permanent %v", err, row.final)
			}
			wantWords(t, err, row.want)
		})
	}
}

func wantWords(t *testing.T, err error, want string) {
	t.Helper()
	text := err.Error()
	if !strings.Contains(text, want) || strings.ContainsAny(text, "\n\x1b") || strings.Contains(text, proxySecret) {
		t.Errorf("got %q, want a line with %q and without the secret", text, want)
	}
}

// endless sends a header that does not end, until nobody reads any more.
func endless(c net.Conn) {
	c.Read(make([]byte, 4096))
	io.WriteString(c, "HTTP/1.1 200 OK\r\nX: ")
	for {
		if _, err := io.WriteString(c, strings.Repeat("x", 4096)); err != nil {
			return
		}
	}
}

func TestAProxyThatIsNotThere(t *testing.T) {
	refused := errors.New("refused")
	d := scripted(Proxy{Scheme: "http"}, nil)
	d.connect = func(context.Context, string, string) (net.Conn, error) { return nil, refused }
	_, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443")
	var pe *ProxyError
	if !errors.As(err, &pe) || pe.Permanent() || !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	wantWords(t, err, "proxy http://192.0.2.9:1080: refused")
}

func TestASilentProxyTakesNoLongerThanItMay(t *testing.T) {
	for _, scheme := range []string{"http", "https", "socks4a", "socks5h"} {
		synctest.Test(t, func(t *testing.T) {
			d := scripted(Proxy{Scheme: scheme}, func(c net.Conn) { io.Copy(io.Discard, c) })
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			begun := time.Now()
			_, err := d.DialContext(ctx, "tcp", "vpn.example.com:443")
			if err == nil || time.Since(begun) != 10*time.Second {
				t.Fatalf("%s: %v after %v", scheme, err, time.Since(begun))
			}
			wantWords(t, err, "did not answer in time")
		})
	}
}

func TestWhatSOCKSCannotSay(t *testing.T) {
	never := func(net.Conn) { t.Error("the proxy was asked") }
	four := scripted(Proxy{Scheme: "socks4"}, never)
	four.lookup = func(context.Context, string, string) ([]netip.Addr, error) { return []netip.Addr{v6}, nil }
	for _, address := range []string{"vpn.example.com:443", "[2001:db8::1]:443"} {
		_, err := four.DialContext(t.Context(), "tcp", address)
		if err == nil {
			t.Fatal("no error")
		}
		wantWords(t, err, "SOCKS4 is for IPv4")
	}
	five := scripted(Proxy{Scheme: "socks5", User: "me"}, func(c net.Conn) { go io.Copy(io.Discard, c); io.WriteString(c, "\x05\x02") })
	_, err := five.DialContext(t.Context(), "tcp", "192.0.2.1:443")
	if err == nil {
		t.Fatal("no error")
	}
	wantWords(t, err, "1 to 255 bytes")
}

// The addresses of a server that we look up ourselves are tried in turn.
func TestTheSecondAddressThroughTheProxy(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	d := scripted(Proxy{Scheme: "socks5"}, func(c net.Conn) {
		mu.Lock()
		asked++
		first := asked == 1
		mu.Unlock()
		io.ReadFull(c, make([]byte, 3))
		io.WriteString(c, "\x05\x00")
		if first {
			io.ReadFull(c, make([]byte, 22)) // the IPv6 address
			io.WriteString(c, "\x05\x03")
			return
		}
		hears(t, c, "\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb")
		io.WriteString(c, "\x05\x00\x00\x01......")
	})
	c, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
}

// A TLS proxy is checked like any server, and carries a tunnel.
func TestThroughTLS(t *testing.T) {
	proxy := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "vpn.example.com:443" {
			t.Errorf("got %s %s", r.Method, r.Host)
		}
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		io.Copy(c, rw)
	}))
	defer proxy.Close()
	proxy.Config.ErrorLog = log.New(io.Discard, "", 0)
	u, _ := url.Parse(proxy.URL)
	port, _ := strconv.Atoi(u.Port())
	p := &Proxy{Scheme: "https", Host: "127.0.0.1", Port: uint16(port)}
	d := &Dialer{Via: func(string, uint16) *Proxy { return p }}
	_, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443")
	var pe *ProxyError
	if !errors.As(err, &pe) || !pe.Permanent() {
		t.Fatalf("an unknown authority: got %v", err)
	}
	wantWords(t, err, "its certificate is not trusted")
	p.Roots = proxy.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(*tls.Conn); !ok {
		t.Errorf("%T is in the clear", c)
	}
	io.WriteString(c, "echo")
	hears(t, c, "echo")
}

func TestNoProxyForWhomThereIsNone(t *testing.T) {
	n := &network{answers: map[string]answer{"192.0.2.7:443": {}}}
	d := &Dialer{connect: n.connect, Via: func(string, uint16) *Proxy { return nil }}
	if _, err := d.DialContext(t.Context(), "tcp", "192.0.2.7:443"); err != nil {
		t.Error(err)
	}
}

// fixed is a connection that says what it says.
type fixed struct {
	net.Conn
	*bufio.Reader
}

func (f fixed) Read(b []byte) (int, error)  { return f.Reader.Read(b) }
func (f fixed) Write(b []byte) (int, error) { return len(b), nil }

// Whatever a proxy answers, joining it ends, and errors are one line.
func FuzzProxyAnswer(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\n\r\n", "HTTP/1.1 100 x\r\n\r\n",
		"\x00\x5a......", "\x00\x5b......", "\x05\x02\x01\x00\x05\x00\x00\x01......", "\x05\x00\x05\x00\x00\x03\x02ab..", "\x05\xff", "",
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		for _, p := range []Proxy{{Scheme: "http"}, {Scheme: "socks4a"}, {Scheme: "socks5h"},
			{Scheme: "http", User: "me", Password: proxySecret}, {Scheme: "socks5h", User: "me", Password: proxySecret}} {
			_, err := p.join(context.Background(), fixed{Reader: bufio.NewReader(bytes.NewReader(answer))}, "vpn.example.com", 443)
			if err != nil && (strings.ContainsAny(err.Error(), "\r\n") || strings.Contains(err.Error(), proxySecret)) {
				t.Errorf("%s: %q", p.Scheme, err)
			}
		}
	})
}
