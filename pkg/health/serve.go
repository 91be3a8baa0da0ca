package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"softether-go/pkg/binding"
	"softether-go/pkg/unixsock"
)

const (
	// answerTime bounds a question and its answer, longer than any probe takes.
	answerTime = 2 * probeTime
	// stopTime is how long questions under way have at the end.
	stopTime = 200 * time.Millisecond
)

// A Server answers questions about a Monitor by HTTP:
//
//	/livez /readyz /startupz  200 with a line, or 503 and why not
//	/metrics                  counters, in Prometheus's text format
//	POST /drain               Drain; on local sockets only
type Server struct {
	Monitor *Monitor
	Metrics func(io.Writer) error // writes all counters
}

// Serve answers on a listener, which it closes, until ctx ends.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	_, local := ln.Addr().(*net.UnixAddr)
	h := &http.Server{Handler: s.Handler(local), ReadTimeout: answerTime, WriteTimeout: 2 * answerTime, MaxHeaderBytes: 16 << 10}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		if h.Shutdown(short) != nil {
			h.Close()
		}
	})
	err := h.Serve(ln)
	if !stop() {
		<-ended
		return ctx.Err()
	}
	return fmt.Errorf("health: %w", err)
}

// Handler answers. Local says that only programs of this machine can ask.
func (s *Server) Handler(local bool) http.Handler {
	mux := http.NewServeMux()
	say := func(path string, ask func(context.Context) (string, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), answerTime)
			defer cancel()
			said, err := ask(ctx)
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Cache-Control", "no-store")
			if err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				said = err.Error()
			}
			fmt.Fprintln(w, said)
		})
	}
	say("/startupz", func(context.Context) (string, error) { return "the tunnel has been up", s.Monitor.Started() })
	say("/livez", func(ctx context.Context) (string, error) { return "alive", s.Monitor.Live(ctx) })
	say("/readyz", s.Monitor.Ready)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = s.Metrics(w) // whoever asked has gone
	})
	if local {
		mux.HandleFunc("POST /drain", func(w http.ResponseWriter, _ *http.Request) {
			s.Monitor.Drain()
			fmt.Fprintln(w, "draining")
		})
	}
	return mux
}

// Listen listens where Ask connects to: at HOST:PORT; at unix:PATH, for programs of the
// same user alone; or at unix:@NAME, which is a name in the network namespace and needs no
// file (Linux).
func Listen(ctx context.Context, address string) (net.Listener, error) {
	network, at := split(address)
	if network == "unix" {
		return unixsock.Listen(at, unixsock.Private)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, binding.Network(network, at), at)
	if err != nil {
		return nil, fmt.Errorf("health: %w", err)
	}
	return ln, nil
}

// split takes an address apart for package net.
func split(address string) (network, at string) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return "unix", path
	}
	if !strings.Contains(address, ":") { // a port alone
		address = "127.0.0.1:" + address
	}
	return "tcp", address
}

// ErrNot says that a program answered, and that the answer is no.
var ErrNot = errors.New("not healthy")

// Ask asks a running program, such as for readyz, and returns what it says.
func Ask(ctx context.Context, address, method, what string) (said string, err error) {
	network, at := split(address)
	if host, port, err := net.SplitHostPort(at); network == "tcp" && err == nil && (host == "" || host == "0.0.0.0" || host == "::") {
		at = net.JoinHostPort("localhost", port)
	}
	var d net.Dialer
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, network, at) }}}
	r, err := http.NewRequestWithContext(ctx, method, "http://health/"+what, nil)
	if err != nil {
		return "", err
	}
	answer, err := c.Do(r)
	if err != nil {
		return "", fmt.Errorf("nobody answers at %s: is softether-go running there, with -health %s? (%w)", address, address, errors.Unwrap(err))
	}
	defer answer.Body.Close()
	const longest = 4 << 10
	text, err := io.ReadAll(io.LimitReader(answer.Body, longest))
	said = strings.TrimSpace(string(text))
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", address, err)
	case answer.StatusCode == http.StatusServiceUnavailable:
		return said, ErrNot
	case answer.StatusCode != http.StatusOK:
		return said, fmt.Errorf("%s: %s: %s", address, answer.Status, said)
	}
	return said, nil
}
