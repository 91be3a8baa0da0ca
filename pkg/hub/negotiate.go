package hub

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"softether-go/pkg/pack"
	"softether-go/pkg/wire"
)

// What the hub calls itself.
const (
	productName    = "softether-go hub"
	productVersion = 502
	productBuild   = 9999
)

const (
	// maxRequests is how many requests a client may make before it joins a session:
	// probes, tries and fillers. The reference server has 19 and 30.
	maxRequests = 40

	// probeTag in a page tells old clients, which first ask for one, that they have
	// come to the right place (Cedar/Protocol.c, ClientConnectGetSocket).
	probeTag = "9C37197CA7C2428388C2E6E59B829B30"

	// The signature of the official clients: an image of this length and SHA-1, then
	// random bytes (Cedar/Protocol.c, ServerDownloadSignature).
	watermarkLen     = 1411
	watermarkHash    = "bb85983434a1eed645d8657dccf8d26a9bb4eaa7"
	maxSignatureTail = 2000
)

var errTooManyRequests = fmt.Errorf("the client made %d requests and joined no session", maxRequests)

// negotiate serves the HTTP part of a connection, up to and with the reply that
// opens the data phase. What the client sent beyond its last request is early.
func (c *conn) negotiate(ctx context.Context) (s *session, early []byte, err error) {
	stop := context.AfterFunc(ctx, func() {
		c.raw.SetReadDeadline(time.Unix(1, 0))
		c.raw.SetWriteDeadline(time.Now().Add(closeGrace))
	})
	defer stop()
	if err := c.step(ctx); err != nil {
		return nil, nil, err
	}
	if err := c.strike(BeforeTLS); err != nil {
		return nil, nil, err
	}
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return nil, nil, fmt.Errorf("TLS: %w", err)
	}
	in := bufio.NewReader(c)
	var challenge []byte // nil before the signature
	for range maxRequests {
		if err := c.step(ctx); err != nil {
			return nil, nil, err
		}
		q, err := wire.ReadRequest(in)
		if err != nil {
			return nil, nil, c.answerBroken(err)
		}
		switch {
		case q.Method == "POST" && q.Target == wire.PackPath && challenge != nil:
			s, err = c.answerPack(q, challenge)
		case q.Method == "POST" && q.Target == wire.SignaturePath && isSignature(q.Body):
			challenge, err = c.greet()
		default:
			err = c.answerPage(q)
		}
		if err != nil {
			return nil, nil, err
		}
		if s != nil {
			early, _ := in.Peek(in.Buffered())
			return s, early, nil
		}
	}
	return nil, nil, errTooManyRequests
}

// step begins a step with its own deadline.
func (c *conn) step(ctx context.Context) error {
	now := time.Now()
	c.raw.SetReadDeadline(now.Add(stepTimeout))
	c.raw.SetWriteDeadline(now.Add(stepTimeout + closeGrace)) // an answer to what came last
	return context.Cause(ctx)                                 // after the deadline: else it could undo the one that stops us
}

func isSignature(body []byte) bool {
	if string(body) == wire.Signature {
		return true
	}
	if len(body) < watermarkLen || len(body) > watermarkLen+maxSignatureTail {
		return false
	}
	sum := sha1.Sum(body[:watermarkLen])
	return hex.EncodeToString(sum[:]) == watermarkHash
}

// answerBroken says that a request was not understood, unless it just did not come.
func (c *conn) answerBroken(cause error) error {
	var network net.Error
	if errors.Is(cause, io.EOF) || errors.Is(cause, io.ErrUnexpectedEOF) || errors.As(cause, &network) {
		return cause
	}
	return c.refuse(wire.CodeDisconnected, cause)
}

// refuse answers with a code, after which the connection ends.
func (c *conn) refuse(code wire.Code, cause error) error {
	c.h.stats.loginsRefused.Add(1)
	if err := wire.WriteReply(c, wire.Refusal(code)); err != nil {
		return errors.Join(cause, err)
	}
	return cause
}

// answerPage turns a browser away, or what looks like one, and keeps the
// connection for another try.
func (c *conn) answerPage(q wire.Request) error {
	status := "404 Not Found"
	if q.Method == "GET" || q.Target == wire.SignaturePath || q.Target == wire.PackPath {
		status = "403 Forbidden"
	}
	page := "<!DOCTYPE html>\n<title>" + status + "</title>\n<p>This is a SoftEther VPN server.</p>\n<!-- " + probeTag + " -->\n"
	_, err := c.Write([]byte("HTTP/1.1 " + status + "\r\nContent-Type: text/html\r\nConnection: Keep-Alive\r\nContent-Length: " +
		strconv.Itoa(len(page)) + "\r\n\r\n" + page))
	return err
}

