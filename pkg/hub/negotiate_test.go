package hub_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/pack"
	"softether-go/pkg/wire"
)

// probeTag is what old official clients look for in the page they first ask for.
const probeTag = "9C37197CA7C2428388C2E6E59B829B30"

// page sends a request and reads the answer as a browser would.
func (c *client) page(request string) (status int, body string) {
	c.t.Helper()
	if _, err := io.WriteString(c.tls, request); err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func postTo(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nContent-Length: %d\r\nContent-Type: application/octet-stream\r\n\r\n%s", path, len(body), body)
}

func TestWhatIsNoSignatureGetsAPageAndAnotherTry(t *testing.T) {
	h := hubtest.Start(t, bob)
	for _, row := range []struct {
		name, request string
		status        int
	}{
		{"the probe of old clients", "GET / HTTP/1.1\r\nX-VPN: 1\r\nHost: hub\r\n\r\n", 403},
		{"a browser", "GET /index.html HTTP/1.1\nHost: hub\n\n", 403},
		{"another path", postTo("/elsewhere", "x"), 404},
		{"a wrong signature", postTo(wire.SignaturePath, "VPNCONNECTED"), 403},
		{"a wrong signature of plausible length", postTo(wire.SignaturePath, strings.Repeat("GIF89a", 300)), 403},
		{"a pack before the signature", postTo(wire.PackPath, "x"), 403},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := connect(t, h)
			status, body := c.page(row.request)
			if status != row.status || !strings.Contains(body, probeTag) {
				t.Errorf("got status %d and %q", status, body)
			}
			if err := c.sayHello(); err != nil {
				t.Errorf("then the signature: %v", err)
			}
		})
	}
}

func TestWhatIsNoRequestIsRefused(t *testing.T) {
	h := hubtest.Start(t, bob)
	login := wire.Login{Hub: "HUB", User: "bob"}.Pack().Append(nil)
	for _, row := range []struct {
		name, request string
		want          error
	}{
		{"no HTTP", "\x16\x03\x01 hello hello\r\n\r\n", wire.CodeDisconnected},
		{"another HTTP", "GET / HTTP/1.0\r\n\r\n", wire.CodeDisconnected},
		{"a body without length", "POST " + wire.PackPath + " HTTP/1.1\r\nContent-Type: application/octet-stream\r\n\r\n", wire.CodeDisconnected},
		{"a body too long", "POST " + wire.PackPath + " HTTP/1.1\r\nContent-Type: application/octet-stream\r\nContent-Length: 65537\r\n\r\n", wire.CodeDisconnected},
		{"a body of another type", "POST " + wire.PackPath + " HTTP/1.1\r\nContent-Type: text/html\r\nContent-Length: 1\r\n\r\nx", wire.CodeDisconnected},
		{"a line without end", "GET /" + strings.Repeat("x", 9000), wire.CodeDisconnected},
		{"headers without end", "GET / HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", 200), wire.CodeDisconnected},
		{"a pack that is none", postTo(wire.PackPath, "x"), wire.CodeProtocolError},
		{"a pack that ends too early", postTo(wire.PackPath, string(login[:len(login)-1])), wire.CodeProtocolError},
		{"a pack without method", postTo(wire.PackPath, string((&pack.Pack{}).Append(nil))), wire.CodeProtocolError},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := greet(t, h)
			if _, err := io.WriteString(c.tls, row.request); err != nil {
				t.Fatal(err)
			}
			p, err := wire.ReadReply(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if code := wire.Code(p.Int("error")); code != row.want {
				t.Errorf("got code %d, want %v", code, row.want)
			}
			if _, err := c.in.ReadByte(); err != io.EOF {
				t.Errorf("then %v, want the end", err)
			}
		})
	}
}

func TestFillersKeepANegotiationAlive(t *testing.T) {
	inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
		c := greet(t, h).patient()
		for range 20 {
			time.Sleep(3 * time.Second)
			if err := wire.WriteRequest(c.tls, "hub", wire.Filler()); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(c.in, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if p, err := pack.Decode(body); err != nil || p.Int("noop") != 1 {
				t.Fatalf("answer %v, %v", p, err)
			}
		}
		if err := c.login(c.hashed("bob", "secret")); err != nil {
			t.Error(err)
		}
	})
}

func TestNegotiationsEnd(t *testing.T) {
	for _, row := range []struct {
		name  string
		start func(testing.TB, *hubtest.Hub) *client
		speak string // again and again
		every time.Duration
		atMax time.Duration
	}{
		{"a client that says nothing", connect, "", time.Second, 15 * time.Second},
		{"a client that says nothing after hello", greet, "", time.Second, 15 * time.Second},
		{"a slow trickle of a request", greet, "x", time.Second, 15 * time.Second},
		{"pages without end", connect, "GET / HTTP/1.1\r\n\r\n", time.Second, time.Minute},
	} {
		t.Run(row.name, func(t *testing.T) {
			inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
				c := row.start(t, h).patient()
				start := time.Now()
				if err := c.tls.Handshake(); err != nil {
					t.Fatal(err)
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					io.Copy(io.Discard, c.in)
				}()
				for {
					select {
					case <-done:
						if took := time.Since(start); took > row.atMax+2*time.Second {
							t.Errorf("ended after %v", took)
						}
						return
					case <-time.After(row.every):
						io.WriteString(c.tls, row.speak)
					}
				}
			})
		})
	}
}

