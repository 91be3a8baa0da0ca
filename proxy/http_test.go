package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// origin runs an HTTP server and a proxy that takes every name to it. The client
// goes through the proxy.
type origin struct {
	server *httptest.Server
	proxy  *HTTP
	addr   string // of the proxy
	dialer *dialTo
	client *http.Client
}

func newOrigin(t testing.TB, c Config, handle http.HandlerFunc) *origin {
	t.Helper()
	o := &origin{server: httptest.NewServer(handle)}
	t.Cleanup(o.server.Close)
	o.dialer = &dialTo{addr: o.server.Listener.Addr().String()}
	c.Dialer = o.dialer
	o.proxy = NewHTTP(c)
	o.addr = serve(t, o.proxy)
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: o.addr}), ExpectContinueTimeout: 10 * time.Second}
	t.Cleanup(tr.CloseIdleConnections)
	o.client = &http.Client{Transport: tr, Timeout: 30 * time.Second}
	return o
}

// get returns status and body of a GET.
func (o *origin) get(t testing.TB, url string) (int, string) {
	t.Helper()
	res, err := o.client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// exchange sends a request as it is on a connection of its own, and reads a
// response.
func (o *origin) exchange(t testing.TB, method, raw string) (*http.Response, string) {
	t.Helper()
	c := connect(t, o.addr)
	send(t, c, raw)
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func TestHTTPForwardsMethodsAndBodies(t *testing.T) {
	o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", fmt.Sprintf("%s %s %s %d", r.Method, r.Host, r.RequestURI, r.ContentLength))
		w.Write(b)
	})
	big := strings.Repeat("0123456789", 300_000)
	tests := []struct {
		name, method, url string
		body              io.Reader
		wantSeen, want    string
	}{
		{"GET", "GET", "http://a.corp/x?y=1", nil, "GET a.corp /x?y=1 0", ""},
		{"port", "GET", "http://a.corp:8081/", nil, "GET a.corp:8081 / 0", ""},
		{"IPv6 address", "GET", "http://[2001:db8::1]:8081/", nil, "GET [2001:db8::1]:8081 / 0", ""},
		{"query that is none", "GET", "http://a.corp/?a;b%zz&&c", nil, "GET a.corp /?a;b%zz&&c 0", ""},
		{"escaped path", "GET", "http://a.corp/a%2Fb//c", nil, "GET a.corp /a%2Fb//c 0", ""},
		{"POST with a length", "POST", "http://a.corp/", strings.NewReader("body"), "POST a.corp / 4", "body"},
		{"PUT in chunks", "PUT", "http://a.corp/", io.MultiReader(strings.NewReader(big)), "PUT a.corp / -1", big},
		{"DELETE", "DELETE", "http://a.corp/", nil, "DELETE a.corp / 0", ""},
		{"method of its own", "PROPFIND", "http://a.corp/", nil, "PROPFIND a.corp / 0", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequest(tt.method, tt.url, tt.body)
			if err != nil {
				t.Fatal(err)
			}
			res, err := o.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if got := res.Header.Get("X-Seen"); got != tt.wantSeen {
				t.Errorf("target saw %q, want %q", got, tt.wantSeen)
			}
			if string(b) != tt.want {
				t.Errorf("body: got %d bytes, want %d", len(b), len(tt.want))
			}
		})
	}
	eventually(t, "all large buffers are given back", func() bool { return o.proxy.buffers.Lent() == 0 })
}

func TestHTTPOptionsOfServerAsAWhole(t *testing.T) {
	seen := make(chan string, 1)
	addr := listenTCP(t, func(c *net.TCPConn) {
		line, _ := bufio.NewReader(c).ReadString('\n')
		seen <- line
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	})
	p := NewHTTP(Config{Dialer: &dialTo{addr: addr}})
	o := &origin{addr: serve(t, p)}
	o.exchange(t, "OPTIONS", "OPTIONS http://a.corp HTTP/1.1\r\nHost: a.corp\r\n\r\n")
	if got, want := <-seen, "OPTIONS * HTTP/1.1\r\n"; got != want {
		t.Errorf("request line: got %q, want %q", got, want)
	}
}

