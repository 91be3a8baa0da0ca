package hub_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/wire"
)

func TestBounds(t *testing.T) {
	t.Run("sessions", func(t *testing.T) {
		c := bob
		c.MaxSessions = 2
		h := hubtest.Start(t, c)
		enter(t, h)
		enter(t, h)
		third := greet(t, h)
		if err := third.login(third.hashed("bob", "secret")); !errors.Is(err, wire.CodeHubBusy) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("connections", func(t *testing.T) {
		c := bob
		c.MaxConnections = 2
		h := hubtest.Start(t, c)
		greet(t, h)
		greet(t, h)
		if err := connect(t, h).sayHello(); err == nil {
			t.Error("a third connection was served")
		}
		if n := h.Stats().ConnectionsRefused; n != 1 {
			t.Errorf("counted %d refused", n)
		}
	})
}

func TestCloseEndsEverythingInGoodOrder(t *testing.T) {
	h := hubtest.Start(t, bob)
	joined, greeted := enter(t, h), greet(t, h)
	var pipe frametest.Pipe
	plugged := make(chan error)
	go func() { plugged <- h.Plug(context.Background(), &pipe) }()
	joined.send(say(station(1), broadcast, "a")) // more than what the hub will read
	h.Close()
	if err := joined.end(); err != io.EOF || !joined.noticed() {
		t.Errorf("session ended with %v, noticed: %v", err, joined.noticed())
	}
	if _, err := greeted.in.ReadByte(); err != io.EOF || !greeted.noticed() {
		t.Errorf("negotiation ended with %v, noticed: %v", err, greeted.noticed())
	}
	if err := <-plugged; !errors.Is(err, net.ErrClosed) {
		t.Errorf("plug ended with %v", err)
	}
	if err := h.Plug(context.Background(), &pipe); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a plug afterwards: %v", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Serve(context.Background(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serving afterwards: %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}

// brokenListener yields nothing but an error.
type brokenListener struct {
	net.Listener
	err error
}

func (l brokenListener) Accept() (net.Conn, error) { return nil, l.err }

func TestServeReturnsWhy(t *testing.T) {
	h, err := hub.New(bob)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := h.Serve(ctx, listen()); !errors.Is(err, context.Canceled) {
		t.Errorf("with its context over: %v", err)
	}
	broken := errors.New("no more connections")
	if err := h.Serve(context.Background(), brokenListener{listen(), broken}); !errors.Is(err, broken) {
		t.Errorf("with a broken listener: %v", err)
	}
}

func TestPlug(t *testing.T) {
	h := hubtest.Start(t, bob)
	var pipe frametest.Pipe
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Plug(ctx, &pipe) }()
	c := enter(t, h)
	pipe.Send(say(station(9), broadcast, "I am the gateway"))
	if got := texts(c.receive(1)); !cmp.Equal(got, []string{"I am the gateway"}) {
		t.Errorf("got %q", got)
	}
	c.send(say(station(1), station(9), "hello"), say(station(1), station(9), "gateway"))
	if got := texts(pipe.Received(t.Context(), 2)); !cmp.Equal(got, []string{"hello", "gateway"}) {
		t.Errorf("the endpoint got %q", got)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("plug ended with %v", err)
	}
	// The endpoint can be plugged in again, and its own end is told.
	go func() { done <- h.Plug(t.Context(), &pipe) }()
	pipe.Send(say(station(9), broadcast, "back"))
	if got := texts(c.receive(1)); !cmp.Equal(got, []string{"back"}) {
		t.Errorf("got %q", got)
	}
	pipe.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("plug ended with %v", err)
	}
}
