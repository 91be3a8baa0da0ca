package session

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame"
	"softether-go/pkg/wire"
)

// Flows are what was said inside TLS between this client and a real server
// (Debian's 5.01.9674), recorded to testdata/*.flow. Replaying one plays the
// server's half byte for byte and holds ours to the shape of what we said then.
//
// To record them anew, give a server with the hubs and users of the table below:
//
//	go test ./pkg/session -run TestRecordedFlows -record 127.0.0.1:5555
var record = flag.String("record", "", "host:port of a real server to record flows from")

var flows = []struct {
	name      string
	hub, user string
	auth      wire.AuthType
	password  string
	want      error // nil: a session
}{
	{"hashed", "VPN", "u", wire.HashedPass, "p", nil},
	{"plain", "VPN", "u", wire.PlainPassword, "p", nil},
	{"anonymous", "VPN", "a", wire.Anonymous, "", nil},
	{"wrong-password", "VPN", "u", wire.HashedPass, "wrong", wire.CodeAuthFailed},
	{"unknown-hub", "NOHUB", "u", wire.HashedPass, "p", wire.CodeHubNotFound},
	{"hub-offline", "OFF", "u", wire.HashedPass, "p", wire.CodeHubStopping},
	{"denied", "VPN", "denied", wire.HashedPass, "p", wire.CodeAccessDenied},
}

type flowPart struct {
	server bool // the server's words, not the client's
	bytes  []byte
}

func TestRecordedFlows(t *testing.T) {
	for _, row := range flows {
		t.Run(row.name, func(t *testing.T) {
			cfg := Config{Host: "vpn.test", Hub: row.hub, User: row.user, Auth: row.auth, Password: row.password, Trust: Trust{Insecure: true}}
			path := filepath.Join("testdata", row.name+".flow")
			if *record != "" {
				recordFlow(t, cfg, path)
			}
			replayFlow(t, cfg, readFlow(t, path), row.want)
		})
	}
}

func replayFlow(t *testing.T, cfg Config, parts []flowPart, want error) {
	cfg.DialContext = server(t, func(p *peer) {
		for len(parts) > 0 {
			part := parts[0]
			switch {
			case part.server:
				p.Write(part.bytes)
			case isRequest(part.bytes):
				compareRequest(t, p, part.bytes)
			}
			parts = parts[1:]
		}
	}).DialContext
	s, err := Dial(context.Background(), cfg)
	if want != nil {
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if w := s.Welcome(); !strings.HasPrefix(w.SessionName, "SID-") || w.Timeout != 20*time.Second || w.Policy.Value("MaxConnection") != 32 {
		t.Errorf("welcome: %q, time-out %v, policy %v", w.SessionName, w.Timeout, w.Policy)
	}
	// The data phase: everything parses, to the last byte.
	for {
		_, _, err := s.parser.Next(s.tls)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("data phase: %v", err)
		}
	}
	if got := s.parser.Stats(); got.KeepAlives == 0 || got.Runts+got.Giants != 0 {
		t.Errorf("data phase: %+v, want a keep-alive and nothing dropped", got)
	}
}

func isRequest(b []byte) bool { return bytes.HasPrefix(b, []byte("POST ")) }

// compareRequest reads what we say now and holds it to what we said then: the same
// elements of the same types, and the same values where they do not vary.
func compareRequest(t *testing.T, p *peer, then []byte) {
	q, err := wire.ReadRequest(p.In)
	if err != nil {
		t.Errorf("request: %v", err)
		return
	}
	old, err := wire.ReadRequest(bufio.NewReader(bytes.NewReader(then)))
	if err != nil {
		t.Fatal(err)
	}
	if q.Target != old.Target {
		t.Errorf("request to %s, recorded one to %s", q.Target, old.Target)
		return
	}
	if q.Target == wire.PackPath {
		if diff := cmp.Diff(shape(t, old), shape(t, q)); diff != "" {
			t.Errorf("request (-recorded +now):\n%s", diff)
		}
	}
}

func shape(t *testing.T, q wire.Request) []string {
	m, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	vary := map[string]bool{"ClientIpAddress": true, "ClientOsName": true, "ServerPort2": true}
	var lines []string
	for _, e := range m.Elements() {
		line := fmt.Sprintf("%s type %d", e.Name, e.Type)
		if len(e.Numbers) > 0 && !vary[e.Name] {
			line += fmt.Sprint(e.Numbers)
		}
		lines = append(lines, line)
	}
	return lines
}

// recordFlow dials the real server through a TLS relay that writes down what passes.
func recordFlow(t *testing.T, cfg Config, path string) {
	var mu sync.Mutex
	var parts []flowPart
	note := func(fromServer bool) io.Writer {
		return writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if n := len(parts); n > 0 && parts[n-1].server == fromServer {
				parts[n-1].bytes = append(parts[n-1].bytes, b...)
			} else {
				parts = append(parts, flowPart{fromServer, bytes.Clone(b)})
			}
			return len(b), nil
		})
	}
	cfg.DialContext = server(t, func(p *peer) {
		real, err := tls.Dial("tcp", *record, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			io.Copy(real, io.TeeReader(p, note(false)))
			real.Close()
		}()
		io.Copy(p, io.TeeReader(real, note(true)))
	}).DialContext
	s, err := Dial(context.Background(), cfg)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		s.Run(ctx, frame.WriterFunc(func([][]byte) error { return nil }))
		cancel()
		s.Close()
	}
	mu.Lock()
	defer mu.Unlock()
	var out bytes.Buffer
	for _, p := range parts {
		out.WriteString(map[bool]string{false: ">>> client\n", true: "<<< server\n"}[p.server])
		out.WriteString(hex.Dump(p.bytes))
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func readFlow(t *testing.T, path string) (parts []flowPart) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		switch {
		case strings.HasPrefix(line, ">>>"), strings.HasPrefix(line, "<<<"):
			parts = append(parts, flowPart{server: line[0] == '<'})
		case len(line) > 10:
			text := strings.ReplaceAll(line[10:min(len(line), 59)], " ", "")
			row, err := hex.DecodeString(text)
			if err != nil || len(parts) == 0 {
				t.Fatalf("%s: line %q", path, line)
			}
			last := &parts[len(parts)-1]
			last.bytes = append(last.bytes, row...)
		}
	}
	return parts
}
