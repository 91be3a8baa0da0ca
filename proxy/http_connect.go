package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const connectOK = "HTTP/1.1 200 Connection established\r\n\r\n"

// serveConnect makes the client's connection a tunnel. It is taken over from
// net/http before the dial: that would count a client which has sent its all and
// closed its half as gone, and after a failure take what was meant for the target
// for requests.
func (h *HTTP) serveConnect(c *httpClient, v visitor, w *response, req *http.Request) {
	address, err := connectTarget(req)
	if err != nil {
		h.fail(w, req, BadTarget, err)
		return
	}
	ctx, done, err := v.enter(c.run.ctx, func() { c.run.remove(c.conn) })
	if err != nil {
		h.fail(w, req, UserLimit, err)
		return
	}
	_, _, err = w.Hijack()
	if err != nil {
		h.fail(w, req, Other, err)
		done()
		return
	}
	// Neither net/http nor what followed the requests has a say in a tunnel.
	ahead, client := c.strict.rest, c.strict.Conn
	_ = client.SetDeadline(time.Time{})
	if p, ok := client.(*peeked); ok {
		ahead = append(ahead, buffered(p.in.Reader)...)
		client = p.Conn
	}
	buf := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(ahead), client), max(readAhead, len(ahead)))
	_, _ = buf.Peek(len(ahead)) // has them in the buffer; neither fails nor waits
	w.hijacked = false          // removed by serveTunnel
	h.serveTunnel(ctx, &tunnel{
		client: client, buf: buf, address: address,
		granted: func(net.Conn) []byte { return []byte(connectOK) },
		denied:  connectDenied,
	}, done)
}

// connectDenied is fail for a connection that is no longer net/http's.
func connectDenied(why Reason, err error) []byte {
	status, text := reasons[why].status, failText(why, err)
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nX-Content-Type-Options: nosniff\r\n"+
		"Content-Length: %d\r\nConnection: close\r\n\r\n%s", status, http.StatusText(status), failType, len(text), text)
}

// connectTarget returns the address a CONNECT asks for.
func connectTarget(req *http.Request) (string, error) {
	if req.ContentLength != 0 {
		// Its bytes would be taken for the tunnel's (RFC 9110 section 9.3.6).
		return "", errors.New("CONNECT with a body")
	}
	if strings.Contains(req.RequestURI, "/") {
		return "", errors.New("CONNECT wants host:port alone")
	}
	return authority(req.RequestURI, 0)
}
