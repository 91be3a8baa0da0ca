package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"time"
)

// HTTP is an HTTP proxy server.
type HTTP struct {
	*server
	transports transports
	forwarder  *httputil.ReverseProxy
	pseudonym  string // in Via
}

const (
	maxRequestHeader  = 64 << 10  // curl and browsers stay below; cookies are the bulk
	maxResponseHeader = 256 << 10 // servers send more than they accept
	maxIdleTargets    = 64        // connections kept to targets; a page uses a dozen
	maxIdlePerTarget  = 8         // what a browser opens to one host, and two
	maxStreams        = 128       // requests and tunnels at a time of one HTTP/2 client; browsers stay below 100
	targetBuffer      = 32 << 10  // read and write buffers of a connection to a target
)

// NewHTTP returns a server that is ready to Serve.
func NewHTTP(c Config) *HTTP { return newHTTP(newServer(c)) }

func newHTTP(s *server) *HTTP {
	h := &HTTP{server: s, pseudonym: newPseudonym()}
	h.transports = transports{create: h.newTransport, idle: h.IdleTimeout, all: make(map[User]*userTransport)}
	h.forwarder = &httputil.ReverseProxy{
		Rewrite:        h.rewrite,
		ModifyResponse: h.received,
		ErrorHandler:   h.forwardFailed,
		Transport:      &h.transports,
		FlushInterval:  -1, // what streams must not wait
		BufferPool:     &h.buffers,
		ErrorLog:       slog.NewLogLogger(h.Log.Handler(), slog.LevelDebug),
	}
	return h
}

// newTransport makes the way to the targets of one user.
func (h *HTTP) newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // never the environment's: the tunnel is the way
		DialContext:            h.dialTarget,
		DisableCompression:     true, // the client's Accept-Encoding is the client's
		MaxIdleConns:           maxIdleTargets,
		MaxIdleConnsPerHost:    maxIdlePerTarget,
		IdleConnTimeout:        h.IdleTimeout,
		ExpectContinueTimeout:  time.Second, // RFC 9110 section 10.1.1: not for ever
		MaxResponseHeaderBytes: maxResponseHeader,
		ReadBufferSize:         targetBuffer,
		WriteBufferSize:        targetBuffer,
		Protocols:              http1(),
	}
}

// http1and2 is HTTP/2 for clients that agree on it inside TLS.
func http1and2() *http.Protocols {
	p := http1()
	p.SetHTTP2(true)
	return p
}

func http1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

// Serve serves the clients of ln until ctx ends, or Shutdown or Close is called,
// and returns when they are gone. It closes ln. Several listeners may be served at
// once.
func (h *HTTP) Serve(ctx context.Context, ln net.Listener) error {
	srv := h.newServer()
	r, err := h.begin(ctx, ln, srv.Shutdown)
	if err != nil {
		return err
	}
	r.owns(srv)
	_ = srv.Serve(strictListener{r}) // says only that r was closed
	err = r.finish()
	h.CloseIdle()
	return err
}

// A strictListener accepts clients of HTTP/1.
type strictListener struct{ net.Listener }

func (l strictListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newStrict(c), nil
}

// newServer returns what serves one run.
func (h *HTTP) newServer() *http.Server {
	srv := &http.Server{
		Handler:                      http.HandlerFunc(h.serveRequest),
		ReadHeaderTimeout:            h.HandshakeTimeout,
		IdleTimeout:                  h.IdleTimeout,
		MaxHeaderBytes:               maxRequestHeader,
		DisableGeneralOptionsHandler: true,
		Protocols:                    http1and2(),
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: h.IdleTimeout, PingTimeout: h.HandshakeTimeout},
		ErrorLog:                     slog.NewLogLogger(h.Log.Handler(), slog.LevelDebug),
	}
	tellSchemes(srv)
	return srv
}

// owns has srv serve clients of r, which it counts out.
func (r *run) owns(srv *http.Server) {
	srv.BaseContext = func(net.Listener) context.Context { return r.ctx }
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		s, _ := c.(*strict)
		return context.WithValue(ctx, clientKey{}, &httpClient{conn: accepted(c), strict: s, run: r, tls: insideTLS(c)})
	}
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			r.remove(accepted(c)) // a hijacked one is removed by its handler
		}
	}
}

// CloseIdle closes connections to targets that carry no request, such as those
// made from an address that is no longer ours.
func (h *HTTP) CloseIdle() { h.transports.closeIdle() }

