// Package wire holds what travels on a SoftEther connection, both sides of it:
// the HTTP costume of the negotiation, the messages inside it, the server's error
// codes, and the framing of the data phase. It knows bytes, not sockets, sessions
// or time.
//
// # Life of a connection
//
//	C→S  POST /vpnsvc/connect.cgi   signature            WriteSignature
//	S→C  200                        Hello pack           ReadReply, ParseHello
//	C→S  POST /vpnsvc/vpn.cgi       Login pack           WriteRequest
//	S→C  200                        Welcome or an error  ReadReply, ParseWelcome
//	both batches of blocks and keep-alives, until the end  Parser, AppendBatch
//
// Request and reply alternate strictly; after Welcome the next byte of either side
// belongs to the data phase. (Cedar/Protocol.c, ClientConnectToServer and
// ServerAccept; Cedar/Connection.c, ConnectionReceive)
//
// # Limits
//
// Everything read from a peer is bounded: header lines, headers, packs, blocks,
// keep-alives. What is beyond a bound is an error that names it; nothing is
// allocated by a number that the peer merely claims.
package wire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"softether-go/pkg/pack"
)

// Paths of the two kinds of request.
const (
	SignaturePath = "/vpnsvc/connect.cgi"
	PackPath      = "/vpnsvc/vpn.cgi"
)

// Signature is the body that names the protocol, accepted by every server since
// 2014 (Cedar/Protocol.c, ServerDownloadSignature).
const Signature = "VPNCONNECT"

const (
	maxHeaderLine = 4096 // Mayaqua/HTTP.c, HTTP_HEADER_LINE_MAX_SIZE
	maxHeaders    = 128  // Mayaqua/HTTP.c, HTTP_HEADER_MAX_LINES

	// MaxRequestBody is what a server accepts (Mayaqua/HTTP.c, HTTP_PACK_MAX_SIZE).
	MaxRequestBody = 65536
	// maxReplyBody bounds what we read: Welcome with the longest hub message
	// (20000 characters of UTF-8) and certificates stays well below.
	maxReplyBody = 1 << 20
	// maxNoops bounds the fillers a server may send while it asks elsewhere for a
	// verdict on us, one about every second.
	maxNoops = 120
)

// ErrNotVPN says that the peer speaks HTTP or something else, but not this protocol.
var ErrNotVPN = errors.New("the peer is not a SoftEther VPN server")

// WriteSignature writes the first request of a connection.
func WriteSignature(w io.Writer, host string) error {
	_, err := io.WriteString(w, "POST "+SignaturePath+" HTTP/1.1\r\n"+
		"Host: "+host+"\r\nContent-Type: image/jpeg\r\nConnection: Keep-Alive\r\n"+
		"Content-Length: "+strconv.Itoa(len(Signature))+"\r\n\r\n"+Signature)
	return err
}

// WriteRequest posts p.
func WriteRequest(w io.Writer, host string, p *pack.Pack) error {
	return writeMessage(w, "POST "+PackPath+" HTTP/1.1\r\nHost: "+host+"\r\n", p)
}

// WriteReply answers a request with p.
func WriteReply(w io.Writer, p *pack.Pack) error {
	return writeMessage(w, "HTTP/1.1 200 OK\r\n", p)
}

func writeMessage(w io.Writer, start string, p *pack.Pack) error {
	body := p.Append(nil)
	head := start + "Date: " + time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") +
		"\r\nKeep-Alive: timeout=15; max=19\r\nConnection: Keep-Alive\r\n" +
		"Content-Type: application/octet-stream\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	// One write, so that one TLS record carries the message.
	_, err := w.Write(append([]byte(head), body...))
	return err
}

