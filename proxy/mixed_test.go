package proxy

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// Whatever the first byte says is served, however it comes: whole, byte by byte, or
// after a while.
func TestMixedTellsClientsApart(t *testing.T) {
	tests := []struct {
		name, input, want string
		why               map[Reason]uint64
	}{
		{"SOCKS5", hello + toName, helloReply + granted, nil},
		{"SOCKS4", toIPv4By4, granted4a, nil},
		{"SOCKS4a", toName4, granted4a, nil},
		{"CONNECT", connectName, connectOK, nil},
		{"CONNECT in small letters is another method", "connect x:80 HTTP/1.1\r\nHost: x:80\r\nConnection: close\r\n\r\n", "HTTP/1.1 400", nil},
		{"origin form", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 400", nil},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00", noTLS, map[Reason]uint64{Malformed: 1}},
		{"another version", "\x06\x01\x00", "", map[Reason]uint64{Malformed: 1}},
		{"noise", "\xff\xff\xff", "", map[Reason]uint64{Malformed: 1}},
		{"nothing", "", "", map[Reason]uint64{}},
	}
	write := map[string]func(io.Writer, string){
		"whole": func(w io.Writer, s string) { io.WriteString(w, s) },
		"byte by byte": func(w io.Writer, s string) {
			for i := range len(s) {
				io.WriteString(w, s[i:i+1])
			}
		},
		"late": func(w io.Writer, s string) {
			time.Sleep(5 * time.Millisecond)
			io.WriteString(w, s)
		},
	}
	for _, tt := range tests {
		for how, write := range write {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				s := NewMixed(Config{Dialer: &dialTo{addr: listenTCP(t, echo)}})
				c := connect(t, serve(t, s))
				go func() {
					write(c, tt.input)
					c.CloseWrite()
				}()
				got, _ := io.ReadAll(c) // a client of another protocol may see a reset
				if len(tt.want) == 0 && len(got) > 0 || !strings.HasPrefix(string(got), wantHead(tt.want)) {
					t.Errorf("answer: got %q, want %q", got, tt.want)
				}
				s.Close()
				if got := s.Stats().Refused; tt.why != nil && !cmp.Equal(got, tt.why) {
					t.Errorf("refused: %s", cmp.Diff(tt.why, got))
				}
			})
		}
	}
}

// wantHead is the part of an answer that does not hold an address.
func wantHead(answer string) string {
	switch {
	case strings.HasPrefix(answer, helloReply):
		return answer[:4]
	case strings.HasPrefix(answer, granted4a[:2]):
		return answer[:2]
	}
	return answer
}

// What a client sends ahead comes through by each protocol, in order.
func TestMixedSendsAhead(t *testing.T) {
	early := strings.Repeat("0123456789", 10_000)
	for _, tt := range services {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.new(Config{Dialer: &dialTo{addr: listenTCP(t, echo)}})
			c := connect(t, serve(t, s))
			go func() {
				io.WriteString(c, tt.enter+early)
				io.WriteString(c, "later")
				c.CloseWrite()
			}()
			if _, err := io.CopyN(io.Discard, c, int64(len(tt.answer))); err != nil {
				t.Fatal(err)
			}
			expect(t, c, early+"later")
			expectEOF(t, c)
		})
	}
}

// A client that says nothing is let go at the deadline.
func TestMixedSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ln := NewMixed(Config{Dialer: newNever(), HandshakeTimeout: 7 * time.Second}), newMemListener()
		serveOn(t, s, ln)
		begin := time.Now()
		c := ln.dial(t)
		io.Copy(io.Discard, c)
		if got, want := time.Since(begin), 7*time.Second; got != want {
			t.Errorf("closed after %v, want %v", got, want)
		}
		synctest.Wait()
		if got, want := s.Stats().Refused, (map[Reason]uint64{Slow: 1}); !cmp.Equal(got, want) {
			t.Errorf("refused: %s", cmp.Diff(want, got))
		}
	})
}

// Requests follow each other on a connection that began at a mixed port, up to one that can
// be read in two ways.
func TestMixedKeepsHTTPAlive(t *testing.T) {
	web := listenTCP(t, func(c *net.TCPConn) {
		b := make([]byte, 4096)
		for {
			if n, err := c.Read(b); err != nil || !strings.HasSuffix(string(b[:n]), "\r\n\r\n") {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: then\r\n\r\nok")
		}
	})
	s := NewMixed(Config{Dialer: &dialTo{addr: web}})
	c := connect(t, serve(t, s))
	for range 3 {
		send(t, c, "GET http://files.corp/ HTTP/1.1\r\nHost: files.corp\r\n\r\n")
		expect(t, c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: then\r\n\r\nok")
	}
	if got := s.Stats().Requests; got != 3 {
		t.Errorf("requests: got %d, want 3", got)
	}
	send(t, c, bothPost+plainGet)
	rest, _ := io.ReadAll(c)
	if got := string(rest); !strings.HasPrefix(got, "HTTP/1.1 400") || strings.Count(got, "HTTP/1.1") != 1 {
		t.Errorf("a length and chunks: got %q, want 400 and the end", got)
	}
}

func FuzzMixed(f *testing.F) {
	for _, seed := range []string{"", hello + toName, toName4, connectName + "early", "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01", "\x00", "P", "\x04", "\x05"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		// In real time, as FuzzHTTP is.
		s := NewMixed(Config{Dialer: answering("answer")})
		output := feed(t, s, input, 10*time.Second)
		if len(input) == 0 || len(output) == 0 {
			return
		}
		ok := output[0] == 5 && input[0] == 5 || output[0] == 0 && input[0] == 4 ||
			string(output) == noTLS && input[0] == beginsTLS || output[0] == 'H' && beginsHTTP(input[0])
		if !ok {
			t.Errorf("first byte %#02x was answered %q", input[0], output)
		}
	})
}
