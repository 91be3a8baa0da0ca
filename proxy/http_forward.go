package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"softether-go/pkg/relay"
)

// serveForward passes an absolute-form request on (RFC 9112 section 3.2.2).
func (h *HTTP) serveForward(v visitor, w *response, req *http.Request) {
	address, err := forwardTarget(req)
	if err != nil {
		h.fail(w, req, BadTarget, err)
		return
	}
	if err := h.checkVia(req); err != nil {
		h.fail(w, req, Loop, err)
		return
	}
	ctx, leave, err := v.enter(req.Context(), func() {})
	if err != nil {
		h.fail(w, req, UserLimit, err)
		return
	}
	defer leave()
	// A connection that is kept would not ask again.
	if err := v.permitsTarget(address); err != nil {
		h.fail(w, req, dialReason(err), err)
		return
	}
	defer h.transports.hold(v.user)()
	// An answer may come while the client still sends; net/http would read the
	// rest of the request first.
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/1 always can
	ctx = context.WithValue(ctx, requestKey{}, ctx)
	if req.ContentLength == 0 {
		h.forwarder.ServeHTTP(w, req.WithContext(ctx))
		return
	}
	body := &heardBody{
		ReadCloser: req.Body, req: req, conn: w.client, answer: http.NewResponseController(w), silence: h.HalfCloseTimeout,
	}
	req = req.WithContext(context.WithValue(ctx, bodyKey{}, body))
	req.Body = body
	h.forwarder.ServeHTTP(w, req)
}

// bodyKey finds the body of a request.
type bodyKey struct{}

// A heardBody is the body of a request whose client may be silent for a while, not for ever.
type heardBody struct {
	io.ReadCloser
	req     *http.Request // as net/http made it, which knows the trailers in the end
	conn    *strict       // nil with HTTP/2
	answer  *http.ResponseController
	silence time.Duration
	failed  atomic.Pointer[error]
}

func (b *heardBody) Read(p []byte) (int, error) {
	_ = b.answer.SetReadDeadline(time.Now().Add(b.silence))
	n, err := b.ReadCloser.Read(p)
	switch err {
	case nil, http.ErrBodyReadAfterClose:
	case io.EOF:
		_ = b.answer.SetReadDeadline(time.Time{}) // what follows is another request
	default:
		b.failed.Store(&err)
		if b.conn != nil {
			b.conn.end() // net/http would go on to read requests
		}
	}
	return n, err
}

// failure returns what was wrong with the body, unless its client has just gone.
func (b *heardBody) failure() *refusal {
	var err error
	if failed := b.failed.Load(); failed != nil {
		err = *failed
	}
	if b.conn != nil {
		// Known before the request's context ends, and more telling.
		err = cmp.Or(b.conn.brokenBody(), err)
	}
	_, ofNetwork := errors.AsType[net.Error](err)
	switch {
	case isTimeout(err):
		return &refusal{why: Slow, err: fmt.Errorf("nothing more of the request has come in %v", b.silence)}
	case err == nil, b.conn == nil, ofNetwork, err == io.EOF, err == io.ErrUnexpectedEOF:
		return nil
	}
	return &refusal{why: Malformed, err: err}
}

// forwardTarget returns the address that a request is for, or why it cannot be passed on.
func forwardTarget(req *http.Request) (string, error) {
	switch req.URL.Scheme {
	case "http":
		return authority(req.URL.Host, 80)
	case "":
		return "", errors.New("this is a proxy, not a web server: " +
			"configure it as the HTTP proxy of a program, such as curl -x http://host:port")
	case "https":
		return "", errors.New("an https URL is reached by CONNECT, so that the client checks the certificate")
	}
	return "", fmt.Errorf("scheme %q cannot be proxied", req.URL.Scheme)
}

// rewrite undoes what ReverseProxy does to a request on a server's behalf, and
// takes out what was meant for the proxy.
func (h *HTTP) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	out.URL.RawQuery = in.URL.RawQuery // even if it is none we can parse
	if b, ok := in.Body.(*heardBody); ok && in.ContentLength < 0 {
		passTrailers(b.req, out)
	}
	for _, name := range forwardingHeaders {
		if v, ok := in.Header[name]; ok && !listed(in.Header["Connection"], name) {
			out.Header[name] = v // the client's own words
		}
	}
	stripProxyHeaders(out.Header)
	h.announce(in, out.Header)
	if in.Method == http.MethodOptions && in.URL.Path == "" && in.URL.RawQuery == "" {
		out.URL.Path = "*" // of the server as a whole; RFC 9112 section 3.2.4
	}
}

// listed reports whether a header of comma-separated tokens has this one.
func listed(values []string, token string) bool {
	return slices.ContainsFunc(values, func(v string) bool {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
		return false
	})
}

// stripProxyHeaders removes what is between a client and its proxy alone (RFC 9110
// section 11.7), and the likes of Proxy-Connection.
func stripProxyHeaders(head http.Header) {
	for name := range head {
		if strings.HasPrefix(name, "Proxy-") {
			delete(head, name)
		}
	}
}

// received sees each response before it is passed back.
func (h *HTTP) received(res *http.Response) error {
	h.counters.requests.Add(1)
	stripProxyHeaders(res.Header)
	if res.ContentLength < 0 && res.StatusCode != http.StatusSwitchingProtocols {
		stripTrailers(res.Trailer)
		res.Body = &answerBody{ReadCloser: res.Body, res: res}
	}
	h.addVia(res.Header, res.ProtoMajor, res.ProtoMinor)
	return nil
}

// forwardFailed answers when there is no response.
func (h *HTTP) forwardFailed(w http.ResponseWriter, req *http.Request, err error) {
	why := Other
	var ref *refusal
	if b, ok := req.Context().Value(bodyKey{}).(*heardBody); ok {
		ref = b.failure()
	}
	if ref != nil {
		why, err = ref.why, ref.err
	} else if de, ok := errors.AsType[*dialError](err); ok {
		why = de.why
	} else if req.Context().Err() != nil {
		why = Canceled
	} else if isTimeout(err) {
		why = Timeout
	}
	h.fail(w, req, why, err)
}

// requestKey finds the context of the request a dial is for.
type requestKey struct{}

// A dialError carries a Reason through the Transport.
type dialError struct {
	why Reason
	err error
}

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dialTarget dials for the Transport, which would let a dial go on for another
// request to use when the one it began for is gone. That may never come, so here
// the dial ends with its request.
func (h *HTTP) dialTarget(ctx context.Context, _, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if req, ok := ctx.Value(requestKey{}).(context.Context); ok {
		defer context.AfterFunc(req, func() { cancel(context.Cause(req)) })()
	}
	conn, why, err := h.connect(ctx, address)
	if err != nil {
		return nil, &dialError{why, err}
	}
	return &targetConn{Conn: conn, counters: &h.counters}, nil
}

// A targetConn counts the bytes of a connection that the Transport uses.
type targetConn struct {
	net.Conn
	counters *counters
}

func (c *targetConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.counters.inbound.Add(uint64(n))
	return n, err
}

func (c *targetConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.counters.outbound.Add(uint64(n))
	return n, err
}

// CloseWrite passes on the end of an upgraded connection's client.
func (c *targetConn) CloseWrite() error {
	relay.CloseWrite(c.Conn)
	return nil
}