func TestAClientThatIsSilentBeforeTLSIsCut(t *testing.T) {
	inVirtualTime(t, bob, func(t *testing.T, h *hubtest.Hub) {
		raw, err := h.DialContext(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		io.Copy(io.Discard, raw)
		if took := time.Since(start); took != 15*time.Second {
			t.Errorf("ended after %v", took)
		}
		raw.Close()
	})
}

func TestOldTLSIsRefused(t *testing.T) {
	h := hubtest.Start(t, bob)
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tls.Dial("tcp", h.Addr, &tls.Config{ServerName: "localhost", RootCAs: h.Roots, MinVersion: version, MaxVersion: version})
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			c.Close()
		}
	}
}

func TestTheWelcomeSaysWhatIsGranted(t *testing.T) {
	h := hubtest.Start(t, hub.Config{Users: []hub.User{{Name: "guest", Anonymous: true}}, Timeout: 7 * time.Second,
		Message: "bienvenüe", Policy: wire.Policy{{Name: "NoBridge", Value: 1}}})
	c := greet(t, h)
	if err := c.login(wire.Login{Hub: "DEFAULT", User: "GUEST", MaxConnection: 4}); err != nil {
		t.Fatal(err)
	}
	w := c.welcome
	if w.SessionName != "SID-GUEST-1" || w.MaxConnection != 4 || w.Timeout != 7*time.Second || !w.Encrypt || w.Compress || w.HalfConnection {
		t.Errorf("welcome: %+v", w)
	}
	if w.Message != "bienvenüe" || w.Policy.Value("NoBridge") != 1 || len(w.Policy) != 1 {
		t.Errorf("message %q, policy %v", w.Message, w.Policy)
	}
	if bytes.Equal(w.SessionKey, make([]byte, wire.HashLen)) {
		t.Error("the session's key is zero")
	}
}

func TestHubsThatCannotBe(t *testing.T) {
	if _, err := hub.New(hub.Config{Users: []hub.User{{Password: "x"}}}); err == nil {
		t.Error("a user without a name was taken")
	}
	noRandom := bob
	noRandom.Rand = bytes.NewReader(nil)
	h := hubtest.Start(t, noRandom)
	if err := connect(t, h).sayHello(); err == nil {
		t.Error("greeted without a challenge")
	}
}

// FuzzNegotiation lets a client say anything inside TLS. Whatever it is, the hub
// answers in HTTP or not at all, and lives on.
func FuzzNegotiation(f *testing.F) {
	h := hubtest.StartInMemory(f, hub.Config{Hub: "HUB", Users: []hub.User{{Name: "guest", Anonymous: true}}, Timeout: time.Second})
	var login, units bytes.Buffer
	wire.WriteSignature(&login, "hub")
	wire.WriteRequest(&login, "hub", wire.Login{Hub: "HUB", User: "guest"}.Pack())
	units.Write(login.Bytes())
	batch, _ := wire.AppendBatch(nil, [][]byte{say(station(1), broadcast, "a"), say(station(1), station(2), "b")})
	units.Write(wire.AppendKeepAlive(batch, []byte("content")))
	var additional bytes.Buffer
	wire.WriteSignature(&additional, "hub")
	p := &pack.Pack{}
	p.SetStr("method", wire.MethodAdditional)
	p.SetData("session_key", make([]byte, wire.HashLen))
	wire.WriteRequest(&additional, "hub", p)
	f.Add([]byte("GET / HTTP/1.1\r\nX-VPN: 1\r\n\r\n"))
	f.Add(login.Bytes())
	f.Add(units.Bytes())
	f.Add(append(units.Bytes(), hub.LongBlock()...))
	f.Add(additional.Bytes())
	f.Fuzz(func(t *testing.T, said []byte) {
		c := connect(t, h)
		go func() {
			c.tls.Write(said)
			c.tls.CloseWrite()
		}()
		start, err := bufio.NewReader(c.tls).ReadString('\n')
		if err == nil && !strings.HasPrefix(start, "HTTP/1.1 ") {
			t.Errorf("answered %q", start)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
		io.Copy(io.Discard, c.tls)
		c.raw.Close()
	})
}

func TestBridgeModeIsRefusedToWhomThePolicyForbidsBoth(t *testing.T) {
	for _, row := range []struct {
		name   string
		policy wire.Policy
		want   error
	}{
		{"no policy", nil, nil},
		{"no bridging", wire.Policy{{Name: "NoBridge", Value: 1}}, nil},
		{"no routing", wire.Policy{{Name: "NoRouting", Value: 1}}, nil},
		{"neither", wire.Policy{{Name: "NoBridge", Value: 1}, {Name: "NoRouting", Value: 1}}, wire.CodeBridgeDenied},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := bob
			cfg.Policy = row.policy
			h := hubtest.Start(t, cfg)
			c := greet(t, h)
			bridge := c.hashed("bob", "secret")
			bridge.Bridge = true
			if err := c.login(bridge); !errors.Is(err, row.want) {
				t.Errorf("a bridge: %v, want %v", err, row.want)
			}
			c = greet(t, h)
			if err := c.login(c.hashed("bob", "secret")); err != nil {
				t.Errorf("a station: %v", err)
			}
		})
	}
}
