package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	xproxy "golang.org/x/net/proxy"
	"golang.org/x/sync/errgroup"
)

func TestSOCKS5WithOtherClient(t *testing.T) {
	auth := &xproxy.Auth{User: "alice", Password: "secret"}
	wrong := &xproxy.Auth{User: "alice", Password: "wrong"}
	tests := []struct {
		name   string
		server bool // asks for a password
		client *xproxy.Auth
		target string
		ok     bool
	}{
		{"name", false, nil, "files.corp:80", true},
		{"IPv4", false, nil, "192.0.2.1:80", true},
		{"IPv6", false, nil, "[2001:db8::1]:80", true},
		{"password not asked for", false, auth, "files.corp:80", true},
		{"password", true, auth, "files.corp:80", true},
		{"no password", true, nil, "files.corp:80", false},
		{"wrong password", true, wrong, "files.corp:80", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := &dialTo{addr: listenTCP(t, echo)}
			c := Config{Dialer: d}
			if tt.server {
				c.Auth = newAuth(t)
			}
			px, err := xproxy.SOCKS5("tcp", serve(t, NewSOCKS5(c)), tt.client, nil)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := px.(xproxy.ContextDialer).DialContext(t.Context(), "tcp", tt.target)
			if (err == nil) != tt.ok {
				t.Fatalf("dial: got %v, want success %v", err, tt.ok)
			}
			if err != nil {
				return
			}
			defer conn.Close()
			send(t, conn, "hello")
			expect(t, conn, "hello")
			if got := strings.Join(d.addresses(), " "); got != tt.target {
				t.Errorf("dialed %s, want %s", got, tt.target)
			}
		})
	}
}

// exchangeEcho sends its own bytes, in pieces, and reads them back.
func exchangeEcho(c net.Conn, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, seed))
	data := make([]byte, 50_000+rnd.IntN(50_000))
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	var g errgroup.Group
	g.Go(func() error {
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 1+rnd.IntN(5000))
			if _, err := c.Write(rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return c.(interface{ CloseWrite() error }).CloseWrite()
	})
	back, err := io.ReadAll(c)
	if werr := g.Wait(); werr != nil {
		return werr
	}
	if err == nil && !bytes.Equal(back, data) {
		err = fmt.Errorf("stream %d: got %d bytes that are not the %d sent", seed, len(back), len(data))
	}
	return err
}

func TestManyStreamsAtOnce(t *testing.T) {
	const streams = 500
	for _, tt := range services {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.new(Config{Dialer: &dialTo{addr: listenTCP(t, echo)}})
			addr := serve(t, s)
			through := make(chan struct{}, streams) // one for each that is connected
			all := make(chan struct{})
			var g errgroup.Group
			for i := range uint64(streams) {
				g.Go(func() error {
					c, err := net.Dial("tcp", addr)
					if err != nil {
						return err
					}
					defer c.Close()
					c.SetDeadline(time.Now().Add(time.Minute))
					if _, err := io.WriteString(c, tt.enter); err != nil {
						return err
					}
					if _, err := io.CopyN(io.Discard, c, int64(len(tt.answer))); err != nil {
						return err
					}
					through <- struct{}{}
					<-all
					return exchangeEcho(c, i)
				})
			}
			for range streams {
				select {
				case <-through:
				case <-time.After(time.Minute):
					t.Error("not all streams were connected at once")
				}
			}
			if got := s.Stats().Open; got != streams {
				t.Errorf("open at once: got %d, want %d", got, streams)
			}
			close(all)
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
			st := s.Stats()
			if st.Inbound != st.Outbound || st.Inbound < streams*50_000 {
				t.Errorf("bytes: got %d inbound and %d outbound, want equal and at least %d", st.Inbound, st.Outbound, streams*50_000)
			}
		})
	}
}

// needTool returns the path of a program.
func needTool(t *testing.T, program, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	remedy := program + " is not installed: apt-get install " + debianPackage
	if os.Getenv("CI") == "true" {
		t.Fatal(remedy)
	}
	t.Skip(remedy)
	return ""
}

func TestCurl(t *testing.T) {
	curl := needTool(t, "curl", "curl")
	data := make([]byte, 20<<20)
	for i := range data {
		data[i] = byte(i >> 8 * 31)
	}
	sum := sha256.Sum256(data)
	handle := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			h := sha256.New()
			io.Copy(h, r.Body)
			fmt.Fprintf(w, "%x", h.Sum(nil))
			return
		}
		w.Write(data)
	}
	socks := func(t *testing.T, d Dialer) string {
		return serve(t, NewSOCKS5(Config{Dialer: d, Auth: newAuth(t)}))
	}
	plain := func(t *testing.T, d Dialer) string {
		return serve(t, NewHTTP(Config{Dialer: d, Auth: newAuth(t)}))
	}
	tests := []struct {
		name  string
		serve func(*testing.T, Dialer) string
		args  []string
		url   string
		asked string
	}{
		{"socks5h", socks, []string{"-x", "socks5h://alice:secret@ADDR"}, "http://files.corp/", "files.corp:80"},
		{"socks5", socks, []string{"-x", "socks5://alice:secret@ADDR"}, "http://192.0.2.1/", "192.0.2.1:80"},
		{"http", plain, []string{"-x", "http://alice:secret@ADDR"}, "http://files.corp/", "files.corp:80"},
		{"CONNECT", plain, []string{"-p", "-x", "http://alice:secret@ADDR"}, "http://files.corp/", "files.corp:80"},
		{"CONNECT, asked for the password", plain, []string{"-p", "--proxy-anyauth", "-x", "http://alice:secret@ADDR"}, "http://files.corp/", "files.corp:80"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(t, Config{}, handle)
			addr := tt.serve(t, o.dialer)
			dir := t.TempDir()
			file := filepath.Join(dir, "up")
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"-q", "-sS", "--fail", "--max-time", "60", "--noproxy", ""}
			for _, a := range tt.args {
				args = append(args, strings.ReplaceAll(a, "ADDR", addr))
			}
			down := runCurl(t, curl, append(args, tt.url))
			if sha256.Sum256(down) != sum {
				t.Errorf("download: got %d bytes that are not the %d served", len(down), len(data))
			}
			up := runCurl(t, curl, append(args, "-T", file, tt.url))
			if got, want := string(up), fmt.Sprintf("%x", sum); got != want {
				t.Errorf("upload: got SHA-256 %s, want %s", got, want)
			}
			for _, asked := range o.dialer.addresses() {
				if asked != tt.asked {
					t.Errorf("dialed %s, want %s", asked, tt.asked)
				}
			}
		})
	}
}

func runCurl(t *testing.T, curl string, args []string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, curl, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("curl %s: %v: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

// net/http as a client of the SOCKS5 server, with connections kept alive.
func TestSOCKS5WithHTTPClient(t *testing.T) {
	o := newOrigin(t, Config{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })
	s := NewSOCKS5(Config{Dialer: o.dialer})
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5h", Host: serve(t, s)})}
	defer tr.CloseIdleConnections()
	o.client.Transport = tr
	for range 3 {
		if status, body := o.get(t, "http://files.corp/"); status != 200 || body != "files.corp" {
			t.Errorf("got %d %q, want 200 %q", status, body, "files.corp")
		}
	}
	if got, want := strings.Join(o.dialer.addresses(), " "), "files.corp:80"; got != want {
		t.Errorf("dialed %s, want %s", got, want)
	}
}
