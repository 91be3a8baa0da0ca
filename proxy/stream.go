package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"softether-go/pkg/relay"
)

// serveStream is CONNECT in HTTP/2, where a tunnel is a stream among others (RFC 9113
// section 8.5). It lasts as long as this call, as net/http ends the stream then.
func (h *HTTP) serveStream(v visitor, w *response, req *http.Request) {
	address, err := authority(req.Host, 0)
	if err != nil {
		h.fail(w, req, BadTarget, err)
		return
	}
	ctx, leave, err := v.enter(req.Context(), func() {})
	if err != nil {
		h.fail(w, req, UserLimit, err)
		return
	}
	defer leave()
	conn, why, err := h.connect(ctx, address)
	if err != nil {
		h.fail(w, req, why, err)
		return
	}
	s := newStream(w, req)
	w.WriteHeader(http.StatusOK)
	if err := s.answer.Flush(); err != nil {
		relay.Reset(conn)
		h.refused(s.RemoteAddr(), Canceled, err)
		return
	}
	h.counters.requests.Add(1)
	err = h.relayTo(conn, s).Run(ctx)
	if err != nil {
		h.Log.Debug("relay ended early", "client", req.RemoteAddr, "target", address, "cause", err)
	}
	if s.cut.Load() {
		panic(http.ErrAbortHandler) // which is how net/http resets a stream
	}
}

// A stream is one of HTTP/2 as a connection. What it cannot do is end its own half while
// the other goes on: net/http ends an answer only with the request. So whoever talks to a
// target that has ended its half cannot go on talking.
type stream struct {
	w      http.ResponseWriter
	req    *http.Request
	answer *http.ResponseController

	cut   atomic.Bool // ended so that the client sees a failure
	ended atomic.Bool // our half has ended
}

func newStream(w *response, req *http.Request) *stream {
	return &stream{w: w, req: req, answer: http.NewResponseController(w)}
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.req.Body.Read(p)
	if err != nil && err != io.EOF {
		err = &net.OpError{Op: "read", Net: "tcp", Addr: s.RemoteAddr(), Err: err}
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err == nil {
		err = s.answer.Flush()
	}
	if err != nil {
		err = &net.OpError{Op: "write", Net: "tcp", Addr: s.RemoteAddr(), Err: err}
	}
	return n, err
}

// CloseWrite ends reading: our half ends when the request does.
func (s *stream) CloseWrite() error {
	s.ended.Store(true)
	return s.answer.SetReadDeadline(aLongTimeAgo)
}

// SetLinger has Close show the client a failure, unless all it was to get has been sent.
func (s *stream) SetLinger(int) error {
	s.cut.Store(!s.ended.Load())
	return nil
}

// Close ends reading and, if the client is to see a failure, writing. What has been written
// net/http still delivers.
func (s *stream) Close() error {
	err := s.answer.SetReadDeadline(aLongTimeAgo)
	if s.cut.Load() {
		err = errors.Join(err, s.answer.SetWriteDeadline(aLongTimeAgo))
	}
	return err
}

// SetReadDeadline is for good once it has passed: net/http ends the request's body then. A
// relay goes on after one only where the client's half goes on longer than the target's.
func (s *stream) SetReadDeadline(t time.Time) error { return s.answer.SetReadDeadline(t) }

func (s *stream) SetWriteDeadline(t time.Time) error { return s.answer.SetWriteDeadline(t) }

func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *stream) LocalAddr() net.Addr {
	if a, ok := s.req.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		return a
	}
	return addrString("")
}

func (s *stream) RemoteAddr() net.Addr { return addrString(s.req.RemoteAddr) }

// tellSchemes has srv put the scheme and authority of an HTTP/2 request into its URL, where
// HTTP/1 has them in absolute form: a request with the scheme http is one to pass on.
// net/http does not tell the scheme but by leaving out TLS, and that only at first.
func tellSchemes(srv *http.Server) {
	closed := newHandover(addrString(""))
	_ = closed.Close()
	_ = srv.Serve(closed) // sets HTTP/2 up
	serve := srv.TLSNextProto["h2"]
	srv.TLSNextProto["h2"] = func(srv *http.Server, c *tls.Conn, h http.Handler) { serve(srv, c, schemes{h}) }
}

type schemes struct{ http.Handler }

// BaseContext is asked for by net/http.
func (s schemes) BaseContext() context.Context {
	return s.Handler.(interface{ BaseContext() context.Context }).BaseContext()
}

func (s schemes) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.TLS == nil && req.Method != http.MethodConnect {
		req.URL.Scheme, req.URL.Host = "http", req.Host
	}
	s.Handler.ServeHTTP(w, req)
}
