package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestHTTPConnect(t *testing.T) {
	o := newOrigin(t, Config{}, nil)
	o.server.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "secure "+r.Host) }))
	t.Cleanup(secure.Close)
	o.dialer.addr = secure.Listener.Addr().String()
	o.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // the test's own server
	if status, body := o.get(t, "https://files.corp/x"); status != 200 || body != "secure files.corp" {
		t.Errorf("got %d %q, want 200 %q", status, body, "secure files.corp")
	}
	if got, want := strings.Join(o.dialer.addresses(), " "), "files.corp:443"; got != want {
		t.Errorf("dialed %s, want %s", got, want)
	}
}

// Bytes that come with the CONNECT are the target's.
func TestHTTPConnectSendsAhead(t *testing.T) {
	for _, size := range []int{1, 3000, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := NewHTTP(Config{Dialer: &dialTo{addr: listenTCP(t, echo)}})
			c := connect(t, serve(t, s))
			early := string(bytes.Repeat([]byte("0123456789"), size/10+1)[:size])
			go func() {
				io.WriteString(c, "CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp:80\r\n\r\n"+early)
				c.CloseWrite()
			}()
			expect(t, c, connectOK+early)
			expectEOF(t, c)
		})
	}
}

// What follows a CONNECT that failed was meant for the target, not for the proxy.
func TestHTTPConnectFailedEndsConnection(t *testing.T) {
	connectTo := func(target, header string) string {
		return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n" + header + "\r\n"
	}
	right := "Proxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n"
	for _, tt := range []struct {
		name, request string
		want          int
	}{
		{"refused", connectTo("a.corp:80", right), 502},
		{"no password", connectTo("a.corp:80", ""), 407},
		{"no port", connectTo("a.corp", right), 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := dialFunc(func(_ context.Context, _, address string) (net.Conn, error) {
				if address != "a.corp:80" {
					t.Errorf("dialed %s", address)
				}
				return nil, opError(syscall.ECONNREFUSED)
			})
			s := NewHTTP(Config{Dialer: d, Auth: newAuth(t)})
			c := connect(t, serve(t, s))
			send(t, c, tt.request+"GET http://smuggled.corp/ HTTP/1.1\r\nHost: smuggled.corp\r\n"+right+"\r\n")
			br := bufio.NewReader(c)
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			if res.StatusCode != tt.want || !res.Close {
				t.Errorf("got %d, closing %v, want %d, closing", res.StatusCode, res.Close, tt.want)
			}
			expectEOF(t, br)
		})
	}
}

func TestHTTPHangUpEndsDial(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		want          error
	}{
		{"CONNECT", "CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp:80\r\n\r\n", errHungUp},
		{"absolute form", "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n", context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newNever()
			s := NewHTTP(Config{Dialer: d})
			c := connect(t, serve(t, s))
			send(t, c, tt.request)
			<-d.began
			c.Close()
			if err := <-d.ended; !errors.Is(err, tt.want) {
				t.Errorf("dial ended by %v, want %v", err, tt.want)
			}
			eventually(t, "the client is gone", func() bool { return s.Stats().Open == 0 })
			if got := s.Stats().Refused[Canceled]; got != 1 {
				t.Errorf("canceled: got %d, want 1", got)
			}
		})
	}
}

func TestHTTPAnswerToFailedDial(t *testing.T) {
	statuses := map[Reason]int{
		Refused: 502, NotPermitted: 403, HostUnreachable: 502, NetUnreachable: 502, Timeout: 504, NoFamily: 502, NoPort: 503, Resolve: 502, Other: 502,
	}
	for form, request := range map[string]string{
		"CONNECT":  "CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp:80\r\n\r\n",
		"absolute": "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n",
	} {
		for _, tt := range dialErrors {
			t.Run(form+" "+tt.name, func(t *testing.T) {
				s := NewHTTP(Config{Dialer: dialFunc(func(context.Context, string, string) (net.Conn, error) { return nil, tt.err })})
				o := &origin{addr: serve(t, s)}
				res, body := o.exchange(t, "GET", request)
				if res.StatusCode != statuses[tt.want] {
					t.Errorf("status: got %d, want %d", res.StatusCode, statuses[tt.want])
				}
				if !strings.Contains(body, reasons[tt.want].text) || !strings.Contains(body, "a.corp:80") {
					t.Errorf("body: got %q, want it to name the cause, %q, and the target", body, reasons[tt.want].text)
				}
				if got := s.Stats().Refused[tt.want]; got != 1 {
					t.Errorf("refused as %s: got %d, want 1", tt.want, got)
				}
			})
		}
	}
}

func TestHTTPDialTimeout(t *testing.T) {
	for _, request := range []string{
		"CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp:80\r\n\r\n",
		"GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			s, ln := NewHTTP(Config{Dialer: newNever(), DialTimeout: 20 * time.Second}), newMemListener()
			serveOn(t, s, ln)
			c := ln.dial(t)
			begin := time.Now()
			send(t, c, request)
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusGatewayTimeout {
				t.Errorf("status: got %d, want %d", res.StatusCode, http.StatusGatewayTimeout)
			}
			if got, want := time.Since(begin), 20*time.Second; got != want {
				t.Errorf("gave up after %v, want %v", got, want)
			}
			c.Close()
		})
	}
}
