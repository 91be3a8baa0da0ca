package proxy

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// capture answers one request and keeps what arrived, as text.
func capture(t *testing.T, answer string) (addr string, heads <-chan string) {
	t.Helper()
	ch := make(chan string, 1)
	return listenTCP(t, func(c *net.TCPConn) {
		br := bufio.NewReader(c)
		var head strings.Builder
		for {
			line, err := br.ReadString('\n')
			head.WriteString(line)
			if err != nil || line == "\r\n" {
				break
			}
		}
		ch <- head.String()
		io.WriteString(c, answer)
	}), ch
}

func TestHTTPRequestHeaders(t *testing.T) {
	tests := []struct{ name, request, want string }{
		{
			name: "what is for the proxy stays with it",
			request: "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nProxy-Connection: keep-alive\r\n" +
				"Proxy-Authorization: Basic eDp5\r\nProxy-Noise: 1\r\nproxy-lower: 1\r\nAccept: */*\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a.corp\r\nAccept: */*\r\n\r\n",
		},
		{
			name: "what is for this hop stays on it",
			request: "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nConnection: X-Hop, keep-alive\r\nKeep-Alive: 5\r\n" +
				"X-Hop: 1\r\nTe: gzip\r\nX-End: 1\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a.corp\r\nX-End: 1\r\n\r\n",
		},
		{
			name:    "nothing is added",
			request: "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n",
			want:    "GET / HTTP/1.1\r\nHost: a.corp\r\n\r\n",
		},
		{
			name: "what the client says of forwarding is its own",
			request: "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nConnection: Forwarded\r\nForwarded: for=x\r\n" +
				"X-Forwarded-For: 192.0.2.1\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a.corp\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n",
		},
		{
			name:    "the URL decides, not the Host header",
			request: "GET http://a.corp/ HTTP/1.1\r\nHost: b.corp\r\n\r\n",
			want:    "GET / HTTP/1.1\r\nHost: a.corp\r\n\r\n",
		},
		{
			name:    "user and password of a URL are not sent",
			request: "GET http://user:word@a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n",
			want:    "GET / HTTP/1.1\r\nHost: a.corp\r\n\r\n",
		},
		{
			name:    "HTTP/1.0",
			request: "GET http://a.corp/ HTTP/1.0\r\n\r\n",
			want:    "GET / HTTP/1.1\r\nHost: a.corp\r\n\r\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr, heads := capture(t, "HTTP/1.1 204 No Content\r\n\r\n")
			o := &origin{addr: serve(t, NewHTTP(Config{Dialer: &dialTo{addr: addr}}))}
			o.exchange(t, "GET", tt.request)
			if got := <-heads; got != tt.want {
				t.Errorf("target got (-want +got):\n%s", cmp.Diff(tt.want, got))
			}
		})
	}
}

