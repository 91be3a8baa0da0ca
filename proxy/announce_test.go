package proxy

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Each policy adds what it says and no more, in both directions.
func TestAnnounce(t *testing.T) {
	said := "Via: 1.0 far\r\nForwarded: for=unknown\r\nX-Forwarded-For: 192.0.2.1\r\nX-Real-Ip: 192.0.2.2\r\n"
	pseudonym := regexp.MustCompile(`softether-go-[a-z2-7]{8}`)
	for _, row := range []struct {
		policy   Announce
		seen     string // by the target
		response string // Via of the answer
	}{
		{AnnounceNothing, "1.0 far|for=unknown|192.0.2.1|192.0.2.2", "1.1 near"},
		{AnnounceHide, "|||", "1.1 near"},
		{AnnounceVia, "1.0 far, 1.1 US|for=unknown|192.0.2.1|192.0.2.2", "1.1 near, 1.1 US"},
		{AnnounceAll, "1.0 far, 1.1 US|for=unknown, for=127.0.0.1;proto=http|192.0.2.1|192.0.2.2", "1.1 near, 1.1 US"},
	} {
		seen := ""
		o := newOrigin(t, Config{Announce: row.policy}, func(w http.ResponseWriter, r *http.Request) {
			var values []string
			for _, name := range []string{"Via", "Forwarded", "X-Forwarded-For", "X-Real-Ip"} {
				values = append(values, strings.Join(r.Header.Values(name), ", "))
			}
			seen = pseudonym.ReplaceAllString(strings.Join(values, "|"), "US")
			w.Header().Set("Via", "1.1 near")
		})
		res, _ := o.exchange(t, "GET", "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n"+said+"\r\n")
		if seen != row.seen {
			t.Errorf("policy %d: the target saw %q, want %q", row.policy, seen, row.seen)
		}
		if got := pseudonym.ReplaceAllString(strings.Join(res.Header.Values("Via"), ", "), "US"); got != row.response {
			t.Errorf("policy %d: answered by %q, want %q", row.policy, got, row.response)
		}
	}
}

// A request that comes back to the proxy that has announced itself in it ends there.
func TestViaFindsLoops(t *testing.T) {
	d := &dialTo{}
	p := NewHTTP(Config{Dialer: d, Announce: AnnounceVia})
	d.addr = serve(t, p) // every target is the proxy itself
	c := connect(t, d.addr)
	send(t, c, plainGet)
	expect(t, c, "HTTP/1.1 400") // in origin form at first
	c = connect(t, d.addr)
	send(t, c, "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\nVia: 1.1 other, 1.1 "+p.pseudonym+"\r\n\r\n")
	expect(t, c, "HTTP/1.1 508")
	if n := len(d.addresses()); n != 1 {
		t.Errorf("dialed %d times, want once", n)
	}
}

func TestForwardedNode(t *testing.T) {
	for remote, want := range map[string]string{"192.0.2.1:80": "192.0.2.1", "[2001:db8::1]:80": `"[2001:db8::1]"`, "@": "unknown"} {
		if got := forwardedNode(remote); got != want {
			t.Errorf("%s: got %s, want %s", remote, got, want)
		}
	}
}

// A client that stops amid a body does not hold anything for ever.
func TestHTTPSilentBodyEnds(t *testing.T) {
	ended := make(chan error, 1)
	o := newOrigin(t, Config{HalfCloseTimeout: 100 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	for _, framing := range []string{"Content-Length: 10", "Transfer-Encoding: chunked"} {
		c := connect(t, o.addr)
		send(t, c, "POST http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n"+framing+"\r\n\r\n")
		for range 4 { // longer in all than it may be silent
			time.Sleep(40 * time.Millisecond)
			part := "1"
			if framing != "Content-Length: 10" {
				part = "1\r\n1\r\n"
			}
			send(t, c, part)
		}
		expect(t, c, "HTTP/1.1 408")
		if err := <-ended; err == nil {
			t.Error("the target takes a part for the whole")
		}
	}
	if n := o.proxy.Stats().Refused[Slow]; n != 2 {
		t.Errorf("counted as slow: %d, want 2", n)
	}
	// Once a body has ended its connection may be silent.
	c := connect(t, o.addr)
	send(t, c, sizedPost)
	expect(t, c, "HTTP/1.1 200")
	<-ended
	time.Sleep(250 * time.Millisecond)
	send(t, c, sizedPost)
	<-ended
}

// Requests that are sent at once are answered in their order, each body to its own.
func TestHTTPPipelining(t *testing.T) {
	o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/1" {
			time.Sleep(20 * time.Millisecond) // the first is the slowest
		}
		w.Write(append([]byte(r.URL.Path+" "), b...))
	})
	c := connect(t, o.addr)
	send(t, c, "GET http://a.corp/1 HTTP/1.1\r\nHost: a.corp\r\n\r\n"+
		"POST http://b.corp/2 HTTP/1.1\r\nHost: b.corp\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"+
		"POST http://a.corp/3 HTTP/1.1\r\nHost: a.corp\r\nContent-Length: 2\r\n\r\nde"+
		"GET http://a.corp/4 HTTP/1.1\r\nHost: a.corp\r\nConnection: close\r\n\r\n")
	all, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	for _, body := range []string{"/1 ", "/2 abc", "/3 de", "/4 "} {
		i := strings.Index(string(all), "\r\n\r\n"+body)
		if i <= at {
			t.Errorf("%q is not in its place in:\n%s", body, all)
		}
		at = i
	}
}
