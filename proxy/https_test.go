package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/reread"
)

// writeCertificate makes a certificate for 127.0.0.1 with a common name, in two files.
func writeCertificate(t testing.TB, dir, name string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for path, b := range map[string][]byte{cert: certPEM, key: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return cert, key, pool
}

// secure returns a Config for TLS, and who trusts it.
func secure(t testing.TB, c Config) (Config, *x509.CertPool) {
	t.Helper()
	cert, key, pool := writeCertificate(t, t.TempDir(), "proxy")
	crt, err := OpenCertificate(cert, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.TLS = crt.TLS()
	return c, pool
}

func tlsConnect(t testing.TB, addr string, pool *x509.CertPool, protos ...string) *tls.Conn {
	t.Helper()
	c := tls.Client(connect(t, addr), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", NextProtos: protos})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}

// Both servers take TLS and HTTP/1.1 inside: GET, CONNECT with half-close, upgrades.
func TestHTTPSProxy(t *testing.T) {
	for _, row := range []struct {
		name string
		make func(Config) service
	}{{"https", func(c Config) service { return NewHTTPS(c) }}, {"mixed", func(c Config) service { return NewMixed(c) }}} {
		t.Run(row.name, func(t *testing.T) {
			origin := listenTCP(t, func(c *net.TCPConn) {
				br := bufio.NewReader(c)
				if _, err := http.ReadRequest(br); err == nil {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			c, pool := secure(t, Config{Dialer: &dialTo{addr: origin}, Auth: newAuth(t)})
			addr := serve(t, row.make(c))
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
				Proxy:           http.ProxyURL(&url.URL{Scheme: "https", Host: addr, User: url.UserPassword("alice", "secret")}),
				TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true,
			}}
			res, err := client.Get("http://a.corp/")
			if err != nil {
				t.Fatal(err)
			}
			if b, _ := io.ReadAll(res.Body); string(b) != "ok" {
				t.Errorf("got %q", b)
			}
			res.Body.Close()
			conn := tlsConnect(t, addr, pool)
			send(t, conn, "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n")
			expect(t, conn, "HTTP/1.1 407")
			conn = tlsConnect(t, addr, pool)
			send(t, conn, bothPost)
			expect(t, conn, "HTTP/1.1 400")
		})
	}
}

// A client that comes again does not have to be shown the certificate again.
func TestTLSSessionsAreResumed(t *testing.T) {
	c, pool := secure(t, Config{Dialer: newNever()})
	addr := serve(t, NewHTTPS(c))
	cache := tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		conn := tls.Client(connect(t, addr), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", ClientSessionCache: cache})
		send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		expect(t, conn, "HTTP/1.1 400") // with which the ticket has come
		if got := conn.ConnectionState().DidResume; got != (i == 1) {
			t.Errorf("connection %d: resumed %v", i, got)
		}
	}
}

// An end passes through TLS as an end, and what is cut short does not look like one.
func TestHTTPSTunnelEnds(t *testing.T) {
	target := listenTCP(t, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		c.Write(b)
		if string(b) == "cut" {
			c.SetLinger(0)
		}
	})
	c, pool := secure(t, Config{Dialer: &dialTo{addr: target}})
	addr := serve(t, NewHTTPS(c))
	for _, row := range []struct {
		text  string
		whole bool
	}{{"hello", true}, {"cut", false}} {
		conn := tlsConnect(t, addr, pool)
		send(t, conn, "CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp\r\n\r\n"+row.text)
		expect(t, conn, connectOK)
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(conn)
		if row.whole && (err != nil || string(b) != row.text) {
			t.Errorf("got %q and %v, want %q and an end", b, err, row.text)
		}
		if !row.whole && err == nil {
			t.Error("what was cut short looks complete")
		}
	}
}

func TestHTTPSPortIsForTLSOnly(t *testing.T) {
	c, _ := secure(t, Config{Dialer: newNever()})
	addr := serve(t, NewHTTPS(c))
	conn := connect(t, addr)
	send(t, conn, plainGet)
	if b, _ := io.ReadAll(conn); !strings.HasPrefix(string(b), "HTTP/1.1 400") || !strings.Contains(string(b), "https://host:port") {
		t.Errorf("got %q", b)
	}
	conn = connect(t, addr)
	send(t, conn, "\x05\x01\x00")
	expectEOF(t, conn)
}

// A client that does not go on with TLS is let go in a handshake's time.
func TestHTTPSHandshakeIsBounded(t *testing.T) {
	c, _ := secure(t, Config{Dialer: newNever(), HandshakeTimeout: 50 * time.Millisecond})
	s := NewHTTPS(c)
	conn := connect(t, serve(t, s))
	send(t, conn, "\x16\x03\x01")
	io.Copy(io.Discard, conn)
	s.Close() // waits until it is counted
	if s.Stats().Refused[Slow] != 1 {
		t.Errorf("counted: %v", s.Stats().Refused)
	}
}

// http2 returns a client of HTTP/2 to the proxy, whose requests have the scheme and
// authority they are given.
func http2Transport(t testing.TB, pool *x509.CertPool, addr string) *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP2(true)
	tr := &http.Transport{
		Protocols: p, TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// openStream is CONNECT in HTTP/2. What is written to the pipe goes to the target.
func openStream(t testing.TB, tr *http.Transport, target, login string) (*http.Response, *io.PipeWriter) {
	t.Helper()
	body, feed := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, "https://proxy.test", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = target
	if login != "" {
		req.Header.Set("Proxy-Authorization", strings.TrimSpace(strings.TrimPrefix(basic(login), "Proxy-Authorization: ")))
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { feed.Close(); res.Body.Close() })
	return res, feed
}

func TestHTTP2Connect(t *testing.T) {
	d := &dialTo{addr: listenTCP(t, echo)}
	alice := &guest{name: "alice", limit: 40}
	c, pool := secure(t, Config{Dialer: d, Auth: newGuests(alice)})
	s := NewHTTPS(c)
	tr := http2Transport(t, pool, serve(t, s))
	var streams []*io.PipeWriter
	for i := range 40 { // on one connection
		res, feed := openStream(t, tr, "files.corp:22", "alice")
		if res.StatusCode != 200 || res.ProtoMajor != 2 {
			t.Fatalf("got %s in HTTP/%d", res.Status, res.ProtoMajor)
		}
		streams = append(streams, feed)
		text := fmt.Sprintf("stream %d", i)
		go io.WriteString(feed, text)
		expect(t, res.Body, text)
	}
	if n := s.Stats().Accepted; n != 1 {
		t.Errorf("connections: got %d, want 1", n)
	}
	for _, row := range []struct {
		target, login string
		status        int
	}{
		{"files.corp:22", "", 407}, {"files.corp:22", "bob", 407}, {"files.corp:22", "alice", 429},
	} {
		if res, _ := openStream(t, tr, row.target, row.login); res.StatusCode != row.status {
			t.Errorf("%s as %q: got %d, want %d", row.target, row.login, res.StatusCode, row.status)
		}
	}
	for _, feed := range streams {
		feed.Close() // which the echo answers by its own end
	}
	eventually(t, "all streams have ended", func() bool { return alice.open() == 0 })
	for _, row := range []struct {
		target string
		status int
	}{{"127.0.0.1:80", 403}, {"files.corp", 400}, {"files.corp:22", 200}} {
		if res, _ := openStream(t, tr, row.target, "alice"); res.StatusCode != row.status {
			t.Errorf("%s: got %d, want %d", row.target, res.StatusCode, row.status)
		}
	}
	if n := s.Stats().Accepted; n != 1 {
		t.Errorf("connections after refusals: got %d, want 1", n)
	}
}

// Ends and failures of a target reach the client as what they are.
func TestHTTP2StreamEnds(t *testing.T) {
	gone := make(chan error, 1)
	target := listenTCP(t, func(c *net.TCPConn) {
		line, _ := bufio.NewReader(c).ReadString('\n')
		io.WriteString(c, "answer")
		switch line {
		case "end\n":
			c.CloseWrite()
			io.Copy(io.Discard, c)
		case "reset\n":
			time.Sleep(10 * time.Millisecond)
			c.SetLinger(0)
		case "stay\n":
			_, err := io.Copy(io.Discard, c)
			gone <- err
		}
	})
	c, pool := secure(t, Config{Dialer: &dialTo{addr: target}})
	tr := http2Transport(t, pool, serve(t, NewHTTPS(c)))

	res, feed := openStream(t, tr, "a.corp:80", "")
	go io.WriteString(feed, "end\n")
	if b, err := io.ReadAll(res.Body); string(b) != "answer" || err != nil {
		t.Errorf("an end: got %q and %v", b, err)
	}
	res, feed = openStream(t, tr, "a.corp:80", "")
	go io.WriteString(feed, "reset\n")
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("a reset: got %q and an end", b)
	}
	res, feed = openStream(t, tr, "a.corp:80", "")
	go io.WriteString(feed, "stay\n")
	expect(t, res.Body, "answer")
	feed.CloseWithError(context.Canceled) // the client resets the stream
	if err := <-gone; err == nil {
		t.Error("the target takes what was cut short for all")
	}
}

// A client that ends its half first gets the answer all the same.
func TestHTTP2ClientEnds(t *testing.T) {
	target := listenTCP(t, func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprintf(c, "got %d", n)
	})
	c, pool := secure(t, Config{Dialer: &dialTo{addr: target}})
	res, feed := openStream(t, http2Transport(t, pool, serve(t, NewHTTPS(c))), "a.corp:80", "")
	for range 3 {
		io.WriteString(feed, "x")
	}
	feed.Close()
	expect(t, res.Body, "got 3")
	expectEOF(t, res.Body)
}

// A request with the scheme http goes to its authority, one with https is for CONNECT.
func TestHTTP2Forward(t *testing.T) {
	o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %s%s %s", r.Method, r.Host, r.RequestURI, b)
		w.Header().Set("X-Sum", r.Trailer.Get("X-Sum"))
	})
	c, pool := secure(t, Config{Dialer: o.dialer})
	addr := serve(t, NewHTTPS(c))
	conn := tlsConnect(t, addr, pool, "h2")
	// net/http's client has no words for this, so its frames are written here.
	answer := http2Request(t, conn, [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a.corp:8080"}, {":path", "/x?y"}})
	if want := "GET a.corp:8080/x?y "; !strings.Contains(answer, want) {
		t.Errorf("got %q, want %q", answer, want)
	}
	if got := strings.Join(o.dialer.addresses(), " "); got != "a.corp:8080" {
		t.Errorf("dialed %s", got)
	}
	conn = tlsConnect(t, addr, pool, "h2")
	answer = http2Request(t, conn, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "a.corp"}, {":path", "/"}})
	if !strings.Contains(answer, "configure it as") {
		t.Errorf("https: got %q", answer)
	}
}

func TestCertificateIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cert, key, _ := writeCertificate(t, dir, "first")
		var said strings.Builder
		crt, err := OpenCertificate(cert, key, slog.New(slog.NewTextHandler(&said, nil)))
		if err != nil {
			t.Fatal(err)
		}
		shown := func() string {
			t.Helper()
			time.Sleep(reread.Every)
			c, err := crt.TLS().GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			return c.Leaf.Subject.CommonName
		}
		if got := shown(); got != "first" {
			t.Errorf("got %s", got)
		}
		writeCertificate(t, dir, "second one")
		if got := shown(); got != "second one" {
			t.Errorf("after a change: got %s", got)
		}
		if err := os.WriteFile(key, []byte("no key"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got := shown(); got != "second one" {
				t.Errorf("after a broken change: got %s", got)
			}
		}
		if n := strings.Count(said.String(), "stays"); n != 1 {
			t.Errorf("told %d times:\n%s", n, said.String())
		}
		if err := crt.Reload(); err == nil {
			t.Error("a broken file is read without an error")
		}
		if _, err := OpenCertificate(cert, key, nil); err == nil {
			t.Error("a broken file is opened")
		}
	})
}
