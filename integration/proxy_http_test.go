//go:build linux

package integration

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
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
		for _, kind := range []string{"socks4a://" + socksProxy, "socks5://" + socksProxy, "socks5h://" + socksProxy, proxy, secure} {
			by := func(args ...string) string {
				t.Helper()
				// Names are resolved here with socks5 alone, where no name server is.
				return curl(append(args, "--proxy", kind, "--resolve", "files.corp:"+programPort+":"+lanGateway,
					"--resolve", "files.corp:"+programTLS+":"+lanGateway)...)
			}
			if got, want := by("--http2", "https://files.corp:"+programTLS+"/"), "HTTP/2.0 files.corp:8443\n"; got != want {
				t.Errorf("HTTP/2 by %s: got %q, want %q", kind, got, want)
			}
			if got := by("--upload-file", file, programSite+"/sink"); got != sum {
				t.Errorf("upload by %s: got %q, want %q", kind, got, sum)
			}
			if got := by("--header", "Transfer-Encoding: chunked", "--upload-file", file, programSite+"/sink"); got != sum+"chunked" {
				t.Errorf("upload of unknown length by %s: got %q, want %q", kind, got, sum+"chunked")
			}
			part := filepath.Join(t.TempDir(), "part")
			by("--range", "0-99999", "--output", part, programSite+"/ranged")
			by("--continue-at", "-", "--output", part, programSite+"/ranged")
			got, err := os.ReadFile(part)
			if err != nil || fmt.Sprintf("%x", sha256.Sum256(got)) != sumOf("ranged", rangedSize) {
				t.Errorf("a download that was resumed by %s: got %d bytes, %v", kind, len(got), err)
			}
		}
	})

	t.Run("Python", func(t *testing.T) {
		needTool(t, "/usr/bin/python3", "python3")
		out := w.in(t).inside("env", "http_proxy="+proxy, "https_proxy="+proxy, "/usr/bin/python3", "-c", `
import http.client, ssl, urllib.request
print(urllib.request.urlopen("http://files.corp:8000/").read().decode(), end="")
context = ssl.create_default_context(cafile="`+ca.file+`")
print(urllib.request.urlopen("https://files.corp:8443/", context=context).read().decode(), end="")
tunnel = http.client.HTTPConnection("`+httpProxy+`")
tunnel.set_tunnel("files.corp", 8000)
tunnel.request("GET", "/")
print(tunnel.getresponse().read().decode(), end="")
`)
		if want := "HTTP/1.1 files.corp:8000\nHTTP/1.1 files.corp:8443\nHTTP/1.1 files.corp:8000\n"; out != want {
			t.Errorf("got %q, want %q", out, want)
		}
	})

	t.Run("WebSocket", func(t *testing.T) {
		for _, connect := range []bool{false, true} {
			if got := w.in(t).webSocket(proxyOf(connect), "hello"); got != "hello" {
				t.Errorf("through CONNECT %v: got %q", connect, got)
			}
		}
		needFile(t, "/usr/lib/python3/dist-packages/websocket/__init__.py", "python3-websocket")
		needFile(t, pysocksLibrary, "python3-socks")
		out := w.in(t).inside("/usr/bin/python3", "-c", `
import socks, websocket
def echo(text, **how):
    ws = websocket.create_connection("ws://files.corp:8000/ws", timeout=10, **how)
    ws.send(text)
    print(ws.recv())
    ws.close()
def by(kind):
    s = socks.socksocket()
    s.set_proxy(kind, "127.0.0.1", 1080)
    s.connect(("files.corp", 8000))
    return s
echo("by CONNECT", http_proxy_host="127.0.0.1", http_proxy_port=8080)
echo("by SOCKS4a", socket=by(socks.SOCKS4))
echo("by SOCKS5", socket=by(socks.SOCKS5))
`)
		if want := "by CONNECT\nby SOCKS4a\nby SOCKS5\n"; out != want {
			t.Errorf("websocket-client: got %q, want %q", out, want)
		}
	})

	t.Run("what targets are told", func(t *testing.T) {
		for _, row := range []struct{ policy, want string }{
			{"hide", "^HTTP/1.1 200 OK\r\n(?:[^V].*\r\n)+\r\n[|]$"},
			{"all", `\r\nVia: 1\.1 softether-go-.{8}\r\n(?s:.*)\r\n1\.0 far, 1\.1 softether-go-.{8}[|]for=127\.0\.0\.1;proto=http$`},
		} {
			w := w.in(t)
			c := w.StartClient(usualFlags.with(flags{"http": "127.0.0.1:8081", "socks5": absent, "http-announce": row.policy}))
			c.WaitLog("tunnel up", upTime)
			out, err := w.Curl("--proxy", "http://127.0.0.1:8081", "--max-time", "10", "--include", "--header", "Via: 1.0 far", programSite+"/told")
			if err != nil || !regexp.MustCompile(row.want).MatchString(out) {
				t.Errorf("%s: got %q, %v, want %s", row.policy, out, err, row.want)
			}
			c.Terminate()
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