func TestHTTPResponseHeaders(t *testing.T) {
	tests := []struct {
		name, answer string
		want         http.Header
	}{
		{
			"what is for the proxy stays with it",
			"HTTP/1.1 200 OK\r\nDate: x\r\nProxy-Authenticate: Basic\r\nProxy-Noise: 1\r\nContent-Length: 0\r\nX-End: 1\r\n\r\n",
			http.Header{"Date": {"x"}, "Content-Length": {"0"}, "X-End": {"1"}},
		},
		{
			"what is for this hop stays on it",
			"HTTP/1.1 200 OK\r\nDate: x\r\nConnection: X-Hop\r\nKeep-Alive: 5\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n",
			http.Header{"Date": {"x"}, "Content-Length": {"0"}},
		},
		{
			"no type is guessed",
			"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 6\r\n\r\n<html>",
			http.Header{"Date": {"x"}, "Content-Length": {"6"}},
		},
		{
			"compressed stays compressed",
			"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\nxx",
			http.Header{"Date": {"x"}, "Content-Length": {"2"}, "Content-Encoding": {"gzip"}},
		},
		{
			"several values",
			"HTTP/1.1 302 Found\r\nDate: x\r\nLocation: http://b.corp/\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
			http.Header{"Date": {"x"}, "Location": {"http://b.corp/"}, "Set-Cookie": {"a=1", "b=2"}, "Content-Length": {"0"}},
		},
		{
			"after an informational response",
			"HTTP/1.1 103 Early Hints\r\nProxy-Noise: 1\r\n\r\nHTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 6\r\n\r\n<html>",
			http.Header{"Date": {"x"}, "Content-Length": {"6"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr, _ := capture(t, tt.answer)
			o := &origin{addr: serve(t, NewHTTP(Config{Dialer: &dialTo{addr: addr}}))}
			c := connect(t, o.addr)
			send(t, c, "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n")
			br := bufio.NewReader(c)
			res, err := http.ReadResponse(br, nil)
			if err == nil && res.StatusCode == http.StatusEarlyHints {
				if got := res.Header.Get("Proxy-Noise"); got != "" {
					t.Errorf("informational response has Proxy-Noise: %s", got)
				}
				res, err = http.ReadResponse(br, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, res.Header); diff != "" {
				t.Errorf("client got (-want +got):\n%s", diff)
			}
		})
	}
}

// What a target sends before the body is bounded, and one that sends more is left.
func TestHTTPLargeResponseHeaders(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header func(w io.Writer) error
		status int
	}{
		{"large", func(w io.Writer) error {
			_, err := io.WriteString(w, "X: "+strings.Repeat("x", maxResponseHeader/2)+"\r\nContent-Length: 0\r\n\r\n")
			return err
		}, 200},
		{"without an end", func(w io.Writer) (err error) {
			for err == nil {
				_, err = io.WriteString(w, "X: "+strings.Repeat("x", 4096)+"\r\n")
			}
			return err
		}, 502},
		{"of one line without an end", func(w io.Writer) (err error) {
			for err == nil {
				_, err = io.WriteString(w, strings.Repeat("x", 4096))
			}
			return err
		}, 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			left := make(chan error, 1)
			target := listenTCP(t, func(c *net.TCPConn) {
				http.ReadRequest(bufio.NewReader(c))
				io.WriteString(c, "HTTP/1.1 200 OK\r\n")
				left <- tt.header(c)
			})
			p := NewHTTP(Config{Dialer: &dialTo{addr: target}})
			o := &origin{addr: serve(t, p)}
			res, text := o.exchange(t, "GET", plainGet)
			if res.StatusCode != tt.status || tt.status != 200 && !strings.Contains(text, "header") {
				t.Errorf("got %d %q, want %d", res.StatusCode, text, tt.status)
			}
			if err := <-left; (err != nil) != (tt.status != 200) {
				t.Errorf("the target could send: %v", err)
			}
			eventually(t, "all large buffers are given back", func() bool { return p.buffers.Lent() == 0 })
		})
	}
}