// greet answers the signature with a challenge.
func (c *conn) greet() ([]byte, error) {
	if err := c.strike(BeforeHello); err != nil {
		return nil, err
	}
	random, err := c.h.random()
	if err != nil {
		return nil, fmt.Errorf("random challenge: %w", err)
	}
	hello := wire.Hello{Product: productName, Version: productVersion, Build: productBuild, Random: random[:]}
	return random[:], wire.WriteReply(c, c.altered(BeforeHello, hello.Pack()))
}

// answerPack serves a pack: a filler, which yields no session yet, or a request
// for one.
func (c *conn) answerPack(q wire.Request, challenge []byte) (*session, error) {
	p, err := q.Pack()
	if err != nil {
		return nil, c.refuse(wire.CodeProtocolError, err)
	}
	if p.Bool("noop") {
		return nil, wire.WriteReply(c, wire.Filler())
	}
	if err := c.strike(BeforeWelcome); err != nil {
		return nil, err
	}
	var s *session
	var reply *pack.Pack
	switch method := p.Str("method"); method {
	case wire.MethodLogin:
		s, reply, err = c.login(p, challenge)
	case wire.MethodAdditional:
		s, reply, err = c.join(p)
	default:
		err = wire.CodeProtocolError
	}
	var code wire.Code
	if errors.As(err, &code) {
		return nil, c.refuse(code, err)
	}
	if err != nil {
		return nil, err
	}
	if err := wire.WriteReply(c, c.altered(BeforeWelcome, reply)); err != nil {
		switch {
		case s == nil || !c.h.leave(s, c):
		case p.Str("method") == wire.MethodLogin:
			c.h.forget(s) // the client does not know the key
		default:
			c.hangUp()
			c.h.linger(c.ctx, s)
		}
		return nil, err
	}
	return s, nil
}

func (c *conn) login(p *pack.Pack, challenge []byte) (*session, *pack.Pack, error) {
	l, err := wire.ParseLogin(p)
	if err != nil {
		return nil, nil, err
	}
	name, err := c.h.admit(l, challenge)
	if err != nil {
		return nil, nil, err
	}
	if p := c.h.cfg.Policy; l.Bridge && p.Value("NoBridge") != 0 && p.Value("NoRouting") != 0 {
		return nil, nil, wire.CodeBridgeDenied
	}
	if l.Monitor && c.h.cfg.Policy.Value("MonitorPort") == 0 {
		return nil, nil, wire.CodeMonitorDenied
	}
	if r := c.h.cfg.Redirect; r != nil {
		return nil, r.Pack(), nil
	}
	s, err := c.h.open(c, l, name)
	if err != nil {
		return nil, nil, err
	}
	w := wire.Welcome{
		SessionName: s.name, ConnectionName: "CID-" + strconv.FormatInt(c.id, 10), SessionKey: s.key[:],
		MaxConnection: s.max, Encrypt: !s.cleartext, Compress: s.compress, HalfConnection: s.half, QoS: s.qos, Timeout: s.timeout, Policy: c.h.cfg.Policy, Message: c.h.cfg.Message,
		UDP: s.grant,
	}
	return s, w.Pack(), nil
}

func (c *conn) join(p *pack.Pack) (*session, *pack.Pack, error) {
	s, err := c.h.join(c, p.Data("session_key"))
	if err != nil {
		return nil, nil, err
	}
	return s, wire.Joined(c.dir), nil
}

// admit decides whether the user is who he says, and returns his name.
func (h *Hub) admit(l wire.Login, challenge []byte) (string, error) {
	if !strings.EqualFold(l.Hub, h.cfg.Hub) {
		return "", wire.CodeHubNotFound
	}
	u, known := h.users[strings.ToLower(l.User)]
	if known && u.anonymous {
		return u.name, nil
	}
	var got, want []byte
	switch l.Auth {
	case wire.ByTicket:
		if slices.ContainsFunc(h.cfg.Tickets, func(t []byte) bool { return subtle.ConstantTimeCompare(t, l.Ticket) == 1 }) {
			return l.User, nil
		}
		return "", wire.CodeAuthFailed
	case wire.Anonymous:
		return "", wire.CodeAuthFailed
	case wire.HashedPass:
		answer := wire.AnswerChallenge(u.hash, challenge)
		got, want = l.Secure, answer[:]
	case wire.PlainPassword:
		hash := wire.PasswordHash(u.name, l.Plain)
		got, want = hash[:], u.hash[:]
	default:
		return "", wire.CodeAuthUnsupported
	}
	if subtle.ConstantTimeCompare(got, want) != 1 || !known {
		return "", wire.CodeAuthFailed
	}
	return u.name, nil
}
