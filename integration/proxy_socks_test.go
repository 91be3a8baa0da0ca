//go:build linux

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mixedProxy is where the client of these tests serves everything.
const mixedProxy = "127.0.0.1:1081"

// mixedFlags are for a client that serves all kinds of proxy on one port.
var mixedFlags = usualFlags.with(flags{"listen": mixedProxy})

// What nobody here wrote, each by the kind of proxy it speaks, through one port to the
// real server: SOCKS4, 4a, 5, 5h and HTTP.
func TestProxyEveryKindOnOnePort(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.StartClient(mixedFlags).WaitUp()

	for _, scheme := range []string{"socks4", "socks4a", "socks5", "socks5h", "http"} {
		t.Run("curl "+scheme, func(t *testing.T) {
			host := siteName
			if scheme == "socks4" || scheme == "socks5" { // resolves by itself, so by nothing
				host = lanGateway
			}
			w.in(t).checkPage(t, scheme+"://"+mixedProxy, "http://"+host+"/")
		})
	}
	t.Run("curl through CONNECT", func(t *testing.T) {
		page, err := w.Curl("--proxytunnel", "--proxy", "http://"+mixedProxy, "--max-time", "10", "http://"+siteName+"/")
		if err != nil || page != sitePage {
			t.Errorf("got %q, %v, want %q", page, err, sitePage)
		}
	})
	t.Run("where a password is asked for", func(t *testing.T) {
		const own = "127.0.0.1:1082"
		w := w.in(t)
		c := w.StartClient(usualFlags.with(flags{"socks5": absent, "http": absent, "listen": own, "proxy-user": "me", "proxy-pass": "pw"}))
		c.WaitLog("tunnel up", upTime)
		for _, login := range []string{"", "me@", "me:pw@"} { // SOCKS4 has no place for a password
			_, err := w.Curl("--proxy", "socks4a://"+login+own, "--max-time", "10", "http://"+siteName+"/")
			if err == nil || !strings.Contains(err.Error(), "(93)") {
				t.Errorf("SOCKS4a as %q: got %v, want it refused with 93", login, err)
			}
		}
		loggedIn(t, w, own)
		for _, scheme := range []string{"socks5h", "http"} {
			w.checkPage(t, scheme+"://me:pw@"+own, "http://"+siteName+"/")
			if _, err := w.Curl("--proxy", scheme+"://me:wrong@"+own, "--max-time", "10", "http://"+siteName+"/"); err == nil {
				t.Errorf("%s: a wrong password lets in", scheme)
			}
		}
		c.WaitLog("level=WARN msg=\"proxy client refused: no such user, or another password\" client=127.0.0.1:", 10*time.Second)
	})
	t.Run("ncat", func(t *testing.T) {
		needTool(t, "ncat", "ncat")
		for _, kind := range []string{"socks4", "socks5", "http"} {
			for _, host := range []string{lanGateway, siteName} {
				out := w.in(t).inside("ncat", "--proxy-type", kind, "--proxy", mixedProxy, host, echoPort, stdin("by "+kind))
				if out != "by "+kind {
					t.Errorf("%s to %s: got %q", kind, host, out)
				}
			}
		}
	})
	t.Run("PySocks", func(t *testing.T) {
		w := w.in(t)
		if out := w.pysocksTCP(t, mixedProxy, "SOCKS4 SOCKS5 HTTP", ""); out != "SOCKS4\nSOCKS5\nHTTP\n" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("proxychains", func(t *testing.T) {
		needTool(t, "proxychains4", "proxychains4")
		for _, kind := range []string{"socks4", "socks5", "http"} {
			conf := filepath.Join(t.TempDir(), "proxychains.conf")
			text := "strict_chain\nproxy_dns\n[ProxyList]\n" + kind + " " + strings.Replace(mixedProxy, ":", " ", 1) + "\n"
			if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			page := w.in(t).inside("proxychains4", "-q", "-f", conf, "curl", "--silent", "--max-time", "10", "http://"+siteName+"/")
			if page != sitePage {
				t.Errorf("%s: got %q, want %q", kind, page, sitePage)
			}
		}
	})
}

// loggedIn has ncat and PySocks log in as curl does.
func loggedIn(t *testing.T, w *world, proxy string) {
	t.Helper()
	needTool(t, "ncat", "ncat")
	for _, kind := range []string{"socks5", "http"} {
		out := w.inside("ncat", "--proxy-type", kind, "--proxy-auth", "me:pw", "--proxy", proxy, siteName, echoPort, stdin("by "+kind))
		if out != "by "+kind {
			t.Errorf("ncat by %s with a password: got %q", kind, out)
		}
	}
	if out := w.pysocksTCP(t, proxy, "SOCKS5 HTTP", `, username="me", password="pw"`); out != "SOCKS5\nHTTP\n" {
		t.Errorf("PySocks with a password: got %q", out)
	}
}

// pysocksTCP has Python send the name of each kind of proxy to be echoed, and print what
// comes back.
func (w *world) pysocksTCP(t testing.TB, proxy, kinds, login string) string {
	t.Helper()
	needFile(t, pysocksLibrary, "python3-socks")
	host, port, _ := strings.Cut(proxy, ":")
	return w.inside("/usr/bin/python3", "-c", `
import socks
for kind in "`+kinds+`".split():
    s = socks.socksocket()
    s.settimeout(10)
    s.set_proxy(getattr(socks, kind), "`+host+`", `+port+login+`)
    s.connect(("`+siteName+`", `+echoPort+`))
    s.sendall(kind.encode())
    print(s.recv(100).decode())
    s.close()
`)
}

// stdin marks the last argument of inside as the program's input.
type stdin string

// inside runs a program in the client's namespace, as a program beside the client, and
// returns what it prints.
func (w *world) inside(args ...any) string {
	w.t.Helper()
	var argv []string
	var input string
	for _, a := range args {
		switch a := a.(type) {
		case stdin:
			input = string(a)
		default:
			argv = append(argv, fmt.Sprint(a))
		}
	}
	cmd := w.cli.Command(append([]string{"timeout", "30"}, argv...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if e, ok := err.(*exec.ExitError); ok {
			stderr = e.Stderr
		}
		w.t.Errorf("%s: %v\n%s%s", strings.Join(argv, " "), err, out, stderr)
	}
	return string(out)
}
