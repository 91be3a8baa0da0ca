//go:build linux

package integration

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	proxyUser     = "me"
	proxyPassword = "pr0xy-p4ss"
	// hiddenHost is a name of the server that only the proxies know.
	hiddenHost = "hidden.test"
	proxyExit  = "203.0.113.20" // what dante connects from

	httpPort, socksPort, socksLoginPort = "3128", "1080", "1081" // of the proxies before the server
)

// proxyLogin is an account for dante, which asks the system: the shadow line of
// proxyPassword, by openssl passwd -6.
const proxyLogin = proxyUser + `:$6$softether$IRYDxnKQ2M5eoDEbhTbLrBz31ro/MQVERrwnPRPZ11FvBbmpcMq4Vs4kqSW6m4kbe9n3EkKiiGTEkzqi5.bcj.:19000:0:99999:7:::`

// A proxiedWorld has a server that its client has no route to, and real proxies that
// have: tinyproxy and two of dante's, one of which wants a login.
type proxiedWorld struct {
	*world
	tiny, dante, danteLogin *process
}

func newProxiedWorld(t testing.TB) *proxiedWorld {
	t.Helper()
	needTool(t, "tinyproxy", "tinyproxy-bin")
	needTool(t, "danted", "dante-server")
	w := newWorld(t)
	for _, a := range []string{farServer, proxyExit} {
		w.srv.ns.IP("address", "add", a+"/32", "dev", "lo")
	}
	p := &proxiedWorld{world: w}
	p.tiny = p.startProxy("tinyproxy", httpPort, `exec tinyproxy -d -c "$1/tinyproxy.conf"`)
	p.dante = p.startProxy("dante", socksPort, `exec danted -f "$1/dante.conf"`)
	p.danteLogin = p.startProxy("dante-login", socksLoginPort, `exec danted -f "$1/dante-login.conf"`)
	return p
}

