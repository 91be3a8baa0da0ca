//go:build linux

package integration

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A programWeb is what programs of others load: a page with sub-resources, files that can be
// resumed, WebSocket, a package repository and a git repository. It knows what was loaded.
type programWeb struct {
	dir string // served under /files/

	mu   sync.Mutex
	seen map[string]int // by the path's last part
}

func (p *programWeb) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen[filepath.Base(r.URL.Path)]++
	p.mu.Unlock()
	switch path := r.URL.Path; {
	case path == "/page":
		outside := ""
		if r.URL.RawQuery == "outside" {
			outside = "<img src=" + outsideURL + "/beside>"
		}
		fmt.Fprintf(w, `<!doctype html><link rel=stylesheet href=/sub.css><img src=/sub.png>%s
<p id=out>nothing</p><script src=/sub.js></script><img src=/held>`, outside)
	case path == "/sub.js":
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprintf(w, `fetch("/fetched").then(r => r.text()).then(text => {
	var ws = new WebSocket("ws://" + location.host + "/ws");
	ws.onopen = () => ws.send(text);
	ws.onmessage = e => { document.getElementById("out").textContent = e.data + " by " + "script"; fetch("/done") };
});`)
	case path == "/fetched":
		io.WriteString(w, "all of it")
	case path == "/held": // the page is not complete before its script is
		for range 200 {
			if p.loaded("done") || r.Context().Err() != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	case path == "/ws":
		echoWebSocket(w, r)
	case path == "/ranged":
		b, _ := io.ReadAll(streamOf("ranged", rangedSize))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	case path == "/told":
		fmt.Fprintf(w, "%s|%s", strings.Join(r.Header["Via"], ", "), r.Header.Get("Forwarded"))
	case path == "/sink":
		h := sha256.New()
		n, _ := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x %s", n, h.Sum(nil), strings.Join(r.TransferEncoding, ","))
	case strings.HasPrefix(path, "/files/"):
		http.StripPrefix("/files/", http.FileServer(http.Dir(p.dir))).ServeHTTP(w, r)
	default:
		io.WriteString(w, r.Proto+" "+r.Host+"\n")
	}
}

func (p *programWeb) loaded(word string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[word] > 0
}

// loads returns which of the words were loaded since it was asked last.
func (p *programWeb) loads(words string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var got []string
	for _, word := range strings.Fields(words) {
		if p.seen[word] > 0 {
			got = append(got, word)
		}
	}
	clear(p.seen)
	return strings.Join(got, " ")
}

// echoWebSocket sends back each short text (RFC 6455).
func echoWebSocket(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	for {
		head := make([]byte, 6) // of a masked frame of less than 126 bytes
		if _, err := io.ReadFull(rw, head); err != nil {
			return
		}
		payload := make([]byte, head[1]&0x7f)
		if _, err := io.ReadFull(rw, payload); err != nil {
			return
		}
		for i := range payload {
			payload[i] ^= head[2+i%4]
		}
		if _, err := conn.Write(append([]byte{head[0], byte(len(payload))}, payload...)); err != nil {
			return
		}
	}
}

// startProgramWeb serves it in a namespace, without TLS and, if there is a certificate, with it.
func startProgramWeb(t testing.TB, ns *netns, certFile, keyFile string) *programWeb {
	t.Helper()
	p := &programWeb{dir: t.TempDir(), seen: make(map[string]int)}
	srv := &http.Server{Handler: p}
	go srv.Serve(ns.Listen("0.0.0.0:" + programPort))
	if certFile != "" {
		go srv.ServeTLS(ns.Listen("0.0.0.0:"+programTLS), certFile, keyFile)
	}
	t.Cleanup(func() { srv.Close() })
	return p
}

// packages makes the served directory a repository of one package.
func (p *programWeb) packages(t testing.TB) {
	t.Helper()
	tree := t.TempDir()
	if err := os.MkdirAll(filepath.Join(tree, "DEBIAN"), 0o755); err != nil {
		t.Fatal(err)
	}
	control := "Package: behind-hub\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x>\nDescription: a package behind the hub\n"
	if err := os.WriteFile(filepath.Join(tree, "DEBIAN/control"), []byte(control), 0o644); err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(p.dir, "behind-hub_1.0_all.deb")
	command(t, "dpkg-deb", "--build", "--root-owner-group", tree, deb)
	b, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	index := control + fmt.Sprintf("Filename: ./behind-hub_1.0_all.deb\nSize: %d\nSHA256: %x\n", len(b), sha256.Sum256(b))
	if err := os.WriteFile(filepath.Join(p.dir, "Packages"), []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
}
