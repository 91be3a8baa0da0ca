package session

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/pack"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

func TestLoginProvesThePasswordAsAsked(t *testing.T) {
	answer := wire.AnswerChallenge(wire.PasswordHash("bob", "secret"), sessiontest.Challenge)
	for _, row := range []struct {
		name          string
		auth          wire.AuthType
		secure, plain string
	}{
		{"hashed", wire.HashedPass, string(answer[:]), ""},
		{"plain", wire.PlainPassword, "", "secret"},
		{"anonymous", wire.Anonymous, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var login *pack.Pack
			cfg := server(t, func(p *peer) {
				login = p.Greet()
				p.Reply(sessiontest.Welcome().Pack())
				p.Discard()
			})
			cfg.Auth = row.auth
			s := dial(t, cfg)
			if s.Welcome().SessionName != "SID-U-1" {
				t.Errorf("session name %q", s.Welcome().SessionName)
			}
			if got := login.Int("authtype"); got != uint32(row.auth) {
				t.Errorf("authtype %d, want %d", got, row.auth)
			}
			if got := string(login.Data("secure_password")); got != row.secure {
				t.Errorf("secure_password %x, want %x", got, row.secure)
			}
			if got := login.Str("plain_password"); got != row.plain {
				t.Errorf("plain_password %q, want %q", got, row.plain)
			}
			if login.Str("hubname") != "HUB" || login.Str("username") != "bob" || login.Int("use_encrypt") != 1 {
				t.Errorf("hub %q user %q encrypt %d", login.Str("hubname"), login.Str("username"), login.Int("use_encrypt"))
			}
			for _, word := range []string{"server", "bridge"} {
				if strings.Contains(strings.ToLower(login.Str("client_str")), word) {
					t.Errorf("our name %q contains %q: the server would take us for one", login.Str("client_str"), word)
				}
			}
		})
	}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	for _, row := range []struct {
		name     string
		script   func(*peer)
		want     error
		advice   wire.Advice
		wantText string
	}{
		{"wrong password", func(p *peer) { p.Greet(); p.Reply(wire.Refusal(wire.CodeAuthFailed)) }, wire.CodeAuthFailed, wire.Never, "password"},
		{"unknown hub", func(p *peer) { p.Greet(); p.Reply(wire.Refusal(wire.CodeHubNotFound)) }, wire.CodeHubNotFound, wire.Never, "-hub"},
		{"hub offline", func(p *peer) { p.Greet(); p.Reply(wire.Refusal(wire.CodeHubStopping)) }, wire.CodeHubStopping, wire.Wait, "offline"},
		{"refused in hello", func(p *peer) { p.Request(); p.Reply(wire.Refusal(105)) }, wire.Code(105), wire.Wait, "no sessions"},
		{"unknown code", func(p *peer) { p.Greet(); p.Reply(wire.Refusal(999)) }, wire.Code(999), wire.Retry, "999"},
		{"closes instead of a hello", func(p *peer) { p.Request() }, wire.CodeDisconnected, wire.Retry, "greet vpn.test:443"},
		{"closes instead of a welcome", func(p *peer) { p.Greet() }, wire.CodeDisconnected, wire.Retry, "log in to vpn.test:443"},
		{"closes in mid-reply", func(p *peer) {
			p.Greet()
			io.WriteString(p, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 99\r\n\r\nabc")
		}, wire.CodeDisconnected, wire.Retry, "ended"},
		{"a web server", func(p *peer) { p.Request(); io.WriteString(p, "HTTP/1.1 404 Not Found\r\n\r\n"); p.Discard() }, wire.ErrNotVPN, wire.Never, "404"},
		{"fillers before the welcome", func(p *peer) {
			p.Greet()
			for range 5 {
				p.Reply(wire.Filler())
			}
			p.Reply(wire.Refusal(wire.CodeAccessDenied))
		}, wire.CodeAccessDenied, wire.Never, "not allowed"},
		{"redirect to nowhere", func(p *peer) {
			p.Greet()
			m := &pack.Pack{}
			m.SetInt("Redirect", 1)
			p.Reply(m)
		}, nil, wire.Retry, "cluster"},
		{"encryption off", func(p *peer) { p.Greet(); w := sessiontest.Welcome(); w.Encrypt = false; p.Reply(w.Pack()) }, errUnencrypted, wire.Never, "without encryption"},
		{"compression on", func(p *peer) { p.Greet(); w := sessiontest.Welcome(); w.Compress = true; p.Reply(w.Pack()) }, errUnasked("compression"), wire.Retry, "compression"},
		{"half-duplex", func(p *peer) { p.Greet(); w := sessiontest.Welcome(); w.HalfConnection = true; p.Reply(w.Pack()) }, nil, wire.Retry, "one-way"},
		{"no session key", func(p *peer) { p.Greet(); w := sessiontest.Welcome(); w.SessionKey = nil; p.Reply(w.Pack()) }, nil, wire.Retry, "session key"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, err := Dial(context.Background(), server(t, row.script))
			if err == nil {
				s.Close()
				t.Fatal("a session came about")
			}
			var e *Error
			if !errors.As(err, &e) || row.want != nil && !errors.Is(err, row.want) {
				t.Fatalf("error %v, want an *Error with %v", err, row.want)
			}
			if e.Advice() != row.advice {
				t.Errorf("advice %d, want %d", e.Advice(), row.advice)
			}
			if !contains(err, row.wantText) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q, want one with %q and no secret", err, row.wantText)
			}
		})
	}
}