// proxyFiles are what the proxies read, in a directory of their own.
func (p *proxiedWorld) proxyFiles() string {
	p.t.Helper()
	dir := filepath.Join(run.dir, p.srv.ns.name, "proxies")
	dante := func(port, method string) string {
		return fmt.Sprintf(`
logoutput: stdout
errorlog: stdout
internal: 0.0.0.0 port = %s
external: %s
clientmethod: none
socksmethod: %s
user.privileged: root
user.unprivileged: root
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: %s/32 port = %s
 command: connect
 log: connect error }
socks block { from: 0.0.0.0/0 to: 0.0.0.0/0
 log: connect error }
`, port, proxyExit, method, farServer, serverPort)
	}
	files := map[string]string{
		"tinyproxy.conf": fmt.Sprintf("Port %s\nTimeout 600\nBasicAuth %s %s\nConnectPort %s\nConnectPort 5556\nMaxClients 20\nLogLevel Connect\n",
			httpPort, proxyUser, proxyPassword, serverPort),
		"dante.conf":       dante(socksPort, "none"),
		"dante-login.conf": dante(socksLoginPort, "username"),
		"hosts":            "127.0.0.1 localhost\n" + farServer + " " + hiddenHost + "\n",
		"passwd":           "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n" + proxyUser + ":x:1000:1000::/:/bin/false\n",
		"shadow":           proxyLogin + "\n",
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
	return dir
}

// startProxy runs a proxy beside the server, with accounts and names of its own.
func (p *proxiedWorld) startProxy(name, port, script string) *process {
	p.t.Helper()
	dir := p.proxyFiles()
	const own = `set -e
mount -t tmpfs tmpfs /run
for f in hosts passwd shadow; do mount --bind "$1/$f" /etc/$f; done
`
	proxy := start(p.t, name, p.srv.ns.Command("sh", "-c", own+script, "sh", dir))
	eventually(p.t, 20*time.Second, name+" listens", func() error {
		c, err := p.cli.Dial(p.t.Context(), serverAddress+":"+port)
		if err == nil {
			c.Close()
		}
		return err
	})
	return proxy
}

// proxyFlags are those of a client that reaches the far server only through a proxy.
var proxyFlags = usualFlags.with(flags{"host": farServer})

// proxyPasswordFile holds the proxies' password, or another.
func proxyPasswordFile(t testing.TB, password string) string {
	t.Helper()
	path := filepath.Join(run.dir, fmt.Sprintf("proxy-password-%d", logNumber.Add(1)))
	if err := os.WriteFile(path, []byte(password+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Proves each kind of proxy with a real one, by a page that came through and by the
// proxy's own word for it; there is no other way to the server.
func TestThroughRealProxies(t *testing.T) {
	t.Parallel()
	w := newProxiedWorld(t)
	const http, socks, login = serverAddress + ":" + httpPort, serverAddress + ":" + socksPort, serverAddress + ":" + socksLoginPort
	password := proxyPasswordFile(t, proxyPassword)
	for _, row := range []struct {
		name   string
		flags  flags
		proxy  *process
		proves string // in the proxy's log
	}{
		{"HTTP with a password from a file", flags{"proxy": "http://" + proxyUser + "@" + http, "proxy-url-pass-file": password},
			w.tiny, `CONNECT ` + farServer + `:443`},
		{"HTTP by name, with a login of our own making", flags{"host": hiddenHost, "proxy": "http://" + http,
			"proxy-header": "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(proxyUser+":"+proxyPassword))},
			w.tiny, `CONNECT ` + hiddenHost + `:443`},
		{"SOCKS4", flags{"proxy": "socks4://" + socks}, w.dante, `tcp/connect.*: .*` + farServer + `.443`},
		{"SOCKS4A, but not by name, which dante does not do", flags{"proxy": "socks4a://" + socks}, w.dante, `tcp/connect.*: .*` + farServer + `.443`},
		{"SOCKS5", flags{"proxy": "socks5://" + socks}, w.dante, `tcp/connect.*: .*` + farServer + `.443`},
		{"SOCKS5 by name, with a login", flags{"host": hiddenHost, "proxy": "socks5h://" + proxyUser + "@" + login, "proxy-url-pass-file": password},
			w.danteLogin, `tcp/connect.*username%` + proxyUser + `@.*` + farServer + `.443`},
	} {
		t.Run(row.name, func(t *testing.T) {
			seen := len(row.proxy.Log())
			c := w.in(t).StartClient(proxyFlags.with(row.flags))
			c.WaitUp()
			row.proxy.WaitLogAfter(seen, row.proves, 10*time.Second)
			c.Terminate()
			if strings.Contains(c.Log(), proxyPassword) {
				t.Errorf("the log shows the proxy's password:\n%s", c.Log())
			}
		})
	}
}

// Proves that HTTPS_PROXY and NO_PROXY count when asked for, and only then.
func TestTheEnvironmentsProxy(t *testing.T) {
	t.Parallel()
	w := newProxiedWorld(t)
	env := func(more ...string) []string {
		return append([]string{"HTTPS_PROXY=http://" + proxyUser + ":" + proxyPassword + "@" + serverAddress + ":" + httpPort}, more...)
	}
	startWith := func(t *testing.T, f flags, env []string) *client {
		cmd := w.in(t).clientCommand(f.args()...)
		cmd.Env = append(cmd.Env, env...)
		return &client{process: start(t, "softether-go", cmd), w: w.in(t)}
	}
	asked := proxyFlags.with(flags{"proxy-from-env": "true"})
	t.Run("asked for", func(t *testing.T) {
		seen := len(w.tiny.Log())
		c := startWith(t, asked, env())
		c.WaitUp()
		w.tiny.WaitLogAfter(seen, `CONNECT `+farServer+`:443`, 10*time.Second)
		if strings.Contains(c.Log(), proxyPassword) {
			t.Errorf("the log shows the proxy's password:\n%s", c.Log())
		}
		c.Terminate()
	})
	t.Run("asked for, but not for this server", func(t *testing.T) {
		c := startWith(t, asked, env("NO_PROXY=203.0.113.0/24"))
		c.WaitLog(`not connected.*network is unreachable`, upTime)
	})
	t.Run("not asked for", func(t *testing.T) {
		c := startWith(t, proxyFlags, env())
		c.WaitLog(`not connected.*network is unreachable`, upTime)
	})
}

// Proves that what a proxy refuses is said in one line, and ends the program where
// another attempt makes no sense.
func TestWhatRealProxiesRefuse(t *testing.T) {
	t.Parallel()
	w := newProxiedWorld(t)
	const http, socks, login = serverAddress + ":" + httpPort, serverAddress + ":" + socksPort, serverAddress + ":" + socksLoginPort
	right, wrong := proxyPasswordFile(t, proxyPassword), proxyPasswordFile(t, "wrong-pass")
	for _, row := range []struct {
		name  string
		flags flags
		ends  bool
		words string
	}{
		{"HTTP without a login", flags{"proxy": "http://" + http}, true, `proxy http://` + http + `: it wants a user and password \(40[17]`},
		{"HTTP with a wrong password", flags{"proxy": "http://" + proxyUser + "@" + http, "proxy-url-pass-file": wrong}, true, `refuses our user and password \(40[17]`},
		{"SOCKS5 without a login", flags{"proxy": "socks5://" + login}, true, `wants a user and password`},
		{"SOCKS5 with a wrong password", flags{"proxy": "socks5://" + proxyUser + "@" + login, "proxy-url-pass-file": wrong}, true, `refuses our user and password`},

		{"HTTP to a port that it does not allow", flags{"port": "992", "proxy": "http://" + proxyUser + "@" + http, "proxy-url-pass-file": right}, false,
			`does not allow connections to ` + farServer + `:992 \(403 Forbidden\): try another port`},
		{"HTTP to a port where nobody is", flags{"port": "5556", "proxy": "http://" + proxyUser + "@" + http, "proxy-url-pass-file": right}, false,
			`cannot reach ` + farServer + `:5556 \(50`},
		{"SOCKS5 to a port that it does not allow", flags{"port": "992", "proxy": "socks5://" + socks}, false,
			`does not allow connections to ` + farServer + `:992 \(SOCKS5 code 2\)`},
		{"SOCKS4 to a port that it does not allow", flags{"port": "992", "proxy": "socks4://" + socks}, false,
			`refuses or cannot reach ` + farServer + `:992 \(SOCKS4 code 91\)`},
		{"SOCKS5 to an HTTP proxy, which waits for more", flags{"proxy": "socks5://" + http}, false,
			`took the connection and did not answer in time; does it reach the server, and are the scheme and port`},
		{"HTTP to a SOCKS proxy", flags{"proxy": "http://" + socks}, false, `(does not answer as an HTTP proxy|without an answer)`},
		{"https to a server whose certificate nobody knows", flags{"proxy": "https://" + serverAddress + ":" + serverPort}, true, `its certificate is not trusted`},
		{"a port where nobody is", flags{"proxy": "http://" + serverAddress + ":9"}, false, `proxy http://` + serverAddress + `:9: dial tcp .*connection refused`},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).StartClient(proxyFlags.with(row.flags))
			c.WaitLog(row.words, upTime)
			if row.ends {
				if got := c.ExitCode(promptly); got != exitRefused {
					t.Errorf("exit code: got %d, want %d", got, exitRefused)
				}
			} else if !c.Running() {
				t.Error("the program has ended, and another attempt might have got through")
			}
			for _, secret := range []string{proxyPassword, "wrong-pass"} {
				if strings.Contains(c.Log(), secret) {
					t.Errorf("the output shows the password %q:\n%s", secret, c.Log())
				}
			}
		})
	}
}

// Proves that with everything in the tunnel the way to the proxy stays beside it, also
// when the session is lost.
func TestTAPThroughAProxy(t *testing.T) {
	t.Parallel()
	w := newProxiedWorld(t)
	r := beyondProxy(w)
	c := r.Up(t, tapFlags.with(flags{"host": hiddenHost, "accept-default-gateway": "true",
		"proxy": "http://" + proxyUser + "@" + proxyExit + ":" + httpPort, "proxy-url-pass-file": proxyPasswordFile(t, proxyPassword)}))
	for range 2 {
		r.wantPage(t, internetHost, sitePage)
		r.wantRoute(t, proxyExit, "via "+serverAddress+" dev eth0")
		r.wantRoute(t, farServer, "dev "+tapName) // which only the proxy goes to
		c.Reconnect()
	}
}

// beyondProxy puts an Internet of one host on both sides, and the proxies beyond the
// client's gateway.
func beyondProxy(w *proxiedWorld) *routedWorld {
	w.t.Helper()
	w.srv.ns.IP("address", "add", internetHost+"/32", "dev", "lo")
	w.lan.ns.IP("address", "add", internetHost+"/32", "dev", "lo")
	w.cli.IP("route", "add", "default", "via", serverAddress, "metric", "100")
	servePage(w.srv.ns, besidePage)
	return &routedWorld{w.world}
}

// Proves that a command's own network comes by the proxy too, wherever its settings
// are from, and that the command learns no password by it.
func TestRunThroughAProxy(t *testing.T) {
	t.Parallel()
	w := newProxiedWorld(t)
	const login = serverAddress + ":" + httpPort
	for _, row := range []struct {
		name  string
		flags flags
		env   string
	}{
		{"by flags", flags{"proxy": "http://" + proxyUser + "@" + login, "proxy-url-pass-file": proxyPasswordFile(t, proxyPassword)}, "LC_ALL=C"},
		{"by a variable of ours", nil, "SOFTETHER_PROXY=http://" + proxyUser + ":" + proxyPassword + "@" + login},
	} {
		t.Run(row.name, func(t *testing.T) {
			cmd := w.in(t).RunCommand(runFlags.with(flags{"host": farServer}).with(row.flags),
				"sh", "-c", "env; exec curl --silent --show-error --fail --max-time 10 http://"+w.siteAddress()+"/")
			cmd.Env = append(cmd.Env, row.env)
			out, errs, code := finish(t, cmd)
			if code != 0 || !strings.HasSuffix(out, sitePage) {
				t.Errorf("code %d, got %s\n%s, want the page", code, out, errs)
			}
			if strings.Contains(out+errs, proxyPassword) {
				t.Errorf("the command or the log shows the proxy's password:\n%s\n%s", out, errs)
			}
		})
	}
	t.Run("by the variable of many programs", func(t *testing.T) {
		cmd := w.in(t).RunCommand(runFlags.with(flags{"host": farServer, "proxy-from-env": "true"}),
			"curl", "--noproxy", "*", "--silent", "--show-error", "--fail", "--max-time", "10", "http://"+w.siteAddress()+"/")
		cmd.Env = append(cmd.Env, "HTTPS_PROXY=http://"+proxyUser+":"+proxyPassword+"@"+login)
		if out, errs, code := finish(t, cmd); code != 0 || out != sitePage {
			t.Errorf("code %d, got %s\n%s, want the page", code, out, errs)
		}
	})
}
