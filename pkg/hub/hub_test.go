package hub_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/wire"
)

func TestLogin(t *testing.T) {
	h := hubtest.Start(t, hub.Config{Hub: "HUB", Message: "hello there", Users: []hub.User{
		{Name: "Bob", Password: "secret"}, {Name: "guest", Anonymous: true}, {Name: "empty"},
	}})
	for _, row := range []struct {
		name string
		ask  func(*client) wire.Login
		want error
	}{
		{"the right password, hashed", func(c *client) wire.Login { return c.hashed("Bob", "secret") }, nil},
		{"case of the user's name does not matter", func(c *client) wire.Login { return c.hashed("bOB", "secret") }, nil},
		{"case of the hub's name does not matter", func(c *client) wire.Login {
			l := c.hashed("Bob", "secret")
			l.Hub = "hub"
			return l
		}, nil},
		{"the right password, plain", func(*client) wire.Login {
			return wire.Login{Hub: "HUB", User: "bob", Auth: wire.PlainPassword, Plain: "secret"}
		}, nil},
		{"an empty password, hashed", func(c *client) wire.Login { return c.hashed("empty", "") }, nil},
		{"an anonymous user", func(*client) wire.Login { return wire.Login{Hub: "HUB", User: "guest"} }, nil},
		{"an anonymous user with a password", func(c *client) wire.Login { return c.hashed("guest", "whatever") }, nil},
		{"a wrong password, hashed", func(c *client) wire.Login { return c.hashed("Bob", "Secret") }, wire.CodeAuthFailed},
		{"a wrong password, plain", func(*client) wire.Login {
			return wire.Login{Hub: "HUB", User: "bob", Auth: wire.PlainPassword, Plain: "wrong"}
		}, wire.CodeAuthFailed},
		{"an answer to another challenge", func(c *client) wire.Login {
			c.hello.Random = make([]byte, wire.HashLen)
			return c.hashed("Bob", "secret")
		}, wire.CodeAuthFailed},
		{"no proof at all", func(*client) wire.Login { return wire.Login{Hub: "HUB", User: "bob", Auth: wire.HashedPass} }, wire.CodeAuthFailed},
		{"a user with a password, anonymously", func(*client) wire.Login { return wire.Login{Hub: "HUB", User: "bob"} }, wire.CodeAuthFailed},
		{"a user with an empty password, anonymously", func(*client) wire.Login { return wire.Login{Hub: "HUB", User: "empty"} }, wire.CodeAuthFailed},
		{"an unknown user, hashed", func(c *client) wire.Login { return c.hashed("eve", "") }, wire.CodeAuthFailed},
		{"an unknown user, plain", func(*client) wire.Login {
			return wire.Login{Hub: "HUB", User: "eve", Auth: wire.PlainPassword}
		}, wire.CodeAuthFailed},
		{"a kind of proof that is not served", func(*client) wire.Login { return wire.Login{Hub: "HUB", User: "bob", Auth: 3} }, wire.CodeAuthUnsupported},
		{"an unknown hub", func(c *client) wire.Login {
			l := c.hashed("Bob", "secret")
			l.Hub = "OTHER"
			return l
		}, wire.CodeHubNotFound},
		{"no user's name", func(*client) wire.Login { return wire.Login{Hub: "HUB"} }, wire.CodeProtocolError},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := greet(t, h)
			err := c.login(row.ask(c))
			if !errors.Is(err, row.want) {
				t.Fatalf("got %v, want %v", err, row.want)
			}
			if err == nil && c.welcome.Message != "hello there" {
				t.Errorf("message %q", c.welcome.Message)
			}
		})
	}
}

func TestTwoClientsExchangeFrames(t *testing.T) {
	h := hubtest.Start(t, bob)
	a, b := enter(t, h), enter(t, h)
	h.WaitSessions(t, 2)

	a.send(say(station(1), broadcast, "who is there?"))
	if got := texts(b.receive(1)); !cmp.Equal(got, []string{"who is there?"}) {
		t.Errorf("b got %q", got)
	}
	b.send(say(station(2), station(1), "I am"), say(station(2), station(1), "here"))
	if got := texts(a.receive(2)); !cmp.Equal(got, []string{"I am", "here"}) {
		t.Errorf("a got %q", got)
	}
	a.send(say(station(1), station(2), "good"))
	if got := texts(b.receive(1)); !cmp.Equal(got, []string{"good"}) {
		t.Errorf("b got %q", got)
	}
	infos := h.Sessions()
	var in, out uint64
	for _, s := range infos {
		in, out = in+s.Stats.InFrames, out+s.Stats.OutFrames
	}
	if in != 4 || out != 4 {
		t.Errorf("counted %d frames in and %d out, want 4 and 4", in, out)
	}
}

// TestEverythingArrivesInOrder has two clients talk at once, over both versions of
// TLS, in frames and batches of all sizes, less at a time than would be dropped.
func TestEverythingArrivesInOrder(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			h := hubtest.Start(t, bob)
			a, b := enterBy(t, h, version), enterBy(t, h, version)
			a.send(say(station(1), broadcast, "a"))
			b.receive(1)
			b.send(say(station(2), broadcast, "b"))
			a.receive(1)
			var wg sync.WaitGroup
			wg.Go(func() { a.recite(station(1), station(2)) })
			wg.Go(func() { b.recite(station(2), station(1)) })
			a.hearAll()
			b.hearAll()
			wg.Wait()
		})
	}
}

func enterBy(t *testing.T, h *hubtest.Hub, version uint16) *client {
	t.Helper()
	c := connect(t, h)
	c.tls = tls.Client(c.raw, &tls.Config{ServerName: "localhost", RootCAs: h.Roots, MaxVersion: version})
	c.in = bufio.NewReader(c.tls)
	if err := c.sayHello(); err != nil {
		t.Fatal(err)
	}
	if err := c.login(c.hashed("bob", "secret")); err != nil {
		t.Fatal(err)
	}
	return c
}

const recited = 1200 // frames, about 1 MB

// line returns the nth of them.
func line(n int) string { return fmt.Sprint(n) + strings.Repeat(" and on", n%200) }

func (c *client) recite(from, to net.HardwareAddr) {
	var batch [][]byte
	for n := range recited {
		batch = append(batch, say(from, to, line(n)))
		if n%57 == 0 || n == recited-1 {
			c.send(batch...)
			batch = nil
		}
	}
}

func (c *client) hearAll() {
	c.t.Helper()
	for n, f := range c.receive(recited) {
		if text(f) != line(n) {
			c.t.Fatalf("frame %d is %.20q, want %.20q", n, text(f), line(n))
		}
	}
}
