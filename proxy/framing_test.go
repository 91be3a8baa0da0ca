package proxy

import (
	"bufio"
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What is well formed passes, in whatever pieces it comes, one request at a time.
func TestFramingFollows(t *testing.T) {
	requests := []string{
		plainGet, chunkPost, sizedPost, "\r\n" + strings.Replace(sizedPost, "hello", "\r\n\r\n ", 1), plainGet,
		"POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\ntransfer-encoding:chunked\r\n\r\nA ;x\r\n0123456789\r\n00\r\n\r\n", plainGet,
	}
	stream := strings.Join(requests, "")
	for size := 1; size <= len(stream); size++ {
		var f framing
		at, request, want := 0, 0, 0
		for at < len(stream) {
			n, err := f.follow([]byte(stream[at:min(at+size, len(stream))]))
			if err != nil {
				t.Fatalf("in pieces of %d: after %q: %v", size, stream[:at], err)
			}
			at += n
			if f.between() && f.heads > request {
				want += len(requests[request])
				request++
				if at != want {
					t.Fatalf("in pieces of %d: request %d ends at %d, want %d", size, request, at, want)
				}
			}
		}
		if request != len(requests) || f.heads != len(requests) {
			t.Fatalf("in pieces of %d: got %d requests and %d headers, want %d", size, request, f.heads, len(requests))
		}
	}
}

// A place is where the framing finds a request.
type place struct{ begin, body, end int }

// places follows a stream byte by byte. Of the last request, the end may be beyond it.
func places(t *testing.T, stream []byte) (found []place) {
	var f framing
	begin := 0
	for at := range stream {
		if _, err := f.follow(stream[at : at+1]); err != nil {
			break
		}
		if len(f.line) > maxFramingLine {
			t.Fatalf("keeps %d bytes of a line", len(f.line))
		}
		if f.heads > len(found) {
			found = append(found, place{begin, at + 1, len(stream)})
		}
		if f.between() {
			begin = at + 1
			if len(found) > 0 && found[len(found)-1].end == len(stream) {
				found[len(found)-1].end = begin
			}
		}
	}
	return found
}

// A readRequest is what net/http tells of a request.
type readRequest struct {
	Line   string
	Header http.Header
	Length int64
	Chunks []string
	Body   string
	Whole  bool // the body
}

func asRead(req *http.Request, body bool) readRequest {
	r := readRequest{req.Method + " " + req.RequestURI + " " + req.Proto, req.Header.Clone(), req.ContentLength, req.TransferEncoding, "", false}
	delete(r.Header, "Host")
	if body {
		b, err := io.ReadAll(req.Body)
		r.Body, r.Whole = string(b), err == nil
	}
	return r
}

// A script is a connection by which a client's bytes come in pieces.
type script struct {
	net.Conn
	bytes  []byte
	piece  int
	closed chan struct{}
}

func (s *script) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), s.piece)], s.bytes)
	s.bytes = s.bytes[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (s *script) Close() error {
	close(s.closed)
	return nil
}

func (s *script) Write(p []byte) (int, error)        { return len(p), nil }
func (s *script) LocalAddr() net.Addr                { return addrString("") }
func (s *script) RemoteAddr() net.Addr               { return addrString("") }
func (s *script) SetDeadline(time.Time) error        { return nil }
func (s *script) SetReadDeadline(t time.Time) error  { return nil }
func (s *script) SetWriteDeadline(t time.Time) error { return nil }

// serveScript returns the requests of a stream that net/http's server comes to, and of them
// only those that are admitted if the connection is a strict.
func serveScript(stream []byte, piece int, bodies bool, wrap func(net.Conn) net.Conn) (served []readRequest) {
	sc := &script{bytes: stream, piece: piece, closed: make(chan struct{})}
	conn := wrap(sc)
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if s, ok := conn.(*strict); ok && s.admit(req) != nil {
				w.Header().Set("Connection", "close")
				return
			}
			served = append(served, asRead(req, bodies))
		}),
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0),
	}
	ln := newHandover(addrString(""))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // says only that ln was closed
	}()
	ln.give(conn)
	<-sc.closed
	ln.Close()
	<-done
	return served
}

var (
	hasLength = regexp.MustCompile(`(?im)^content-length[ \t]*:`)
	hasChunks = regexp.MustCompile(`(?im)^transfer-encoding[ \t]*:`)
	isOld     = regexp.MustCompile(`^[^\n]* HTTP/1\.0\r?\n`)
	isFolded  = regexp.MustCompile(`\n[ \t]`)
)

// Whatever comes, a request that is served is one that can be read in one way, and that begins
// and ends where the framing says, which is where net/http would have it without.
func FuzzHTTPFraming(f *testing.F) {
	const chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, seed := range []string{
		plainGet + sizedPost, chunkPost + bothPost, bothPost, sizedPost + "\r\n" + oldPost + plainGet, "\n\n\n", oldPost + plainGet,
		"GET http://a.corp/ HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\n\r\n" + bothPost, "CONNECT a:1 HTTP/1.1\r\n\r\n\x00",
		"POST / HTTP/1.0\nConnection: keep-alive\n\n" + plainGet, "GET /\r\n\r\n" + plainGet, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + plainGet,
		"GET / HTTP/1.1\nHost:x\nX: y\n z\n\n", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + plainGet,
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc" + plainGet,
		chunked + "5\nhello\r\n0\r\n\r\n" + plainGet, chunked + "5\r\nhelloXX" + plainGet, chunked + "+5\r\nhello\r\n0\r\n\r\n",
		chunked + "0\r\nX: y\n\n" + plainGet, chunked + "0\r\nx\r\n" + plainGet, chunked + "0\r\n\n" + plainGet,
		chunked + "5 \t;a\r\nhello\r\n000\r\nX: y\r\nZ: w\r\n\r\n" + plainGet, chunked + "ffffffffffffffff\r\n" + plainGet,
		"GET /" + strings.Repeat("x", 200) + " HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + plainGet,
	} {
		f.Add([]byte(seed), uint8(0), true)
		f.Add([]byte(seed), uint8(255), false)
	}
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8, bodies bool) {
		found := places(t, stream)
		for _, p := range found {
			// Of a large body that nobody reads net/http takes leave slowly.
			bodies = bodies || bytes.Contains(bytes.ToLower(stream[p.begin:p.body]), []byte("content-length"))
		}
		served := serveScript(stream, int(piece)+1, bodies, func(c net.Conn) net.Conn { return newStrict(c) })
		without := serveScript(stream, int(piece)+1, bodies, func(c net.Conn) net.Conn { return c })
		for i, got := range served {
			if i >= len(found) {
				t.Fatalf("served request %d, found %d: %+v", i, len(found), got)
			}
			p := found[i]
			head := stream[p.begin:p.body]
			if chunks := hasChunks.Match(head); chunks && (hasLength.Match(head) || isOld.Match(head)) || isFolded.Match(head) {
				t.Fatalf("served %q", head)
			}
			req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(stream[p.begin:p.end])))
			if err != nil {
				t.Fatalf("served what is none at %d to %d: %v", p.begin, p.end, err)
			}
			want := asRead(req, bodies)
			if diff := cmp.Diff(want, got); diff != "" && got.Whole == bodies {
				t.Fatalf("request %d, from %d to %d (-framing +net/http):\n%s", i, p.begin, p.end, diff)
			}
			if i >= len(without) || got.Whole == bodies && !cmp.Equal(without[i], got) {
				t.Fatalf("request %d: got %+v, without the framing %+v", i, got, without)
			}
		}
	})
}
