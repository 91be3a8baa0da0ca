//go:build linux

package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

const (
	sitePage = "the page behind the hub\n"
	echoPort = "7"

	// gateLimit ends a gated answer whose test forgot to open the gate.
	gateLimit = 3 * time.Minute
)

// A site is what the LAN has to offer: a web server on port 80 and an echo
// service. Nothing of it is on disk: a body is a pseudo-random stream made from
// its name as it is sent.
//
//	GET /                    a page
//	GET /stream/NAME/SIZE    SIZE bytes made from NAME
//	GET /gated/NAME/SIZE     the same, the second half only after Open(NAME)
//	GET /zeros/SIZE          SIZE zero bytes, the cheapest body there is
//	GET /whoami              the client's address
//	PUT /sink                answers with the size and SHA-256 of what came
//	PUT /discard             answers with nothing
type site struct {
	mu    sync.Mutex // guards gates
	gates map[string]chan struct{}
}

// startSite serves on all addresses of the namespace until the test ends.
func startSite(t testing.TB, ns *netns) *site {
	t.Helper()
	s := &site{gates: make(map[string]chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, sitePage) })
	mux.HandleFunc("GET /whoami", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		io.WriteString(w, host)
	})
	mux.HandleFunc("GET /stream/{name}/{size}", s.stream)
	mux.HandleFunc("GET /gated/{name}/{size}", s.gated)
	mux.HandleFunc("GET /zeros/{size}", s.zeros)
	mux.HandleFunc("PUT /sink", s.sink)
	mux.HandleFunc("PUT /discard", func(_ http.ResponseWriter, r *http.Request) {
		io.CopyBuffer(onlyWriter{io.Discard}, r.Body, make([]byte, 256<<10))
	})
	server := &http.Server{Handler: mux}
	listener := ns.Listen("0.0.0.0:80")
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	go echo(ns.Listen("0.0.0.0:" + echoPort))
	return s
}

// echo sends back what it gets, on every connection until its peer ends it.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// streamOf returns size bytes that depend on nothing but name.
func streamOf(name string, size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8(sha256.Sum256([]byte(name))), size)
}

// sumOf returns the SHA-256 of streamOf.
func sumOf(name string, size int64) string {
	h := sha256.New()
	io.Copy(h, streamOf(name, size))
	return hex.EncodeToString(h.Sum(nil))
}

func requestedSize(w http.ResponseWriter, r *http.Request) (int64, bool) {
	size, err := strconv.ParseInt(r.PathValue("size"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return 0, false
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	return size, true
}

func (s *site) stream(w http.ResponseWriter, r *http.Request) {
	if size, ok := requestedSize(w, r); ok {
		io.CopyBuffer(onlyWriter{w}, streamOf(r.PathValue("name"), size), make([]byte, 256<<10))
	}
}

// onlyWriter hides ReadFrom, which would choose a buffer of its own.
type onlyWriter struct{ io.Writer }

func (s *site) gated(w http.ResponseWriter, r *http.Request) {
	size, ok := requestedSize(w, r)
	if !ok {
		return
	}
	body := streamOf(r.PathValue("name"), size)
	io.CopyN(w, body, size/2)
	w.(http.Flusher).Flush()
	select {
	case <-s.gate(r.PathValue("name")):
		io.Copy(w, body)
	case <-time.After(gateLimit):
	case <-r.Context().Done():
	}
}

func (s *site) gate(name string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gates[name] == nil {
		s.gates[name] = make(chan struct{})
	}
	return s.gates[name]
}

// Open lets the second half of a gated stream go. It is called once for each name.
func (s *site) Open(name string) { close(s.gate(name)) }

func (s *site) zeros(w http.ResponseWriter, r *http.Request) {
	size, ok := requestedSize(w, r)
	chunk := make([]byte, 1<<20)
	for ok && size > 0 {
		n, err := w.Write(chunk[:min(size, int64(len(chunk)))])
		if err != nil {
			return
		}
		size -= int64(n)
	}
}

func (s *site) sink(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, err := io.CopyBuffer(h, r.Body, make([]byte, 256<<10))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
}
