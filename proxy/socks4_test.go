package proxy

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	toIPv4By4 = "\x04\x01\x00\x50\xc0\x00\x02\x01alice\x00"               // CONNECT 192.0.2.1:80
	toName4   = "\x04\x01\x00\x50\x00\x00\x00\x01\x00" + "files.corp\x00" // CONNECT files.corp:80, of 4a
	granted4a = "\x00\x5a\x00\x00\x00\x00\x00\x00"                        // success, bound address unknown
	rejected  = "\x00\x5b\x00\x00\x00\x00\x00\x00"
	identity  = "\x00\x5d\x00\x00\x00\x00\x00\x00"
)

func TestSOCKS4Handshake(t *testing.T) {
	long := strings.Repeat("a", 255)
	checkHandshakes(t, []handshakeTest{
		{name: "address", input: toIPv4By4, want: granted4a, asked: "tcp 192.0.2.1:80"},
		{name: "address without a user id", input: "\x04\x01\x00\x50\xc0\x00\x02\x01\x00", want: granted4a, asked: "tcp 192.0.2.1:80"},
		{name: "name is passed on unresolved", input: toName4, want: granted4a, asked: "tcp files.corp:80"},
		{name: "name after a user id", input: "\x04\x01\x00\x50\x00\x00\x00\xff" + "me\x00files.corp\x00", want: granted4a, asked: "tcp files.corp:80"},
		{name: "longest user id and name", input: "\x04\x01\x00\x50\x00\x00\x00\x01" + long + "\x00" + long + "\x00", want: granted4a, asked: "tcp " + long + ":80"},
		{name: "0.0.0.0 is an address, but nobody's", input: "\x04\x01\x00\x50\x00\x00\x00\x00\x00", want: rejected},
		{name: "0.1.0.1 is an address", input: "\x04\x01\x00\x50\x00\x01\x00\x01\x00", want: granted4a, asked: "tcp 0.1.0.1:80"},

		{name: "user id too long", input: "\x04\x01\x00\x50\xc0\x00\x02\x01" + long + "a\x00", want: ""},
		{name: "name too long", input: "\x04\x01\x00\x50\x00\x00\x00\x01\x00" + long + "a\x00", want: ""},
		{name: "empty name", input: "\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00", want: rejected},
		{name: "line end in a name", input: "\x04\x01\x00\x50\x00\x00\x00\x01\x00a\r\nb\x00", want: rejected},
		{name: "port 0", input: "\x04\x01\x00\x00\xc0\x00\x02\x01\x00", want: rejected},
		{name: "unknown command", input: "\x04\x03\x00\x50\xc0\x00\x02\x01\x00", want: rejected},
		{name: "a password is asked for", auth: true, input: toIPv4By4, want: identity},
		{name: "a password is asked for, by name", auth: true, input: toName4, want: identity},
	})
}

func TestSOCKS4ReplyToFailedDial(t *testing.T) {
	for _, tt := range dialErrors {
		t.Run(tt.name, func(t *testing.T) {
			if output, _ := dialed(t, Config{}, toName4, tt.err); output != rejected {
				t.Errorf("answer: got %q, want %q", output, rejected)
			}
		})
	}
}

func TestSOCKS4BoundAddress(t *testing.T) {
	for addr, want := range map[net.Addr]string{
		&net.TCPAddr{IP: net.IPv4(10, 0, 0, 5), Port: 258}:            "\x00\x5a\x01\x02\x0a\x00\x00\x05",
		&net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 258}:       granted4a,
		net.Addr(addrString("memory")):                                granted4a,
		net.TCPAddrFromAddrPort(mustAddrPort("[::ffff:1.2.3.4]:258")): "\x00\x5a\x01\x02\x01\x02\x03\x04",
	} {
		if got := string(reply4(granted4, addr)); got != want {
			t.Errorf("%v: got %q, want %q", addr, got, want)
		}
	}
}

// Every way to stop talking in mid-request ends at the deadline, or at once if the
// client ends, and nothing is dialed.
func TestSOCKS4CutShort(t *testing.T) {
	whole := "\x04\x01\x00\x50\x00\x00\x00\x01me\x00files.corp\x00"
	for n := range len(whole) {
		for _, ends := range []bool{false, true} {
			t.Run(fmt.Sprintf("after %d bytes, ends %v", n, ends), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newNever()
					s, ln := NewSOCKS5(Config{Dialer: d, HandshakeTimeout: 7 * time.Second}), newMemListener()
					serveOn(t, s, ln)
					begin := time.Now()
					c := ln.dial(t)
					go func() {
						io.WriteString(c, whole[:n])
						if ends {
							c.CloseWrite()
						}
					}()
					if got, err := io.ReadAll(c); len(got) > 0 || err != nil {
						t.Errorf("answer: got %q, %v, want none and an end", got, err)
					}
					took, why := 7*time.Second, map[Reason]uint64{Slow: 1}
					if ends {
						took, why = 0, map[Reason]uint64{Malformed: 1}
					}
					if ends && n == 0 {
						why = map[Reason]uint64{}
					}
					if got := time.Since(begin); got != took {
						t.Errorf("closed after %v, want %v", got, took)
					}
					synctest.Wait()
					if got := s.Stats().Refused; !cmp.Equal(got, why) {
						t.Errorf("refused: %s", cmp.Diff(why, got))
					}
					if len(d.began) > 0 {
						t.Errorf("dialed %s", <-d.began)
					}
				})
			})
		}
	}
}

func FuzzSOCKS4(f *testing.F) {
	for _, seed := range []string{
		toIPv4By4, toName4, toName4 + "early", "\x04\x02\x00\x50\xc0\x00\x02\x01\x00", "\x04", "\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00",
		"\x04\x01\x00\x50\x00\x00\x00\x01" + strings.Repeat("a", 300),
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	auth := newAuth(f)
	f.Fuzz(func(t *testing.T, input []byte, password bool) {
		if len(input) > 0 {
			input[0] = 4
		}
		c := Config{Dialer: answering("answer")}
		if password {
			c.Auth = auth
		}
		synctest.Test(t, func(t *testing.T) {
			s := NewSOCKS5(c)
			output := feed(t, s, input, time.Hour)
			relayed := s.Stats().Requests > 0
			if password && relayed {
				t.Error("relayed without a password")
			}
			if !relayed && len(output) != 0 && len(output) != header4 {
				t.Errorf("a refusal of %d bytes: %q", len(output), output)
			}
		})
	})
}
