//go:build linux

package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	programPort  = "8000" // of what programs load
	programTLS   = "8443"
	programSite  = "http://" + siteName + ":" + programPort
	tlsProxy     = "127.0.0.1:8443"
	rangedSize   = 300_000
	outsideURL   = "http://" + clientAddress + ":" + programPort // reached without the proxy only
	programLoads = "page sub.js sub.css sub.png fetched"         // what a browser loads of the page
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

// Proves that the HTTP proxy, its TLS and HTTP/2, and the PAC file do for programs that nobody
// here wrote: curl, Python, apt, git, node and Chromium.
func TestHTTPProxyWithPrograms(t *testing.T) {
	t.Parallel()
	w := newWorldWithoutDHCP(t)
	w.lan.Dnsmasq(usualLease, "--dhcp-option=option:domain-search,"+lanDomain)
	ca := makeCA(t)
	siteCert, siteKey := ca.issue(t, siteName)
	proxyCert, proxyKey := ca.issue(t, "localhost")
	web := startProgramWeb(t, w.lan.ns, siteCert, siteKey)
	beside := startProgramWeb(t, w.cli, "", "")
	c := w.StartClient(usualFlags.with(flags{"https": tlsProxy, "proxy-tls-cert": proxyCert, "proxy-tls-key": proxyKey}))
	c.WaitUp()
	proxy, secure := "http://"+httpProxy, "https://localhost:8443"
	trust := []string{"--cacert", ca.file, "--proxy-cacert", ca.file}

	t.Run("curl", func(t *testing.T) {
		w := w.in(t)
		curl := func(args ...string) string {
			t.Helper()
			out, err := w.Curl(append(append([]string{"--max-time", "15"}, trust...), args...)...)
			if err != nil {
				t.Errorf("curl %s: %v\n%s", args, err, c.Log())
			}
			return out
		}
		for _, row := range []struct{ proxy, url, want string }{
			{proxy, programSite + "/", "HTTP/1.1 files.corp:8000\n"},
			{proxy, "https://files.corp:" + programTLS + "/", "HTTP/2.0 files.corp:8443\n"},
			{secure, programSite + "/", "HTTP/1.1 files.corp:8000\n"},
			{secure, "https://files.corp:" + programTLS + "/", "HTTP/2.0 files.corp:8443\n"},
		} {
			if got := curl("--proxy", row.proxy, "--http2", row.url); got != row.want {
				t.Errorf("%s by %s: got %q, want %q", row.url, row.proxy, got, row.want)
			}
		}
		file := filepath.Join(t.TempDir(), "file")
		body, _ := io.ReadAll(streamOf("upload", rangedSize))
		if err := os.WriteFile(file, body, 0o644); err != nil {
			t.Fatal(err)
		}
		sum := fmt.Sprintf("%d %x ", rangedSize, sha256.Sum256(body))
		if got := curl("--proxy", proxy, "--upload-file", file, programSite+"/sink"); got != sum {
			t.Errorf("upload: got %q, want %q", got, sum)
		}
		if got := curl("--proxy", proxy, "--header", "Transfer-Encoding: chunked", "--upload-file", file, programSite+"/sink"); got != sum+"chunked" {
			t.Errorf("upload of unknown length: got %q, want %q", got, sum+"chunked")
		}
		part := filepath.Join(t.TempDir(), "part")
		curl("--proxy", proxy, "--range", "0-99999", "--output", part, programSite+"/ranged")
		curl("--proxy", proxy, "--continue-at", "-", "--output", part, programSite+"/ranged")
		got, err := os.ReadFile(part)
		if err != nil || fmt.Sprintf("%x", sha256.Sum256(got)) != sumOf("ranged", rangedSize) {
			t.Errorf("a download that was resumed: got %d bytes, %v", len(got), err)
		}
	})

	t.Run("Python", func(t *testing.T) {
		needTool(t, "/usr/bin/python3", "python3")
		out := w.in(t).inside("env", "http_proxy="+proxy, "https_proxy="+proxy, "/usr/bin/python3", "-c", `
import ssl, urllib.request
print(urllib.request.urlopen("http://files.corp:8000/").read().decode(), end="")
context = ssl.create_default_context(cafile="`+ca.file+`")
print(urllib.request.urlopen("https://files.corp:8443/", context=context).read().decode(), end="")
`)
		if want := "HTTP/1.1 files.corp:8000\nHTTP/1.1 files.corp:8443\n"; out != want {
			t.Errorf("got %q, want %q", out, want)
		}
	})

	t.Run("WebSocket", func(t *testing.T) {
		for _, connect := range []bool{false, true} {
			if got := w.in(t).webSocket(proxyOf(connect), "hello"); got != "hello" {
				t.Errorf("through CONNECT %v: got %q", connect, got)
			}
		}
	})

	t.Run("git", func(t *testing.T) {
		needTool(t, "git", "git")
		repo := filepath.Join(web.dir, "repo.git")
		for _, args := range [][]string{
			{"init", "--quiet", "--bare", "-b", "main", repo},
			{"--git-dir", repo, "-c", "user.name=x", "-c", "user.email=x@x", "commit-tree", "-m", "first", "4b825dc642cb6eb9a060e54bf8d69288fbee4904"},
		} {
			out, err := exec.Command("git", args...).Output()
			if len(args) > 6 { // the commit
				if id := strings.TrimSpace(string(out)); err == nil {
					err = os.WriteFile(filepath.Join(repo, "refs/heads/main"), []byte(id+"\n"), 0o644)
				}
			} else if err == nil {
				err = exec.Command("git", "--git-dir", repo, "hash-object", "-t", "tree", "-w", "/dev/null").Run()
			}
			if err != nil {
				t.Fatalf("git %s: %v", args, err)
			}
		}
		command(t, "git", "--git-dir", repo, "update-server-info")
		clone := filepath.Join(t.TempDir(), "clone")
		w.in(t).inside("git", "-c", "http.proxy="+proxy, "clone", "--quiet", programSite+"/files/repo.git", clone)
		if out := command(t, "git", "-C", clone, "log", "--format=%s"); strings.TrimSpace(out) != "first" {
			t.Errorf("cloned: got %q", out)
		}
	})

	t.Run("apt", func(t *testing.T) {
		needTool(t, "apt-get", "apt")
		needTool(t, "dpkg-deb", "dpkg")
		web.packages(t)
		root := t.TempDir()
		for _, dir := range []string{"state/lists/partial", "cache/archives/partial", "etc"} {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		os.WriteFile(filepath.Join(root, "etc/sources.list"), []byte("deb [trusted=yes] "+programSite+"/files/ ./\n"), 0o644)
		os.WriteFile(filepath.Join(root, "status"), nil, 0o644)
		apt := []any{"env", "-C", root, "apt-get", "-qq", "-o", "Dir::Etc::SourceList=" + root + "/etc/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
			"-o", "Dir::State=" + root + "/state", "-o", "Dir::State::status=" + root + "/status", "-o", "Dir::Cache=" + root + "/cache",
			"-o", "APT::Sandbox::User=root", "-o", "Acquire::http::Proxy=" + proxy, "-o", "Acquire::Languages=none"}
		w.in(t).inside(append(apt, "update")...)
		w.in(t).inside(append(apt, "download", "behind-hub")...)
		if got, _ := filepath.Glob(filepath.Join(root, "behind-hub_*.deb")); len(got) != 1 {
			t.Errorf("downloaded: got %v, want one package", got)
		}
	})

	t.Run("node speaks HTTP/2 to the proxy", func(t *testing.T) {
		needTool(t, "node", "nodejs")
		out := w.in(t).inside("node", "-e", `
const http2 = require("http2"), fs = require("fs");
const session = http2.connect("https://localhost:8443", {ca: fs.readFileSync("`+ca.file+`")});
let left = 4;
const done = () => { if (--left == 0) session.close(); };
const ask = (target, then) => {
	const s = session.request({":method": "CONNECT", ":authority": target});
	s.on("response", h => { then(h[":status"], s); });
	s.on("close", done);
};
for (const n of [1, 2]) ask("files.corp:8000", (status, s) => {
	let text = "";
	s.on("data", d => text += d);
	s.on("end", () => console.log(target(status, text)));
	s.end("GET /" + n + " HTTP/1.1\r\nHost: stream" + n + "\r\nConnection: close\r\n\r\n");
});
const target = (status, text) => status + " " + text.slice(text.lastIndexOf("\r\n") + 2).trim();
ask("127.0.0.1:80", (status, s) => { console.log(status); s.resume(); s.end(); });
ask("nothing.corp:80", (status, s) => { console.log(status); s.resume(); s.end(); });
`)
		for _, want := range []string{"200 HTTP/1.1 stream1\n", "200 HTTP/1.1 stream2\n", "403\n", "502\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("got %q, want %q in it", out, want)
			}
		}
	})

	t.Run("Chromium", func(t *testing.T) {
		needTool(t, "chromium", "chromium")
		for _, row := range []struct {
			name, flag string
			beside     bool // what is not inside is reached beside the proxy
		}{
			{"SOCKS", "--proxy-server=socks5://" + socksProxy, false},
			{"the PAC file", "--proxy-pac-url=http://" + httpProxy + "/proxy.pac", true},
			{"HTTPS with HTTP/2", "--proxy-server=https://localhost:8443", false},
		} {
			web.loads("")
			beside.loads("")
			url := programSite + "/page"
			if row.beside {
				url += "?outside"
			}
			https := c.httpsCounts()
			dom := w.in(t).chromium(t, row.flag, url)
			if !strings.Contains(dom, "all of it by script") {
				t.Errorf("by %s: got %s", row.name, dom)
			}
			if got := web.loads(programLoads + " ws"); got != programLoads+" ws" {
				t.Errorf("by %s: loaded %s, want %s ws", row.name, got, programLoads)
			}
			if strings.HasPrefix(row.name, "HTTPS") { // the streams of a connection
				before, after := https, c.httpsCounts()
				if conns, reached := after[0]-before[0], after[1]-before[1]; conns >= reached || reached < 2 {
					t.Errorf("by %s: %d connections for %d targets, want fewer of them", row.name, conns, reached)
				}
			}
			if got := beside.loads("beside") != ""; got != row.beside {
				t.Errorf("by %s: beside the proxy: got %v, want %v", row.name, got, row.beside)
			}
		}
	})
}