func TestHTTPRefusesRequests(t *testing.T) {
	tests := []struct {
		name, request string
		status        int
		says          string
	}{
		{"origin form", "GET / HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "curl -x"},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "curl -x"},
		{"https in absolute form", "GET https://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "CONNECT"},
		{"ftp", "GET ftp://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, `"ftp"`},
		{"no host", "GET http:///x HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "host"},
		{"port 0", "GET http://a.corp:0/ HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "port"},
		{"port too large", "GET http://a.corp:65536/ HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "port"},
		{"CONNECT without a port", "CONNECT a.corp HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "host:port"},
		{"CONNECT with an empty port", "CONNECT a.corp: HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "port"},
		{"CONNECT with a path", "CONNECT a.corp:80/x HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "host:port"},
		{"CONNECT with a path alone", "CONNECT /x HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "host:port"},
		{"CONNECT with a user", "CONNECT u:word@a.corp:80 HTTP/1.1\r\nHost: a.corp\r\n\r\n", 400, "user or password"},
		{"CONNECT with a length", "CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 3\r\n\r\nabc", 400, "body"},
		{"CONNECT with chunks", "CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "body"},
		{"two lengths", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, ""},
		{"unknown transfer encoding", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nTransfer-Encoding: gzip\r\n\r\nabcd", 501, ""},
		{"space before a colon", "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nX : 1\r\n\r\n", 400, ""},
		{"not HTTP", "\x05\x01\x00\r\n\r\n", 400, ""},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, ""},
		{"header too large", "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nX: " + strings.Repeat("x", 2*maxRequestHeader) + "\r\n\r\n", 431, ""},
		{"URL too large", "GET http://a.corp/" + strings.Repeat("x", 2*maxRequestHeader) + " HTTP/1.1\r\n\r\n", 431, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newNever()
			o := &origin{addr: serve(t, NewHTTP(Config{Dialer: d}))}
			c := connect(t, o.addr)
			go io.WriteString(c, tt.request)
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
			if res.StatusCode != tt.status || !strings.Contains(string(body), tt.says) {
				t.Errorf("got %d %q, want %d with %q", res.StatusCode, body, tt.status, tt.says)
			}
			if strings.Contains(string(body), "u:word") {
				t.Errorf("the answer repeats the password: %q", body)
			}
			if len(d.began) > 0 {
				t.Errorf("dialed %s", <-d.began)
			}
		})
	}
}

func TestHTTPAuthentication(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	tests := []struct {
		name, header string
		want         int
	}{
		{"right", basic("alice:secret"), 200},
		{"scheme in lower case", "basic " + strings.TrimPrefix(basic("alice:secret"), "Basic "), 200},
		{"none", "", 407},
		{"wrong password", basic("alice:Secret"), 407},
		{"wrong user", basic("bob:secret"), 407},
		{"no colon", basic("alice"), 407},
		{"empty", basic(":"), 407},
		{"not base64", "Basic !!!", 407},
		{"other scheme", "Bearer secret", 407},
	}
	for _, tt := range tests {
		for form, request := range map[string]string{
			"CONNECT":  "CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp:80\r\n",
			"absolute": "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nConnection: close\r\n",
		} {
			t.Run(form+" "+tt.name, func(t *testing.T) {
				addr, _ := capture(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				s := NewHTTP(Config{Dialer: &dialTo{addr: addr}, Auth: newAuth(t)})
				c := connect(t, serve(t, s))
				if tt.header != "" {
					request += "Proxy-Authorization: " + tt.header + "\r\n"
				}
				send(t, c, request+"\r\n")
				res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: strings.Fields(request)[0]})
				if err != nil {
					t.Fatal(err)
				}
				if res.StatusCode != tt.want {
					t.Errorf("status: got %d, want %d", res.StatusCode, tt.want)
				}
				challenge := res.Header.Get("Proxy-Authenticate")
				if got, want := strings.HasPrefix(challenge, `Basic realm="`), tt.want == 407; got != want {
					t.Errorf("challenge: got %q", challenge)
				}
				if form == "CONNECT" && tt.want == 200 {
					send(t, c, "\r\n") // let the target answer and end
				}
			})
		}
	}
}

// A client that is asked for its password may answer on the same connection, also
// after sending a body.
func TestHTTPAuthenticationOnSameConnection(t *testing.T) {
	o := newOrigin(t, Config{Auth: newAuth(t)}, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	c := connect(t, o.addr)
	br := bufio.NewReader(c)
	request := "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 4\r\n"
	for _, tt := range []struct {
		header string
		want   int
	}{{"", 407}, {"Proxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n", 200}} {
		send(t, c, request+tt.header+"\r\nbody")
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		if res.StatusCode != tt.want {
			t.Errorf("status: got %d, want %d", res.StatusCode, tt.want)
		}
	}
}

// However slowly a header comes, it has one deadline.
func TestHTTPSlowHeader(t *testing.T) {
	head := "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n"
	for _, n := range []int{0, 1, len(head) - 1} {
		t.Run(fmt.Sprintf("silent after %d bytes", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, ln := NewHTTP(Config{Dialer: newNever(), HandshakeTimeout: 7 * time.Second}), newMemListener()
				serveOn(t, s, ln)
				c := ln.dial(t)
				begin := time.Now()
				go io.WriteString(c, head[:n])
				io.Copy(io.Discard, c)
				if got, want := time.Since(begin).Truncate(time.Second), 7*time.Second; got != want {
					t.Errorf("closed after %v, want %v", got, want)
				}
			})
		})
	}
}

func TestHTTPIdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ln := NewHTTP(Config{Dialer: newNever(), IdleTimeout: time.Hour}), newMemListener()
		serveOn(t, s, ln)
		c := ln.dial(t)
		send(t, c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		br := bufio.NewReader(c)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		begin := time.Now()
		expectEOF(t, br)
		if got, want := time.Since(begin), time.Hour; got != want {
			t.Errorf("closed after %v, want %v", got, want)
		}
	})
}

// Connections to targets are kept for the next request until CloseIdle.
func TestHTTPCloseIdle(t *testing.T) {
	o := newOrigin(t, Config{}, func(http.ResponseWriter, *http.Request) {})
	for range 3 {
		o.get(t, "http://a.corp/")
	}
	if got := len(o.dialer.addresses()); got != 1 {
		t.Errorf("dials for three requests: got %d, want 1", got)
	}
	o.proxy.CloseIdle()
	o.get(t, "http://a.corp/")
	if got := len(o.dialer.addresses()); got != 2 {
		t.Errorf("dials after CloseIdle: got %d, want 2", got)
	}
}

// The variables that send other programs to a proxy do not divert the proxy.
// net/http reads them once in a process, so setting one here would show nothing.
func TestHTTPIgnoresProxyOfEnvironment(t *testing.T) {
	if NewHTTP(Config{Dialer: newNever()}).newTransport().Proxy != nil {
		t.Error("the transport asks for a proxy")
	}
}

// Whether net/http gets to guess a type depends on what comes first, the body or a
// flush of the header. Here it is the body.
func TestHTTPGuessesNoType(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		w := &response{ResponseWriter: rw}
		w.WriteHeader(http.StatusOK)
		io.WriteString(w, "<html>")
	}))
	defer srv.Close()
	defer http.DefaultClient.CloseIdleConnections()
	res, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != "" {
		t.Errorf("type: got %q, want none", got)
	}
}