// httpClient is the client's connection behind a request's context.
type httpClient struct {
	conn   net.Conn // as it was accepted
	strict *strict  // as net/http has it; nil with HTTP/2
	run    *run
	tls    bool // HTTP is inside TLS
}

// insideTLS reports whether there is TLS in what has been put around a connection.
func insideTLS(c net.Conn) bool {
	if s, ok := c.(*strict); ok {
		c = s.Conn
	}
	_, ok := c.(*tls.Conn)
	return ok
}

type clientKey struct{}

// serveRequest answers one request.
func (h *HTTP) serveRequest(rw http.ResponseWriter, req *http.Request) {
	c := req.Context().Value(clientKey{}).(*httpClient)
	w := &response{ResponseWriter: rw, client: c.strict}
	defer func() {
		if w.hijacked {
			c.run.remove(c.conn)
		}
	}()
	if c.strict != nil {
		if err := c.strict.admit(req); err != nil {
			h.fail(w, req, Malformed, err)
			return
		}
		if req.ContentLength != 0 { // whatever of the body is not passed on
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.HandshakeTimeout))
		}
	}
	if h.isPAC(req) {
		h.servePAC(w, req)
		return
	}
	v, ok := h.visitor(c, req)
	if !ok {
		w.Header().Set("Proxy-Authenticate", `Basic realm="softether-go", charset="UTF-8"`)
		h.fail(w, req, Unauthorized, errors.New("no or wrong Proxy-Authorization"))
		return
	}
	switch {
	case req.Method == http.MethodConnect && req.ProtoMajor == 2:
		h.serveStream(v, w, req)
		return
	case req.Method == http.MethodConnect:
		h.serveConnect(c, v, w, req)
		return
	}
	h.serveForward(v, w, req)
}

// visitor checks the credentials of a request (RFC 9110 section 11.7.2).
func (h *HTTP) visitor(c *httpClient, req *http.Request) (v visitor, ok bool) {
	if h.Auth == nil {
		return h.newVisitor(c.conn, nil), true
	}
	// The request for which net/http knows how to parse Basic credentials.
	probe := http.Request{Header: http.Header{"Authorization": req.Header["Proxy-Authorization"]}}
	name, password, ok := probe.BasicAuth()
	if !ok {
		return visitor{}, false
	}
	user := h.login(req.Context(), c.conn.RemoteAddr(), []byte(name), []byte(password))
	return h.newVisitor(c.conn, user), user != nil
}

// fail answers a request that cannot be fulfilled, in a sentence. After a CONNECT
// the connection ends: what follows it may be meant for the target.
func (h *HTTP) fail(w http.ResponseWriter, req *http.Request, why Reason, err error) {
	h.refused(addrString(req.RemoteAddr), why, err)
	head := w.Header()
	head.Set("Content-Type", failType)
	head.Set("X-Content-Type-Options", "nosniff")
	if req.Method == http.MethodConnect && req.ProtoMajor == 1 {
		head.Set("Connection", "close")
	}
	w.WriteHeader(reasons[why].status)
	_, _ = io.WriteString(w, failText(why, err))
}

const failType = "text/plain; charset=utf-8"

func failText(why Reason, err error) string {
	return fmt.Sprintf("proxy: %s: %v\n", reasons[why].text, err)
}

// addrString is a net.Addr known by its text alone.
type addrString string

func (a addrString) Network() string { return "tcp" }
func (a addrString) String() string  { return string(a) }

// A response is the way back to a client. It notes when the connection becomes
// ours, and keeps net/http from adding what the target did not say.
type response struct {
	http.ResponseWriter
	client   *strict // nil with HTTP/2
	hijacked bool    // and to be removed when the handler returns
}

// Unwrap lets http.ResponseController flush.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack notes that the connection is ours.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if w.hijacked = err == nil; w.hijacked {
		w.client.leave(rw.Reader)
	}
	return c, rw, err
}

// WriteHeader sends the final header, or an informational one, which comes from
// the target unfiltered.
func (w *response) WriteHeader(status int) {
	head := w.Header()
	if status < http.StatusOK {
		stripProxyHeaders(head)
		w.ResponseWriter.WriteHeader(status)
		return
	}
	if _, ok := head["Content-Type"]; !ok {
		head["Content-Type"] = nil // a guess otherwise
	}
	if w.client != nil && w.client.ended.Load() {
		head.Set("Connection", "close")
	}
	w.ResponseWriter.WriteHeader(status)
}