// ReadReply reads the reply to a request and skips fillers. It reads no byte
// beyond the body. A reply that is not HTTP 200 with a pack is ErrNotVPN.
func ReadReply(r *bufio.Reader) (*pack.Pack, error) {
	for range maxNoops {
		p, err := readReplyOnce(r)
		if err != nil || p.Int("noop") == 0 {
			return p, err
		}
	}
	return nil, errors.New("the server sends fillers without end")
}

func readReplyOnce(r *bufio.Reader) (*pack.Pack, error) {
	start, header, err := readHead(r)
	if err != nil {
		return nil, err
	}
	f := strings.Fields(start)
	if len(f) < 2 || f[0] != "HTTP/1.1" || f[1] != "200" {
		return nil, fmt.Errorf("%w: it answered %q", ErrNotVPN, clip(start))
	}
	if !isPackType(header["Content-Type"]) {
		return nil, fmt.Errorf("%w: its answer is of type %q", ErrNotVPN, clip(header["Content-Type"]))
	}
	body, err := readBody(r, header, maxReplyBody)
	if err != nil {
		return nil, err
	}
	return pack.Decode(body)
}

// A Request is what a client sent: a signature, a pack, or something of a browser.
type Request struct {
	Method string
	Target string
	Body   []byte // nil unless the method is POST
}

// Pack decodes the body of a request to PackPath.
func (q Request) Pack() (*pack.Pack, error) {
	if q.Method != "POST" || q.Target != PackPath {
		return nil, fmt.Errorf("request %s %s carries no pack", clip(q.Method), clip(q.Target))
	}
	return pack.Decode(q.Body)
}

// ReadRequest reads a request, the server's side of WriteSignature and WriteRequest.
func ReadRequest(r *bufio.Reader) (Request, error) {
	start, header, err := readHead(r)
	if err != nil {
		return Request{}, err
	}
	f := strings.Fields(start)
	if len(f) != 3 || f[2] != "HTTP/1.1" {
		return Request{}, fmt.Errorf("request line %q is not HTTP/1.1", clip(start))
	}
	q := Request{Method: f[0], Target: f[1]}
	if q.Method != "POST" {
		return q, nil
	}
	if q.Target == PackPath && !isPackType(header["Content-Type"]) {
		return q, fmt.Errorf("request body of type %q", clip(header["Content-Type"]))
	}
	q.Body, err = readBody(r, header, MaxRequestBody)
	return q, err
}

func isPackType(s string) bool { return strings.EqualFold(s, "application/octet-stream") }

// readHead reads the start line and the headers, with canonical names.
func readHead(r *bufio.Reader) (start string, header map[string]string, err error) {
	if start, err = readLine(r); err != nil {
		return "", nil, err
	}
	header = make(map[string]string)
	for range maxHeaders {
		line, err := readLine(r)
		if err != nil {
			return "", nil, noEOF(err)
		}
		if line == "" {
			return start, header, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return "", nil, fmt.Errorf("%w: header line %q", ErrNotVPN, clip(line))
		}
		header[textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))] = strings.TrimSpace(value)
	}
	return "", nil, fmt.Errorf("%w: more than %d header lines", ErrNotVPN, maxHeaders)
}

func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxHeaderLine {
			return "", fmt.Errorf("%w: a header line is longer than %d bytes", ErrNotVPN, maxHeaderLine)
		}
		if err == nil {
			return strings.TrimRight(string(line), "\r\n"), nil
		}
		if err != bufio.ErrBufferFull {
			if len(line) > 0 {
				err = noEOF(err)
			}
			return "", err
		}
	}
}

func readBody(r *bufio.Reader, header map[string]string, limit int) ([]byte, error) {
	n, err := strconv.Atoi(header["Content-Length"])
	if err != nil || n < 1 || n > limit {
		return nil, fmt.Errorf("%w: content length %q is not 1 to %d", ErrNotVPN, clip(header["Content-Length"]), limit)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(n))) // grows with what comes, not with what is claimed
	if err == nil && len(body) < n {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// clip shortens a peer's text for an error message; %q makes it harmless.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