func TestHTTPStatusWithoutBody(t *testing.T) {
	o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("Content-Length", "12345")
			w.WriteHeader(http.StatusOK)
		}
	})
	for _, tt := range []struct {
		method, path string
		status       int
		length       int64
	}{
		{"GET", "/204", 204, 0},
		{"GET", "/304", 304, 0},
		{"HEAD", "/", 200, 12345},
	} {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			for range 2 { // the second on the same connection shows the framing was right
				req, _ := http.NewRequest(tt.method, "http://a.corp"+tt.path, nil)
				res, err := o.client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != tt.status || res.ContentLength != tt.length {
					t.Errorf("got %d with length %d, want %d with %d", res.StatusCode, res.ContentLength, tt.status, tt.length)
				}
			}
		})
	}
}

// One client connection carries requests to several hosts, each to its own.
func TestHTTPKeepAliveAcrossHosts(t *testing.T) {
	o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })
	c := connect(t, o.addr)
	br := bufio.NewReader(c)
	for _, host := range []string{"a.corp", "b.corp:8080", "a.corp", "c.corp"} {
		send(t, c, "GET http://"+host+"/ HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(res.Body); string(b) != host {
			t.Errorf("%s: answered by %s", host, b)
		}
	}
	if got, want := strings.Join(o.dialer.addresses(), " "), "a.corp:80 b.corp:8080 c.corp:80"; got != want {
		t.Errorf("dialed %s, want %s", got, want)
	}
	if got := o.proxy.Stats().Accepted; got != 1 {
		t.Errorf("client connections: got %d, want 1", got)
	}
}

// What the target sends is passed on as it comes.
func TestHTTPStreamsResponses(t *testing.T) {
	for _, length := range []string{"", "11"} {
		t.Run("length "+length, func(t *testing.T) {
			proceed := make(chan struct{})
			o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				io.WriteString(w, "first")
				w.(http.Flusher).Flush()
				<-proceed
				io.WriteString(w, "second")
			})
			res, err := o.client.Get("http://a.corp/")
			if err != nil {
				close(proceed)
				t.Fatal(err)
			}
			defer res.Body.Close()
			b := make([]byte, len("first"))
			_, err = io.ReadFull(res.Body, b)
			close(proceed)
			if err != nil || string(b) != "first" {
				t.Fatalf("before the rest was sent: got %q and %v, want %q", b, err, "first")
			}
			expect(t, res.Body, "second")
		})
	}
}

// What the client sends is passed on as it comes.
func TestHTTPStreamsRequests(t *testing.T) {
	heard := make(chan string)
	o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 5)
		io.ReadFull(r.Body, b)
		heard <- string(b)
		io.Copy(io.Discard, r.Body)
	})
	body, feed := io.Pipe()
	go func() {
		io.WriteString(feed, "first")
		if got := <-heard; got != "first" {
			t.Errorf("target heard %q, want %q", got, "first")
		}
		feed.Close()
	}()
	res, err := o.client.Post("http://a.corp/", "text/plain", body)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}

// An answer that comes before the request has ended does not wait for that.
func TestHTTPAnswersDuringRequest(t *testing.T) {
	o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.WriteString(w, "early")
		w.(http.Flusher).Flush()
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	})
	c := connect(t, o.addr)
	send(t, c, "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, res.Body, "early")
	send(t, c, "3\r\ndef\r\n0\r\n\r\n")
	expect(t, res.Body, "abcdef")
	expectEOF(t, res.Body)
}

