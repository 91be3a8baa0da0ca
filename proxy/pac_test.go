package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func insideCorp() Inside {
	return Inside{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("192.0.2.128/25"), netip.MustParsePrefix("2001:db8:1::/48")},
		Domains:  []string{"Corp.", "lab.example", `</script>"'`, "corp"},
	}
}

// The file needs no login, names the proxy as the client has reached it, and is for the
// proxy's own URL alone.
func TestPACIsServed(t *testing.T) {
	c, pool := secure(t, Config{Dialer: newNever(), Auth: newAuth(t), Inside: insideCorp})
	addr := serve(t, NewMixed(c))
	for _, row := range []struct {
		request string
		tls     bool
		want    string // a part
		status  int
	}{
		{"GET /proxy.pac HTTP/1.1\r\nHost: vpn.test:1080\r\n\r\n", false, `var proxy = "PROXY vpn.test:1080";`, 200},
		{"GET /proxy.pac HTTP/1.1\r\nHost: vpn.test\r\n\r\n", false, `var proxy = "PROXY vpn.test:80";`, 200},
		{"GET /proxy.pac HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", false, `var proxy = "PROXY [::1]:8080";`, 200},
		{"GET /proxy.pac HTTP/1.1\r\nHost: vpn.test\r\n\r\n", true, `var proxy = "HTTPS vpn.test:443";`, 200},
		{"GET /proxy.pac?all HTTP/1.1\r\nHost: vpn.test\r\n\r\n", false, "var all = true;", 200},
		{"GET /proxy.pac HTTP/1.1\r\nHost: vpn.test\r\n\r\n", false, "var all = false;", 200},
		{"GET /proxy.pac HTTP/1.1\r\nHost: vpn.test\r\n\r\n", false, `var domains = ["corp","lab.example",`, 200},
		{"HEAD /proxy.pac HTTP/1.1\r\nHost: vpn.test\r\n\r\n", false, "", 200},
		{"GET /proxy.pac HTTP/1.1\r\nHost: a\"b\r\n\r\n", false, "", 400},
		{"GET http://vpn.test/proxy.pac HTTP/1.1\r\nHost: vpn.test\r\n\r\n", false, "", 407},
		{"POST /proxy.pac HTTP/1.1\r\nHost: vpn.test\r\nContent-Length: 0\r\n\r\n", false, "", 407},
		{"GET / HTTP/1.1\r\nHost: vpn.test\r\n\r\n", false, "", 407},
	} {
		var conn io.ReadWriter = connect(t, addr)
		if row.tls {
			conn = tlsConnect(t, addr, pool)
		}
		io.WriteString(conn, row.request)
		method, _, _ := strings.Cut(row.request, " ")
		res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		if res.StatusCode != row.status || !strings.Contains(string(b), row.want) {
			t.Errorf("%q: got %d %.200q, want %d and %q", row.request, res.StatusCode, b, row.status, row.want)
		}
		if got := res.Header.Get("Content-Type"); row.status == 200 && got != pacType {
			t.Errorf("%q: type %s", row.request, got)
		}
		if strings.Contains(string(b), "</script>") {
			t.Error("a domain breaks out of the script")
		}
	}
}

func TestWithoutInsideThereIsNoPAC(t *testing.T) {
	addr := serve(t, NewHTTP(Config{Dialer: newNever()}))
	c := connect(t, addr)
	send(t, c, "GET /proxy.pac HTTP/1.1\r\nHost: a\r\n\r\n")
	expect(t, c, "HTTP/1.1 400")
}

// What is inside goes by the proxy, the rest does not; no name is looked up to tell.
func TestPACDecides(t *testing.T) {
	node := needTool(t, "node", "nodejs")
	var script strings.Builder
	want := ""
	for _, row := range []struct {
		host string
		in   bool
	}{
		{"files.corp", true}, {"corp", true}, {"FILES.CORP.", true}, {"notcorp.com", false}, {"a.lab.example", true}, {"lab.example.com", false},
		{"intranet", true}, {"localhost", false}, {"a.localhost", false}, {"www.example.com", false},
		{"10.1.2.3", true}, {"10.2.0.1", false}, {"192.0.2.129", true}, {"192.0.2.127", false}, {"127.0.0.1", false},
		{"2001:db8:1::5", true}, {"[2001:db8:1:2::]", true}, {"2001:db8:2::5", false}, {"::1", false}, {"2001:db8:1:0:0:0:0:1", true},
	} {
		fmt.Fprintf(&script, "console.log(FindProxyForURL(%q, %q));\n", "http://"+row.host+"/", row.host)
		if row.in {
			want += "PROXY p:1\n"
		} else {
			want += "DIRECT\n"
		}
	}
	path := filepath.Join(t.TempDir(), "pac.js")
	none := "function isInNet() { throw 1 }\nvar dnsResolve = isInNet, isResolvable = isInNet;\n"
	for _, all := range []bool{false, true} {
		if err := os.WriteFile(path, []byte(none+pacFile("PROXY p:1", insideCorp(), all)+script.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := exec.Command(node, path).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		if !all && string(got) != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		if n := strings.Count(string(got), "DIRECT"); all && n != 4 { // localhost twice, 127.0.0.1 and ::1
			t.Errorf("all: %d are direct:\n%s", n, got)
		}
	}
}
