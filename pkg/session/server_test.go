package session

import (
	"crypto/tls"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"softether-go/pkg/leaktest"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

// TestMain fails the run if a goroutine is left.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

type peer = sessiontest.Peer

// server returns a Config whose connections are answered by script.
func server(t testing.TB, script func(*peer)) Config {
	t.Helper()
	return serverWith(t, sessiontest.Certificate(t, nil), script)
}

func serverWith(t testing.TB, cert tls.Certificate, script func(*peer)) Config {
	return Config{
		Host: "vpn.test", Hub: "HUB", User: "bob", Auth: wire.HashedPass, Password: "secret",
		Trust:       Trust{Insecure: true},
		DialContext: sessiontest.Dialer(t, cert, script),
	}
}

// dial opens a session that ends with the test.
func dial(t testing.TB, cfg Config) *Session {
	t.Helper()
	s, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }

func logTo(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
