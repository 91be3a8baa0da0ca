package proxy

import (
	"io"
	"net/http"
	"strings"
)

// A trailerBody is the body of a request in chunks that passes the trailers on as it ends,
// which is when they are known. The map itself cannot be shared: the server may end
// the body too, on a goroutine other than the Transport's.
type trailerBody struct {
	io.ReadCloser
	in, out *http.Request
}

// passTrailers has the trailers of a request passed on, announced or not. in is the request
// as net/http made it.
func passTrailers(in, out *http.Request) {
	if out.Trailer == nil {
		out.Trailer = make(http.Header) // what comes later is written all the same
	}
	stripTrailers(out.Trailer)
	out.Body = &trailerBody{ReadCloser: out.Body, in: in, out: out}
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		for name, values := range b.in.Trailer {
			b.out.Trailer[name] = values
		}
		stripTrailers(b.out.Trailer)
	}
	return n, err
}

// An answerBody is the body of an answer whose trailers are seen to.
type answerBody struct {
	io.ReadCloser
	res *http.Response
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		stripTrailers(b.res.Trailer)
	}
	return n, err
}

// notInTrailers are what would count too late or for this hop alone (RFC 9110 section
// 6.5.1): framing, routing, modifiers of a request, credentials, what a body is.
var notInTrailers = map[string]bool{
	"Transfer-Encoding": true, "Content-Length": true, "Trailer": true,
	"Host": true, "Max-Forwards": true,
	"Connection": true, "Keep-Alive": true, "Te": true, "Upgrade": true,
	"Cache-Control": true, "Expect": true, "Pragma": true, "Range": true,
	"Authorization": true, "Www-Authenticate": true, "Cookie": true, "Set-Cookie": true,
	"Content-Encoding": true, "Content-Type": true, "Content-Range": true,
}

// stripTrailers removes what has no place in a trailer, or is for the proxy.
func stripTrailers(trailer http.Header) {
	stripProxyHeaders(trailer)
	for name := range trailer {
		if notInTrailers[name] || strings.HasPrefix(name, "If-") {
			delete(trailer, name)
		}
	}
}