func TestEveryStepHasADeadline(t *testing.T) {
	trickle := func(p *peer) {
		for {
			if _, err := p.Write([]byte("H")); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}
	for _, row := range []struct {
		name   string
		script func(*peer)
		within time.Duration
	}{
		{"silent in hello", func(p *peer) { p.Request(); p.Discard() }, stepTimeout},
		{"trickles a hello", func(p *peer) { p.Request(); trickle(p) }, stepTimeout},
		{"silent in login", func(p *peer) { p.Greet(); p.Discard() }, loginTimeout},
		{"trickles a welcome", func(p *peer) { p.Greet(); trickle(p) }, loginTimeout},
		{"fillers for ever", func(p *peer) {
			p.Greet()
			for p.Raw != nil {
				if wire.WriteReply(p, wire.Filler()) != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, loginTimeout},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				_, err := Dial(t.Context(), server(t, row.script))
				if err == nil {
					t.Fatal("a session came about")
				}
				if took := time.Since(begun); took > row.within {
					t.Errorf("gave up after %v, want at most %v (%v)", took, row.within, err)
				}
			})
		})
	}
	t.Run("silent in TLS", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			go io.Copy(io.Discard, far)
			begun := time.Now()
			_, err := Dial(t.Context(), Config{Host: "h", DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }})
			if took := time.Since(begun); err == nil || took > stepTimeout {
				t.Errorf("after %v: %v", took, err)
			}
		})
	})
}

func TestDialStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		_, err := Dial(ctx, server(t, func(p *peer) { p.Greet(); p.Discard() }))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
	})
}

func TestTrust(t *testing.T) {
	cert := sessiontest.Certificate(t, nil)
	expired := sessiontest.Certificate(t, func(c *x509.Certificate) { c.NotAfter = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) })
	other := sessiontest.Certificate(t, nil)
	pool := func(c *x509.Certificate) *x509.CertPool {
		p := x509.NewCertPool()
		p.AddCert(c)
		return p
	}
	print := sha256.Sum256(cert.Leaf.Raw)
	key := sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo)
	for _, row := range []struct {
		name    string
		trust   Trust
		host    string
		expired bool
		wantErr string // empty: accepted
	}{
		{"an unknown authority", Trust{}, "vpn.test", false, "-pin sha256:" + hex.EncodeToString(print[:])},
		{"own authority", Trust{Roots: pool(cert.Leaf)}, "vpn.test", false, ""},
		{"own authority, other name", Trust{Roots: pool(cert.Leaf)}, "other.test", false, "not other.test"},
		{"another authority", Trust{Roots: pool(other.Leaf)}, "vpn.test", false, "-pin"},
		{"own authority, expired", Trust{Roots: pool(expired.Leaf)}, "vpn.test", true, "expired"},
		{"pinned certificate", Trust{Pins: [][32]byte{{1}, print}}, "other.test", false, ""},
		{"pinned key", Trust{Pins: [][32]byte{key}}, "other.test", false, ""},
		{"another pin", Trust{Pins: [][32]byte{{1}}}, "vpn.test", false, "not the pinned one"},
		{"another pin though insecure", Trust{Pins: [][32]byte{{1}}, Insecure: true}, "vpn.test", false, "not the pinned one"},
		{"insecure", Trust{Insecure: true}, "other.test", true, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := cert
			if row.expired {
				c = expired
			}
			reached := false
			cfg := serverWith(t, c, func(p *peer) {
				reached = p.Request() == nil
				p.Reply(sessiontest.Hello().Pack())
				p.Request()
				p.Reply(sessiontest.Welcome().Pack())
				p.Discard()
			})
			cfg.Trust, cfg.Host = row.trust, row.host
			s, err := Dial(context.Background(), cfg)
			if err == nil {
				s.Close()
			}
			if row.wantErr == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var untrusted *UntrustedError
			var e *Error
			if !errors.As(err, &untrusted) || !contains(err, row.wantErr) {
				t.Errorf("error %v, want an UntrustedError with %q", err, row.wantErr)
			}
			if errors.As(err, &e) && e.Advice() != wire.Never {
				t.Errorf("advice %d, want Never", e.Advice())
			}
			if reached {
				t.Error("something was sent to a server that is not trusted")
			}
		})
	}
}