// Trailers are passed on both ways, announced or not, but for those that must be none.
func TestHTTPTrailers(t *testing.T) {
	const sent = "X-Sum: 42\r\nX-Late: 43\r\nContent-Length: 9\r\nHost: b.corp\r\nAuthorization: x\r\nIf-Match: x\r\nProxy-Noise: x\r\n"
	for _, tt := range []struct{ name, announced string }{
		{"unannounced", ""},
		{"announced in part", "Trailer: X-Sum\r\n"},
		{"announced", "Trailer: X-Sum, X-Late, Host, Authorization, If-Match, Proxy-Noise\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := make(chan http.Header, 1)
			body := "\r\nTransfer-Encoding: chunked\r\n" + tt.announced + "\r\n4\r\nbody\r\n0\r\n" + sent + "\r\n"
			target := listenTCP(t, func(c *net.TCPConn) {
				req, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, req.Body)
				seen <- req.Trailer
				io.WriteString(c, "HTTP/1.1 200 OK"+body)
			})
			o := &origin{addr: serve(t, NewHTTP(Config{Dialer: &dialTo{addr: target}}))}
			res, _ := o.exchange(t, "POST", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp"+body)
			want := http.Header{"X-Sum": {"42"}, "X-Late": {"43"}}
			if diff := cmp.Diff(want, <-seen); diff != "" {
				t.Errorf("target got (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want, res.Trailer); diff != "" {
				t.Errorf("client got (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHTTPExpectContinue(t *testing.T) {
	tests := []struct {
		name       string
		handle     http.HandlerFunc
		status     int
		wantUpload bool
	}{
		{"accepted", func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }, 200, true},
		{"rejected", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusExpectationFailed) }, 417, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(t, Config{}, tt.handle)
			body := &noted{Reader: strings.NewReader("upload")}
			req, _ := http.NewRequest("POST", "http://a.corp/", body)
			req.Header.Set("Expect", "100-continue")
			res, err := o.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != tt.status {
				t.Errorf("status: got %d, want %d", res.StatusCode, tt.status)
			}
			if body.read != tt.wantUpload {
				t.Errorf("uploaded: got %v, want %v", body.read, tt.wantUpload)
			}
		})
	}
}

// noted is a body that knows whether it was read.
type noted struct {
	io.Reader
	read bool
}

func (n *noted) Read(p []byte) (int, error) {
	n.read = true
	return n.Reader.Read(p)
}

func TestHTTPUpgrade(t *testing.T) {
	target := listenTCP(t, func(c *net.TCPConn) {
		br := bufio.NewReader(c)
		req, err := http.ReadRequest(br)
		if err != nil || req.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(req.Header.Get("Connection"), "Upgrade") {
			t.Errorf("target got %v and %v", req, err)
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nProxy-Noise: 1\r\n\r\nhello ")
		io.Copy(c, br)
		io.WriteString(c, " bye")
		c.CloseWrite()
	})
	s := NewHTTP(Config{Dialer: &dialTo{addr: target}})
	c := connect(t, serve(t, s))
	send(t, c, "GET http://a.corp/chat HTTP/1.1\r\nHost: a.corp\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Proxy-Noise") != "" {
		t.Fatalf("got %v", res)
	}
	expect(t, br, "hello ")
	send(t, c, "ping")
	expect(t, br, "ping")
	c.CloseWrite()
	expect(t, br, " bye") // after our end was passed on
	expectEOF(t, br)
}

func TestHTTPCloseEndsUpgraded(t *testing.T) {
	target := listenTCP(t, func(c *net.TCPConn) {
		br := bufio.NewReader(c)
		http.ReadRequest(br)
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
		io.Copy(io.Discard, br)
	})
	s := NewHTTP(Config{Dialer: &dialTo{addr: target}})
	c := connect(t, serve(t, s))
	send(t, c, "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("got %v and %v", res, err)
	}
	s.Close()
	if n := s.Stats().Open; n != 0 {
		t.Errorf("clients after Close: got %d, want 0", n)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the upgraded connection is still open")
	}
}
