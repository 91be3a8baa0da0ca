package proxy

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// answering is a Dialer without a network: of names, those with an a are refused,
// the others are answered with reply and an end.
func answering(reply string) Dialer {
	return dialFunc(func(_ context.Context, _, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || port == "0" || strings.ContainsFunc(host, func(c rune) bool { return c <= ' ' }) {
			panic("dialed " + address) // nothing unusable gets this far
		}
		if strings.Contains(host, "a") {
			return nil, opError(syscall.ECONNREFUSED)
		}
		conn, far := memPipe()
		go func() { // ends with conn
			go io.Copy(io.Discard, far)
			io.WriteString(far, reply)
			far.CloseWrite()
		}()
		return conn, nil
	})
}

// feed is one client that sends input, waits a moment for what comes of it, and
// ends. Within limit all must be over, whatever the input is.
func feed(t *testing.T, s service, input []byte, limit time.Duration) (output []byte) {
	ln := newMemListener()
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), ln) }()
	client := ln.dial(t)
	client.SetDeadline(time.Now().Add(limit))
	var writer sync.WaitGroup
	writer.Go(func() {
		client.Write(input)
		time.Sleep(time.Millisecond) // lets the answer come before the end, mostly
		client.CloseWrite()
	})
	output, err := io.ReadAll(client)
	if isTimeout(err) {
		t.Errorf("no end within %v", limit)
	}
	client.Close()
	writer.Wait()
	s.Close()
	<-served
	if n := s.Stats().Open; n != 0 {
		t.Errorf("clients after Close: got %d, want 0", n)
	}
	return output
}

func FuzzSOCKS5(f *testing.F) {
	for _, seed := range []string{
		"", hello, hello + toIPv4, hello + toIPv6, hello + toName, hello + toName + "early",
		helloAuth + loginRight + toName, helloAuth + "\x01\x00\x00", "\x05\x00", "\x05\xff",
		hello + "\x05\x02\x00\x01\xc0\x00\x02\x01\x00\x50", hello + "\x05\x01\x00\x03\x00\x00\x50",
		hello + "\x05\x01\x00\x07", "\x04\x01\x00\x50\xc0\x00\x02\x01\x00", "GET / HTTP/1.1\r\n\r\n",
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	auth := newAuth(f)
	f.Fuzz(func(t *testing.T, input []byte, password bool) {
		c := Config{Dialer: answering("answer")}
		if password {
			c.Auth = auth
		}
		var output []byte
		var relayed bool
		synctest.Test(t, func(t *testing.T) {
			s := NewSOCKS5(c)
			output = feed(t, s, input, time.Hour)
			relayed = s.Stats().Requests > 0
		})
		if password && relayed && !strings.Contains(string(input), loginRight) {
			t.Errorf("relayed without the password")
		}
		if !relayed && len(output) > 2+2+10 && string(output) != httpHint {
			t.Errorf("a refusal of %d bytes: %q", len(output), output)
		}
	})
}

func FuzzHTTP(f *testing.F) {
	answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nProxy-Noise: x\r\n\r\nok"
	for _, seed := range []string{
		"", "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\nearly", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nearly",
		"CONNECT x HTTP/1.1\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS http://x HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST http://x/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n",
		"POST http://x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST http://x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
		"GET http://x/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, X\r\nUpgrade: websocket\r\nX: 1\r\n\r\n",
		"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\nHEAD http://y:81/?a;b HTTP/1.0\r\nProxy-Connection: close\r\n\r\n",
		"GET https://x/ HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", hello + toName,
	} {
		f.Add([]byte(seed), []byte(answer))
	}
	f.Add([]byte("GET http://x/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
		[]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello"))
	f.Add([]byte("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n"), []byte("HTTP/1.1 103 Early Hints\r\nProxy-A: b\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"))
	f.Add([]byte("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"))
	f.Fuzz(func(t *testing.T, input, answer []byte) {
		c := Config{Dialer: answering(string(answer))}
		// In real time: net/http waits on mutexes, for which virtual time stops.
		output := feed(t, NewHTTP(c), input, 10*time.Second)
		if len(output) > 0 && !strings.HasPrefix(string(output), "HTTP/1.") {
			t.Errorf("answer: got %q, want an HTTP response", output)
		}
	})
}
