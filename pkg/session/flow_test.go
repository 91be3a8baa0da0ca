package session

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

// Flows are what was said inside TLS between this client and a real server
// (Debian's 5.01.9674), recorded to testdata/*.flow. Replaying one plays the
// server's half byte for byte and holds ours to the shape of what we said then.
//
// To record them anew, give a server with the hubs and users of the table below. It
// has to be another machine or network namespace: a server grants bridge mode to all
// who come from its own addresses.
//
//	go test ./pkg/session -run TestRecordedFlows -record 192.0.2.1:5555
var record = flag.String("record", "", "host:port of a real server to record flows from")

// A limit is what the welcome's policy leaves of bridge mode: NoBridge and NoRouting.
type limit struct{ bridge, routing uint32 }

// The user u has no policy; nobridge has NoBridge, norouting has NoRouting, and
// neither has both.
var flows = []struct {
	name      string
	hub, user string
	auth      wire.AuthType
	password  string
	bridge    bool
	want      error // nil: a session
	limit     limit
}{
	{"hashed", "VPN", "u", wire.HashedPass, "p", false, nil, limit{1, 1}},
	{"plain", "VPN", "u", wire.PlainPassword, "p", false, nil, limit{1, 1}},
	{"anonymous", "VPN", "a", wire.Anonymous, "", false, nil, limit{1, 1}},
	{"wrong-password", "VPN", "u", wire.HashedPass, "wrong", false, wire.CodeAuthFailed, limit{}},
	{"unknown-hub", "NOHUB", "u", wire.HashedPass, "p", false, wire.CodeHubNotFound, limit{}},
	{"hub-offline", "OFF", "u", wire.HashedPass, "p", false, wire.CodeHubStopping, limit{}},
	{"denied", "VPN", "denied", wire.HashedPass, "p", false, wire.CodeAccessDenied, limit{}},
	{"bridge", "VPN", "u", wire.HashedPass, "p", true, nil, limit{0, 0}},
	{"bridge-nobridge", "VPN", "nobridge", wire.HashedPass, "p", true, nil, limit{1, 0}},
	{"bridge-norouting", "VPN", "norouting", wire.HashedPass, "p", true, nil, limit{0, 1}},
	{"bridge-denied", "VPN", "neither", wire.HashedPass, "p", true, wire.CodeBridgeDenied, limit{}},
}

func TestRecordedFlows(t *testing.T) {
	for _, row := range flows {
		t.Run(row.name, func(t *testing.T) {
			cfg := Config{Host: "vpn.test", Hub: row.hub, User: row.user, Auth: row.auth, Password: row.password,
				Bridge: row.bridge, Trust: Trust{Insecure: true}}
			path := filepath.Join("testdata", row.name+".flow")
			if *record != "" {
				recordFlow(t, cfg, path)
			}
			flow, err := hubtest.ReadFlow(path)
			if err != nil {
				t.Fatal(err)
			}
			replayFlow(t, cfg, flow, row.want, row.limit)
		})
	}
}

func replayFlow(t *testing.T, cfg Config, flow hubtest.Flow, want error, limited limit) {
	cfg.DialContext = server(t, func(p *peer) {
		for _, part := range flow {
			switch {
			case part.Side == hubtest.Server:
				p.Write(part.Bytes)
			case isRequest(part.Bytes):
				compareRequest(t, p, part.Bytes)
			}
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
	w := s.Welcome()
	if !strings.HasPrefix(w.SessionName, "SID-") || w.Timeout != 20*time.Second || w.Policy.Value("MaxConnection") != 32 {
		t.Errorf("welcome: %q, time-out %v, policy %v", w.SessionName, w.Timeout, w.Policy)
	}
	if got := (limit{w.Policy.Value("NoBridge"), w.Policy.Value("NoRouting")}); got != limited {
		t.Errorf("NoBridge and NoRouting are %v, want %v", got, limited)
	}
	// The data phase: everything parses, to the last byte.
	first := s.all()[0]
	for {
		_, _, err := first.parser.Next(first.stream)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("data phase: %v", err)
		}
	}
	if got := first.parser.Stats(); got.KeepAlives == 0 || got.Runts+got.Giants != 0 {
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

// recordFlow dials the real server through a relay that writes down what passes.
func recordFlow(t *testing.T, cfg Config, path string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var recorder hubtest.Recorder
	relayed := make(chan error, 1)
	go func() {
		relayed <- recorder.Relay(ln, sessiontest.Certificate(t, nil), func() (net.Conn, error) { return net.Dial("tcp", *record) })
	}()
	cfg.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
	}
	s, err := Dial(context.Background(), cfg)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		s.Run(ctx, frame.WriterFunc(func([][]byte) error { return nil }))
		cancel()
		s.Close()
	}
	ln.Close()
	<-relayed
	if err := os.WriteFile(path, []byte(recorder.Flows()[0].String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
