package proxy

import (
	"bytes"
	"encoding/base64"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// That somebody cannot log in is a warning, by SOCKS and HTTP, once a minute, on one line,
// and without what was given for a password. Who has not tried is none.
func TestFailedLoginsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		m := NewMixed(Config{Dialer: newNever(), Auth: newAuth(t), Log: slog.New(slog.NewTextHandler(&out, nil))})
		ln := newMemListener()
		serveOn(t, m, ln)
		ask := func(request string) {
			t.Helper()
			c := ln.dial(t)
			go io.WriteString(c, request)
			io.Copy(io.Discard, c)
			c.Close()
		}
		const connect = "CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp\r\n"
		basic := func(login string) string {
			return connect + "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(login)) + "\r\n\r\n"
		}
		for _, row := range []struct {
			name    string
			wait    time.Duration
			request string
			logs    string // user=…
		}{
			{"HTTP without a login", 0, connect + "\r\n", ""},
			{"SOCKS5, a strange name", 0, helloAuth + "\x01\x0b" + "al\nlevel=x\xff" + "\x05guess", `user="al\nlevel=x\xff"`},
			{"again", 30 * time.Second, basic("bob:guess"), ""},
			{"a minute later", 30 * time.Second, basic("bob:guess"), "user=bob refusals=2\n"},
			{"a long name", time.Minute, basic(strings.Repeat("x", 4000) + ":guess"), "user=" + strings.Repeat("x", maxLoggedName) + " refusals=1\n"},
		} {
			time.Sleep(row.wait)
			out.Reset()
			ask(row.request)
			got := out.String()
			lines := strings.Count(got, "\n")
			switch {
			case row.logs == "" && lines == 0:
			case row.logs == "" || lines != 1 || !strings.Contains(got, row.logs) || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "client=pipe"):
				t.Errorf("%s: got %q, want one line with %q", row.name, got, row.logs)
			}
			if strings.Contains(got, "guess") {
				t.Errorf("%s: got %q, with the password", row.name, got)
			}
		}
	})
}
