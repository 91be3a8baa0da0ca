package hub_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/pack"
	"softether-go/pkg/wire"
)

// A client speaks the protocol by hand, so that it can also speak it wrongly.
type client struct {
	t       testing.TB
	raw     *tailConn
	tls     *tls.Conn
	in      *bufio.Reader
	hello   wire.Hello
	welcome wire.Welcome
	parser  *wire.Parser
	frames  [][]byte // received and not yet asked for
}

// tailConn remembers the last bytes that were read.
type tailConn struct {
	net.Conn
	tail []byte
}

const alertRecord = 5 + 2 + 1 + 16 // header, alert, type, tag: RFC 8446, 5.2 and 6

func (c *tailConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	last := b[max(0, n-alertRecord):n]
	c.tail = append(c.tail[:copy(c.tail, c.tail[min(len(c.tail), max(0, len(c.tail)+len(last)-alertRecord)):])], last...)
	return n, err
}

// noticed reports whether the hub's last words were TLS's notice of the end.
func (c *client) noticed() bool {
	return bytes.HasPrefix(c.raw.tail, []byte{23, 3, 3, 0, alertRecord - 5})
}

// connect gets as far as TCP.
func connect(t testing.TB, h *hubtest.Hub) *client {
	t.Helper()
	raw, err := h.DialContext(t.Context(), "tcp", h.Addr)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, h, raw)
}

func newClient(t testing.TB, h *hubtest.Hub, raw net.Conn) *client {
	c := &client{t: t, raw: &tailConn{Conn: raw}}
	c.tls = tls.Client(c.raw, &tls.Config{ServerName: "localhost", RootCAs: h.Roots})
	t.Cleanup(func() { raw.Close() })
	c.raw.SetDeadline(time.Now().Add(20 * time.Second))
	c.in = bufio.NewReader(c.tls)
	return c
}

// greet gets as far as the hub's hello.
func greet(t testing.TB, h *hubtest.Hub) *client {
	t.Helper()
	c := connect(t, h)
	if err := c.sayHello(); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *client) sayHello() error {
	if err := wire.WriteSignature(c.tls, "hub"); err != nil {
		return err
	}
	p, err := wire.ReadReply(c.in)
	if err != nil {
		return err
	}
	c.hello, err = wire.ParseHello(p)
	return err
}

// post sends a pack and reads the reply.
func (c *client) post(p *pack.Pack) (*pack.Pack, error) {
	if err := wire.WriteRequest(c.tls, "hub", p); err != nil {
		return nil, err
	}
	return wire.ReadReply(c.in)
}

func (c *client) hashed(user, password string) wire.Login {
	answer := wire.AnswerChallenge(wire.PasswordHash(user, password), c.hello.Random)
	return wire.Login{Hub: "HUB", User: user, Auth: wire.HashedPass, Secure: answer[:], MaxConnection: 2}
}

// login asks for a session.
func (c *client) login(l wire.Login) error {
	p, err := c.post(l.Pack())
	if err != nil {
		return err
	}
	if c.welcome, err = wire.ParseWelcome(p); err == nil {
		c.parser = wire.NewParser(nil)
	}
	return err
}

// join asks for another connection of a session.
func (c *client) join(key []byte) error {
	p := &pack.Pack{}
	p.SetStr("method", wire.MethodAdditional)
	p.SetData("session_key", key)
	reply, err := c.post(p)
	if err != nil {
		return err
	}
	if code := wire.Code(reply.Int("error")); code != 0 {
		return code
	}
	c.parser = wire.NewParser(nil)
	return nil
}

var bob = hub.Config{Hub: "HUB", Users: []hub.User{{Name: "bob", Password: "secret"}}}

// enter opens a session as bob.
func enter(t testing.TB, h *hubtest.Hub) *client {
	t.Helper()
	c := greet(t, h)
	if err := c.login(c.hashed("bob", "secret")); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *client) send(frames ...[]byte) {
	c.t.Helper()
	b, _ := wire.AppendBatch(nil, frames)
	if _, err := c.tls.Write(b); err != nil {
		c.t.Errorf("send: %v", err)
	}
}

// next reads once; the frames go to c.frames.
func (c *client) next() error {
	frames, _, err := c.parser.Next(c.in)
	for _, f := range frames {
		c.frames = append(c.frames, slices.Clone(f))
	}
	return err
}

// receive waits for n frames.
func (c *client) receive(n int) [][]byte {
	c.t.Helper()
	for len(c.frames) < n {
		if err := c.next(); err != nil {
			c.t.Fatalf("receive: %v, with %d frames of %d", err, len(c.frames), n)
		}
	}
	got := c.frames[:n]
	c.frames = c.frames[n:]
	return got
}

// end reads until the connection ends and returns why.
func (c *client) end() error {
	for {
		if err := c.next(); err != nil {
			return err
		}
	}
}

// station returns the nth Ethernet address.
func station(n int) net.HardwareAddr {
	return binary.BigEndian.AppendUint32(net.HardwareAddr{2, 0}, uint32(n))
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// say returns a frame with a text in it.
func say(from, to net.HardwareAddr, text string) []byte {
	return frametest.Frame(to, from, 0x88b5, []byte(text))
}

func text(f []byte) string { return string(frame.Payload(f)) }

func texts(frames [][]byte) []string {
	var all []string
	for _, f := range frames {
		all = append(all, text(f))
	}
	return all
}