// httpsCounts returns how many connections the HTTPS port has accepted and how many targets
// were reached by it.
func (c *client) httpsCounts() (counts [2]int) {
	c.t.Helper()
	text := c.counters("https")
	for i, name := range []string{"accepted", "requests"} {
		m := regexp.MustCompile(`(?m)^ ` + name + ` (\d+)`).FindStringSubmatch(text)
		if m == nil {
			c.t.Fatalf("no %s in\n%s", name, text)
		}
		counts[i], _ = strconv.Atoi(m[1])
	}
	return counts
}

// proxyOf says how a WebSocket client asks the proxy.
func proxyOf(connect bool) string {
	if connect {
		return "CONNECT"
	}
	return "GET"
}

// webSocket sends a text by the proxy and returns what comes back: through CONNECT, as
// browsers do it, or by an upgrade of an absolute-form request.
func (w *world) webSocket(how, text string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := w.cli.Dial(ctx, httpProxy)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	host, target := siteName+":"+programPort, "http://"+siteName+":"+programPort+"/ws"
	br := bufio.NewReader(conn)
	if how == "CONNECT" {
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", host)
		if res, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"}); err != nil || res.StatusCode != 200 {
			w.t.Fatalf("CONNECT: %v, %v", res, err)
		}
		target = "/ws"
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", target, host)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		w.t.Fatalf("upgrade: %v, %v", res, err)
	}
	conn.Write(append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)) // masked by zeros
	back := make([]byte, 2+len(text))
	if _, err := io.ReadFull(br, back); err != nil {
		w.t.Fatal(err)
	}
	return string(back[2:])
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

// chromium loads a page without a window, as nobody, and returns what it has become.
func (w *world) chromium(t testing.TB, flag, url string) string {
	t.Helper()
	home, err := os.MkdirTemp(run.dir, "chromium")
	if err == nil {
		err = os.Chown(home, 65534, 65534)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	var stderr strings.Builder
	cmd := w.cli.Command("timeout", "--signal=KILL", "60", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME="+home, "chromium",
		"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-extensions", "--ignore-certificate-errors", "--user-data-dir="+home,
		flag, "--dump-dom", url)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("chromium %s: %v\n%s", flag, err, stderr.String())
	}
	return string(out)
}
