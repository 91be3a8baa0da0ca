// Package sessiontest plays the server's side of a session by script, for the tests
// of what dials one. Connections are in-memory pipes, so scripts run in virtual time.
// It is imported by tests only.
package sessiontest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"softether-go/pkg/pack"
	"softether-go/pkg/wire"
)

// Certificate makes a self-signed one for vpn.test, changed as asked; its dates are
// wide enough for virtual time.
func Certificate(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vpn.test"}, DNSNames: []string{"vpn.test"},
		NotBefore: time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// A Peer is the server's end of one connection, for a script to play.
type Peer struct {
	*tls.Conn
	Raw net.Conn // below TLS

	In *bufio.Reader // what the client says, in the negotiation

	t testing.TB
}

// NewPeer makes a Peer of a connection whose handshake is done or comes with the
// first read.
func NewPeer(t testing.TB, raw net.Conn, conn *tls.Conn) *Peer {
	return &Peer{t: t, Raw: raw, Conn: conn, In: bufio.NewReader(conn)}
}

// Request reads a client's request, or fails the script.
func (p *Peer) Request() *pack.Pack {
	q, err := wire.ReadRequest(p.In)
	if err != nil {
		p.t.Logf("script: request: %v", err)
		runtime.Goexit()
	}
	if q.Target == wire.SignaturePath {
		if string(q.Body) != wire.Signature {
			p.t.Errorf("signature %q", q.Body)
		}
		return nil
	}
	m, err := q.Pack()
	if err != nil {
		p.t.Errorf("request: %v", err)
		runtime.Goexit()
	}
	return m
}

// Reply sends m.
func (p *Peer) Reply(m *pack.Pack) {
	if err := wire.WriteReply(p, m); err != nil {
		p.t.Logf("script: reply: %v", err)
	}
}

// Challenge is the random of Hello.
var Challenge = bytes.Repeat([]byte{0x5a}, wire.HashLen)

// Hello is what Greet says.
func Hello() wire.Hello {
	return wire.Hello{Product: "test", Version: 501, Build: 9674, Random: Challenge}
}

// Welcome is what Accept grants.
func Welcome() wire.Welcome {
	return wire.Welcome{SessionName: "SID-U-1", ConnectionName: "CID-1", SessionKey: bytes.Repeat([]byte{1}, wire.HashLen),
		MaxConnection: 1, Encrypt: true, Timeout: 20 * time.Second}
}

// Greet plays the negotiation up to the login, which it returns.
func (p *Peer) Greet() *pack.Pack {
	p.Request()
	p.Reply(Hello().Pack())
	return p.Request()
}

// Accept plays a whole successful negotiation. To a connection that would join a
// session it plays a server that knows of none, which ends the script.
func (p *Peer) Accept() {
	if p.Greet().Str("method") == wire.MethodAdditional {
		p.Reply(wire.Refusal(wire.CodeSessionTimeout))
		runtime.Goexit()
	}
	p.Reply(Welcome().Pack())
}

// Discard reads until the end.
func (p *Peer) Discard() { io.Copy(io.Discard, p) }

// Dialer returns a dial function whose connections are answered by script after a
// TLS handshake with cert. It waits for the scripts when the test ends.
func Dialer(t testing.TB, cert tls.Certificate, script func(*Peer)) func(context.Context, string, string) (net.Conn, error) {
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	return func(context.Context, string, string) (net.Conn, error) {
		client, raw := net.Pipe()
		wg.Go(func() {
			defer raw.Close()
			conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}, DynamicRecordSizingDisabled: true})
			if conn.Handshake() == nil {
				script(NewPeer(t, raw, conn))
			}
		})
		return client, nil
	}
}
