package hubtest

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// A Side is one of the two that talk.
type Side int

const (
	Client Side = iota
	Server
)

func (s Side) heading() string {
	return [...]string{Client: ">>> client\n", Server: "<<< server\n"}[s]
}

// A Part is what one side said before the other spoke.
type Part struct {
	Side  Side
	Bytes []byte
}

// A Flow is what was said on one connection, inside TLS. Its text is a hex dump
// of each part under a heading that says whose it is.
type Flow []Part

// String returns f as text.
func (f Flow) String() string {
	var b strings.Builder
	for _, p := range f {
		b.WriteString(p.Side.heading())
		b.WriteString(hex.Dump(p.Bytes))
	}
	return b.String()
}

// dump is where a line of hex.Dump has its bytes.
const (
	dumpStart = 10
	dumpEnd   = 59
)

// ParseFlow reads the text of a Flow.
func ParseFlow(text string) (Flow, error) {
	var f Flow
	n := 0
	for line := range strings.Lines(text) {
		n++
		switch {
		case line == Client.heading():
			f = append(f, Part{Side: Client})
		case line == Server.heading():
			f = append(f, Part{Side: Server})
		case strings.TrimSpace(line) == "":
		case len(line) <= dumpStart || len(f) == 0:
			return nil, fmt.Errorf("line %d is not of a flow: %q", n, line)
		default:
			row := strings.ReplaceAll(line[dumpStart:min(len(line), dumpEnd)], " ", "")
			b, err := hex.DecodeString(row)
			if err != nil {
				return nil, fmt.Errorf("line %d is not of a flow: %w", n, err)
			}
			last := &f[len(f)-1]
			last.Bytes = append(last.Bytes, b...)
		}
	}
	return f, nil
}

// ReadFlow reads a file with a Flow.
func ReadFlow(path string) (Flow, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := ParseFlow(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Replay plays one side of f on conn and holds the other to the letter, after
// normal (if not nil) has removed from both what may differ in content but not in
// length. What the other side says after the end of f is left on conn.
func (f Flow) Replay(conn io.ReadWriter, as Side, normal func([]byte) []byte) error {
	if normal == nil {
		normal = bytes.Clone
	}
	for i, p := range f {
		if p.Side == as {
			if _, err := conn.Write(p.Bytes); err != nil {
				return fmt.Errorf("part %d: %w", i, err)
			}
			continue
		}
		got := make([]byte, len(p.Bytes))
		n, err := io.ReadFull(conn, got)
		if g, w := normal(got[:n]), normal(p.Bytes); err != nil || !bytes.Equal(g, w) {
			return errors.Join(fmt.Errorf("part %d: got\n%swant\n%s", i, hex.Dump(g), hex.Dump(w)), err)
		}
	}
	return nil
}

// A Recorder stands between a client and a server and writes down what they say.
type Recorder struct {
	mu    sync.Mutex // guards flows
	flows []Flow
}

// Flows returns what was said on each connection so far.
func (r *Recorder) Flows() []Flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Flow
	for _, f := range r.flows {
		var own Flow
		for _, p := range f {
			own = append(own, Part{p.Side, bytes.Clone(p.Bytes)})
		}
		all = append(all, own)
	}
	return all
}

// note writes down what was said on the ith connection.
func (r *Recorder) note(i int, s Side, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &r.flows[i]
	if n := len(*f); n == 0 || (*f)[n-1].Side != s {
		*f = append(*f, Part{Side: s})
	}
	last := &(*f)[len(*f)-1]
	last.Bytes = append(last.Bytes, b...)
}

// Relay passes on connections from ln to what dial reaches until ln is closed and
// all connections have ended. It shows clients cert, and believes any server.
func (r *Recorder) Relay(ln net.Listener, cert tls.Certificate, dial func() (net.Conn, error)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := 0; ; i++ {
		raw, err := ln.Accept()
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.flows = append(r.flows, nil)
		r.mu.Unlock()
		wg.Go(func() {
			defer raw.Close()
			far, err := dial()
			if err != nil {
				return
			}
			defer far.Close()
			r.relay(i, tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}}),
				tls.Client(far, &tls.Config{InsecureSkipVerify: true}))
		})
	}
}

func (r *Recorder) relay(i int, client, server *tls.Conn) {
	var wg sync.WaitGroup
	pass := func(s Side, from, to *tls.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				r.note(i, s, buf[:n])
				_, werr := to.Write(buf[:n])
				err = errors.Join(err, werr)
			}
			if err != nil {
				to.CloseWrite()
				to.NetConn().SetReadDeadline(time.Now().Add(time.Second))
				return
			}
		}
	}
	wg.Go(func() { pass(Client, client, server) })
	pass(Server, server, client)
	wg.Wait()
}
