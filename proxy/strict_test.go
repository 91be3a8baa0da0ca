package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	plainGet  = "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n"
	sizedPost = "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 5\r\n\r\nhello"
	chunkPost = "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n" +
		"5;a=b\r\nhello\r\n1\r\n\n\r\n0\r\nX: 1\r\n\r\n"
	bothPost = "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
	oldPost  = "POST http://a.corp/ HTTP/1.0\r\nHost: a.corp\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
)

// exchangeAll sends b on one connection, in pieces, and returns the statuses of the answers
// up to the end of the connection.
func (o *origin) exchangeAll(t *testing.T, b string, piece int) (statuses []int) {
	t.Helper()
	c := connect(t, o.addr)
	for b != "" {
		n := min(piece, len(b))
		if _, err := io.WriteString(c, b[:n]); err != nil {
			break // the answer came already
		}
		b = b[n:]
	}
	for br := bufio.NewReader(c); ; {
		if _, err := br.Peek(1); err != nil {
			return statuses
		}
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("after %d: %v", statuses, err)
		}
		io.Copy(io.Discard, res.Body)
		statuses = append(statuses, res.StatusCode)
	}
}

// What could be understood in two ways is answered by 400 and an end, wherever on a
// connection it comes; what came before is answered first, and nothing of it reaches the
// target.
func TestHTTPSmugglingIsRefused(t *testing.T) {
	before := []struct {
		name, requests string
		statuses       []int
	}{
		{"first", "", nil},
		{"after others", plainGet + sizedPost + chunkPost, []int{200, 200, 200}},
		{"after an upgrade that nobody wants", "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", []int{200}},
		{"after an upgrade that is none", "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nUpgrade: x\r\n\r\n", []int{200}},
		{"after what the proxy answers", "GET https://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nUpgrade: x\r\n\r\n", []int{400}},
		{"after a POST with empty lines", sizedPost + "\r\n\n\n", []int{200}},
	}
	for _, tt := range []struct{ name, bad string }{
		{"length and chunks", bothPost},
		{"chunks and length", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\ntransfer-encoding: chunked\r\nCONTENT-LENGTH: 4\r\n\r\n0\r\n\r\n"},
		{"length and chunks, bare line ends", strings.ReplaceAll(bothPost, "\r\n", "\n")},
		{"chunks in HTTP/1.0", oldPost + "GET http://a.corp/smuggled HTTP/1.1\r\nHost: a.corp\r\n\r\n"},
		{"chunks in HTTP/1.0, long URL", strings.Replace(oldPost, "/ ", "/"+strings.Repeat("x", 2*maxFramingLine)+" ", 1) + plainGet},
		{"continued header", "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n"},
		{"continued length", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length:\r\n\t5\r\n\r\nhello"},
		{"two lengths", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nhello"},
		{"a long length", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: " + strings.Repeat("0", maxFramingLine) + "5\r\n\r\nhello"},
		{"space before a colon", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length : 4\r\n\r\nhell"},
		{"a list of lengths", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 4, 4\r\n\r\nhell"},
		{"a signed length", "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: +4\r\n\r\nhell"},
		{"empty lines", "\r\n\r\n\r\n" + plainGet},
	} {
		for _, b := range before {
			for _, piece := range []int{1 << 20, 7, 1} {
				t.Run(fmt.Sprintf("%s %s, in pieces of %d", tt.name, b.name, piece), func(t *testing.T) {
					var seen atomic.Int32
					o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
						seen.Add(1)
						io.Copy(w, r.Body)
					})
					got := o.exchangeAll(t, b.requests+tt.bad+plainGet, piece)
					if want := append(slices.Clone(b.statuses), 400); !slices.Equal(got, want) {
						t.Errorf("answers: got %d, want %d", got, want)
					}
					served := 0
					for _, status := range b.statuses {
						if status == 200 {
							served++
						}
					}
					if got := int(seen.Load()); got != served {
						t.Errorf("the target saw %d requests, want %d", got, served)
					}
				})
			}
		}
	}
}

// A connection ends with a body that is not one, which is the client's fault.
func TestHTTPMalformedBody(t *testing.T) {
	const post = "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tt := range []struct{ name, body string }{
		{"no size", "x\r\n"},
		{"empty size", "\r\n"},
		{"signed size", "+5\r\nhello\r\n0\r\n\r\n"},
		{"size with a prefix", "0x5\r\nhello\r\n0\r\n\r\n"},
		{"size too large", "10000000000000005\r\nhello\r\n0\r\n\r\n"},
		{"bare line end", "5\nhello\r\n0\r\n\r\n"},
		{"CR in the size's line", "5;\rx\r\nhello\r\n0\r\n\r\n"},
		{"long extension", "5;" + strings.Repeat("x", maxFramingLine) + "\r\nhello\r\n0\r\n\r\n"},
		{"chunk longer than its size", "5\r\nhello" + plainGet},
		{"chunk shorter than its size", "8\r\nhello\r\n0\r\n\r\n"},
		{"trailer with a bare line end", "5\r\nhello\r\n0\r\nX: y\n\r\n"},
		{"bare end of trailers", "5\r\nhello\r\n0\r\n\n"},
		{"continued trailer", "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n"},
		{"trailer without a name", "5\r\nhello\r\n0\r\nx\r\n" + plainGet},
		{"trailer too long", "5\r\nhello\r\n0\r\nX: " + strings.Repeat("x", 8192) + "\r\n\r\n"},
	} {
		for _, piece := range []int{1 << 20, 1} {
			t.Run(fmt.Sprintf("%s, in pieces of %d", tt.name, piece), func(t *testing.T) {
				o := newOrigin(t, Config{}, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
				got := o.exchangeAll(t, plainGet+post+tt.body+plainGet, piece)
				if want := []int{200, 400}; !slices.Equal(got, want) {
					t.Errorf("answers: got %d, want %d", got, want)
				}
				if got := o.proxy.Stats().Refused[Malformed]; got != 1 {
					t.Errorf("counted as malformed: got %d, want 1", got)
				}
			})
		}
	}
}

// Nor does one go on with it whose body nobody wanted to read.
func TestHTTPMalformedBodyOfARefusedRequest(t *testing.T) {
	o := newOrigin(t, Config{}, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	for _, body := range []string{"x\r\n", "5\r\nhello" + plainGet, "0\r\nx\r\n" + plainGet} {
		got := o.exchangeAll(t, strings.Replace(chunkPost[:strings.Index(chunkPost, "5;")], "http:", "https:", 1)+body+plainGet, 1<<20)
		if len(got) == 0 || slices.ContainsFunc(got, func(status int) bool { return status != 400 }) {
			t.Errorf("%q: got %d, want 400 alone", body, got)
		}
	}
}

// What is sent ahead into a tunnel arrives whole, whatever came before on the connection.
func TestHTTPTunnelsAfterRequests(t *testing.T) {
	early := strings.Repeat("early ", 2000) + bothPost
	for _, tunnel := range []string{
		"CONNECT b.corp:80 HTTP/1.1\r\nHost: b.corp\r\n\r\n",
		"GET http://b.corp/ HTTP/1.1\r\nHost: b.corp\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
	} {
		addr := listenTCP(t, func(c *net.TCPConn) {
			br := bufio.NewReader(c)
			for {
				if begin, err := br.Peek(5); err != nil || string(begin) == "early" {
					break
				}
				req, err := http.ReadRequest(br)
				if err != nil {
					t.Error(err)
					return
				}
				if req.Header.Get("Upgrade") == "" {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				} else {
					io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
				}
			}
			io.Copy(c, br)
			c.CloseWrite()
		})
		c := connect(t, serve(t, NewHTTP(Config{Dialer: &dialTo{addr: addr}})))
		go func() {
			io.WriteString(c, plainGet+plainGet+tunnel+early)
			c.CloseWrite()
		}()
		br := bufio.NewReader(c)
		for range 3 {
			if res, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"}); err != nil || res.StatusCode > 200 {
				t.Fatalf("%q: got %v, %v", tunnel, res, err)
			}
		}
		expect(t, br, early)
		expectEOF(t, br)
	}
}

// A client whose request was refused has a while to send its body, and no more.
func TestHTTPSlowBodyOfARefusedRequest(t *testing.T) {
	for _, request := range []string{
		"POST https://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 5\r\n\r\nhe",
		"POST /proxy.pac HTTP/1.1\r\nHost: a.corp\r\nTransfer-Encoding: chunked\r\n\r\n5",
	} {
		synctest.Test(t, func(t *testing.T) {
			s, ln := NewHTTP(Config{Dialer: newNever(), HandshakeTimeout: 7 * time.Second}), newMemListener()
			serveOn(t, s, ln)
			c := ln.dial(t)
			begin := time.Now()
			send(t, c, request)
			text, _ := io.ReadAll(c)
			if !strings.HasPrefix(string(text), "HTTP/1.1 400") {
				t.Errorf("got %q, want 400", text)
			}
			if got := time.Since(begin); got < 7*time.Second || got > 9*time.Second {
				t.Errorf("closed after %v, want 7 s and a moment", got)
			}
		})
	}
}
