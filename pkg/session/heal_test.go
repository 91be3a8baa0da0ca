package session

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"softether-go/pkg/session/sessiontest"
)

// A TLS of another hand understands the last words: it takes the new key, with which
// alone the notice of the end can be read.
func TestLastWordsAreUnderstood(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	heard := make(chan error, 1)
	var said []byte
	go func() {
		defer far.Close()
		conn := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{sessiontest.Certificate(t, nil)}})
		var err error
		said, err = io.ReadAll(conn) // io.EOF, which ReadAll hides, takes a notice
		heard <- err
	}()
	var secrets bytes.Buffer
	conn := tls.Client(near, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &secrets})
	for _, b := range []string{"one", "two"} {
		if _, err := conn.Write([]byte(b)); err != nil {
			t.Fatal(err)
		}
	}
	last, err := lastWords(conn.ConnectionState().CipherSuite, secrets.String(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write(last); err != nil {
		t.Fatal(err)
	}
	if err := <-heard; err != nil || string(said) != "onetwo" {
		t.Errorf("heard %q and %v, want a proper end", said, err)
	}
}

func TestLastWordsOfAnotherTLSAreNotMade(t *testing.T) {
	log := "CLIENT_TRAFFIC_SECRET_0 00 " + strings.Repeat("ab", 32) + "\n"
	for name, row := range map[string]struct {
		suite uint16
		log   string
	}{
		"TLS 1.2":              {tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, log},
		"another cipher":       {tls.TLS_CHACHA20_POLY1305_SHA256, log},
		"no secret":            {tls.TLS_AES_128_GCM_SHA256, "CLIENT_HANDSHAKE_TRAFFIC_SECRET 00 00\n"},
		"a secret of no hash":  {tls.TLS_AES_256_GCM_SHA384, log},
		"a secret of no digit": {tls.TLS_AES_128_GCM_SHA256, "CLIENT_TRAFFIC_SECRET_0 00 xx\n"},
	} {
		if _, err := lastWords(row.suite, row.log, 2); !errors.Is(err, errNoHeal) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := lastWords(tls.TLS_AES_128_GCM_SHA256, log, 2); err != nil {
		t.Errorf("as it should be: %v", err)
	}
}
