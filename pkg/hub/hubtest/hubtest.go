// Package hubtest starts embedded hubs for tests, on loopback or in memory, and
// keeps recordings of what is said to one. It is imported by tests only.
//
// # Theory of operation
//
// Start serves on a loopback port until the test ends. StartInMemory serves
// connections that are buffers in this process, which a test in virtual time
// (testing/synctest) needs: there, waiting on a socket would stop the clock.
//
// A Flow is a recording of one connection inside TLS, in a form that people can
// read and diff.
package hubtest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"softether-go/pkg/hub"
)

// A Hub is a hub that serves.
type Hub struct {
	*hub.Hub
	Addr        string // host:port to dial
	Fingerprint [sha256.Size]byte
	Roots       *x509.CertPool // verifies the hub as localhost, 127.0.0.1 or hub.demo

	// DialContext reaches the hub whatever the address.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// Start serves a hub on loopback until the test ends.
func Start(t testing.TB, c hub.Config) *Hub {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return StartOn(t, c, ln)
}

// StartOn serves a hub on ln until the test ends.
func StartOn(t testing.TB, c hub.Config, ln net.Listener) *Hub {
	t.Helper()
	addr := ln.Addr().String()
	return serve(t, c, ln, func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	})
}

// StartInMemory serves a hub on connections in memory until the test ends.
func StartInMemory(t testing.TB, c hub.Config) *Hub {
	t.Helper()
	ln := newListener()
	return serve(t, c, ln, ln.dial)
}

func serve(t testing.TB, c hub.Config, ln net.Listener, dial func(context.Context, string, string) (net.Conn, error)) *Hub {
	t.Helper()
	h, err := hub.New(c)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(h.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.Serve(context.Background(), ln); !errors.Is(err, net.ErrClosed) {
			t.Errorf("hub: %v", err)
		}
	})
	t.Cleanup(func() {
		h.Close()
		wg.Wait()
	})
	return &Hub{Hub: h, Addr: ln.Addr().String(), Fingerprint: h.Fingerprint(), Roots: roots, DialContext: dial}
}

// WaitSessions waits until the hub has n sessions that have a connection, and
// returns them.
func (h *Hub) WaitSessions(t testing.TB, n int) []hub.SessionInfo {
	t.Helper()
	patience := time.After(20 * time.Second)
	for {
		changed := h.Changed()
		var up []hub.SessionInfo
		for _, s := range h.Sessions() {
			if s.Connections > 0 {
				up = append(up, s)
			}
		}
		if len(up) == n {
			return up
		}
		select {
		case <-patience:
			t.Fatalf("the hub has %d sessions, want %d", len(up), n)
		case <-changed:
		}
	}
}