func TestAPortThatSpeaksNoTLSIsNamed(t *testing.T) {
	cfg := Config{Host: "h", DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			far.Read(make([]byte, 4096))
			io.WriteString(far, "SSH-2.0-OpenSSH_9.2p1\r\n")
			io.Copy(io.Discard, far)
		}()
		return near, nil
	}}
	_, err := Dial(context.Background(), cfg)
	var e *Error
	if !errors.As(err, &e) || e.Advice() != wire.Never || !contains(err, "does not speak TLS") {
		t.Errorf("got %v", err)
	}
}

// failing fails the nth operation in one direction.
type failing struct {
	net.Conn
	reads, writes int // operations that succeed; negative means all
}

var errInjected = errors.New("injected")

func (f *failing) Read(b []byte) (int, error) {
	if f.reads == 0 {
		return 0, errInjected
	}
	f.reads--
	return f.Conn.Read(b)
}

func (f *failing) Write(b []byte) (int, error) {
	if f.writes == 0 {
		return 0, errInjected
	}
	f.writes--
	return f.Conn.Write(b)
}

func TestAFailureAtAnyOperationIsAnError(t *testing.T) {
	run := func(reads, writes int) error {
		cfg := server(t, func(p *peer) { p.Accept(); p.Discard() })
		inner := cfg.DialContext
		cfg.DialContext = func(ctx context.Context, n, a string) (net.Conn, error) {
			c, err := inner(ctx, n, a)
			return &failing{c, reads, writes}, err
		}
		s, err := Dial(context.Background(), cfg)
		if err == nil {
			s.Close()
		}
		return err
	}
	if err := run(-1, -1); err != nil {
		t.Fatalf("without a fault: %v", err)
	}
	reads, writes := 0, 0
	for ; run(reads, -1) != nil; reads++ {
		if reads > 100 {
			t.Fatal("no number of reads is enough")
		}
	}
	for ; run(-1, writes) != nil; writes++ {
		if writes > 100 {
			t.Fatal("no number of writes is enough")
		}
	}
	if reads == 0 || writes == 0 {
		t.Errorf("a session came about with %d reads and %d writes: nothing was injected", reads, writes)
	}
}

// permanent is an error of a way that leads nowhere.
type permanent bool

func (permanent) Error() string     { return "the proxy does not know us" }
func (p permanent) Permanent() bool { return bool(p) }

func TestTheWayMayBeClosedForGood(t *testing.T) {
	for cause, want := range map[permanent]wire.Advice{true: wire.Never, false: wire.Retry} {
		_, err := Dial(t.Context(), Config{Host: "vpn.test", Hub: "H", User: "u",
			DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, fmt.Errorf("wrapped: %w", cause) }})
		var e *Error
		if !errors.As(err, &e) || e.Advice() != want {
			t.Errorf("permanent %v: got %v, want advice %v", bool(cause), err, want)
		}
	}
}
