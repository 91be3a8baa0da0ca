//go:build linux

package integration

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// A userFile is one for -proxy-users. Each user's password is their name.
type userFile struct {
	t    testing.TB
	path string
}

func newUserFile(t testing.TB, w *world, text string) userFile {
	t.Helper()
	f := userFile{t, filepath.Join(w.clientFiles(), "users")}
	f.write(text)
	return f
}

// write puts the hash behind each name that begins a line, and makes the file a new one.
func (f userFile) write(text string) {
	f.t.Helper()
	var b strings.Builder
	for line := range strings.Lines(text) {
		name := strings.TrimSuffix(line, "\n")
		if name != "" && name[0] != ' ' {
			hash, err := bcrypt.GenerateFromPassword([]byte(name), bcrypt.MinCost)
			if err != nil {
				f.t.Fatal(err)
			}
			line = name + ":" + string(hash) + "\n"
		}
		b.WriteString(line)
	}
	if err := os.WriteFile(f.path+".new", []byte(b.String()), 0o644); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		f.t.Fatal(err)
	}
}

// curlStatus returns what curl says of a request by a user: the status of the answer, or of
// a SOCKS proxy the code, as -N.
func (w *world) curlStatus(user, scheme, url string, args ...string) int {
	w.t.Helper()
	proxy := scheme + "://"
	if user != "" {
		proxy += user + ":" + strings.ReplaceAll(user, "+web", "") + "@"
	}
	proxy += httpProxy
	cmd := w.cli.Command(append([]string{"curl", "--silent", "--show-error", "--max-time", "15", "--output", "/dev/null",
		"--write-out", "%{http_code} %{http_connect}", "--proxy", proxy, url}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, _ := cmd.Output()
	var status, connect, code int
	fmt.Sscan(string(out), &status, &connect)
	if i := strings.LastIndex(stderr.String(), "("); strings.HasPrefix(scheme, "socks") && i >= 0 {
		fmt.Sscanf(stderr.String()[i:], "(%d)", &code)
		return -code
	}
	return max(status, connect)
}

// Proves what users may do by what other programs and servers see: rules and limits with
// their codes, by each kind of proxy, and that a file that changes counts.
func TestProxyUsers(t *testing.T) {
	t.Parallel()
	w := newWorldWithoutDHCP(t)
	w.lan.Dnsmasq(usualLease, "--host-record=loop.corp,127.0.0.1", "--host-record=meta.corp,169.254.169.254", "--host-record=far.corp,"+routedHost)
	users := newUserFile(t, w, "alice\nbob\n deny far.corp\n allow .corp 80\n allow 10.201.0.0/16\ncarol\n connections 1\n"+rateUsers)
	c := w.StartClient(usualFlags.with(flags{"socks5": absent, "listen": httpProxy, "proxy-users": users.path, "http": clientAddress + ":8082"}))
	eventually(t, upTime, "the tunnel carries traffic", func() error {
		if got := w.curlStatus("alice", "http", "http://"+siteName+"/"); got != 200 {
			return fmt.Errorf("status %d\n%s", got, c.Log())
		}
		return nil
	})
	t.Run("codes", func(t *testing.T) {
		for _, row := range []struct {
			user, url          string
			http, connect, sox int
		}{
			{"alice", "http://" + siteName + "/", 200, 200, 0},
			{"alice", "http://" + routedHost + "/", 200, 200, 0},
			{"", "http://" + siteName + "/", 407, 407, 0},
			{"mallory", "http://" + siteName + "/", 407, 407, 0},
			{"bob", "http://" + siteName + "/", 200, 200, 0},
			{"bob", "http://" + siteName + ":7/", 403, 403, -2},
			{"bob", "http://" + lanGateway + "/", 403, 403, -2},
			{"bob", "http://" + routedHost + "/", 200, 200, 0},
			{"bob", "http://far.corp/", 403, 403, -2}, // its address would do
			{"alice", "http://loop.corp/", 403, 403, -2},
			{"alice", "http://meta.corp/", 403, 403, -2},
			{"alice", "http://127.0.0.1/", 403, 403, -2},
			{"alice", "http://169.254.169.254/", 403, 403, -2},
			{"alice", "http://nothing.corp/", 502, 502, -4},
		} {
			if got := w.curlStatus(row.user, "http", row.url); got != row.http {
				t.Errorf("%s to %s by HTTP: got %d, want %d", row.user, row.url, got, row.http)
			}
			if got := w.curlStatus(row.user, "http", row.url, "--proxytunnel"); got != row.connect {
				t.Errorf("%s to %s by CONNECT: got %d, want %d", row.user, row.url, got, row.connect)
			}
			if row.http == 407 {
				continue // curl gives no code
			}
			got := w.curlStatus(row.user, "socks5h", row.url)
			if got > 0 {
				got = 0 // there was an answer
			}
			if got != row.sox {
				t.Errorf("%s to %s by SOCKS5: got %d, want %d", row.user, row.url, got, row.sox)
			}
		}
	})
	t.Run("the proxy itself", func(t *testing.T) {
		const self = clientAddress + ":8082"
		for _, args := range [][]string{nil, {"--proxytunnel"}} {
			if got := w.curlStatus("alice", "http", "http://"+self+"/", append(args, "--proxy", "http://alice:alice@"+self)...); got != 508 {
				t.Errorf("%v: got %d, want 508", args, got)
			}
		}
	})
	t.Run("a limit of connections", func(t *testing.T) {
		conn, status := w.connectAs(t, "carol", lanGateway+":"+echoPort)
		if status != 200 {
			t.Fatalf("the first: %d", status)
		}
		if got := w.curlStatus("carol", "http", "http://"+siteName+"/"); got != 429 {
			t.Errorf("a second by HTTP: got %d, want 429", got)
		}
		if got := w.curlStatus("carol", "socks5h", "http://"+siteName+"/"); got != -2 {
			t.Errorf("a second by SOCKS5: got %d, want -2", got)
		}
		conn.Close()
		eventually(t, 5*time.Second, "the first is counted out", func() error {
			if got := w.curlStatus("carol", "http", "http://"+siteName+"/"); got != 200 {
				return fmt.Errorf("got %d", got)
			}
			return nil
		})
	})
	t.Run("a rate", func(t *testing.T) {
		begun := time.Now()
		if got := w.curlStatus("dave", "http", "http://"+siteName+"/zeros/300000"); got != 200 {
			t.Fatalf("got %d", got)
		}
		if took := time.Since(begun); took < 2*time.Second {
			t.Errorf("300 kB at 100 kB/s took %v", took)
		}
	})
	w.checkRates(t, c)
	t.Run("a file that changes", func(t *testing.T) {
		kept, _ := w.connectAs(t, "alice", lanGateway+":"+echoPort)
		lost, _ := w.connectAs(t, "carol", lanGateway+":"+echoPort)
		text, err := os.ReadFile(users.path)
		if err != nil {
			t.Fatal(err)
		}
		alice, _, _ := strings.Cut(string(text), "\n")
		if err := os.WriteFile(users.path, []byte("alice\n"), 0o644); err != nil { // broken
			t.Fatal(err)
		}
		c.Signal(syscall.SIGHUP)
		c.WaitLog("neither NAME:HASH", 5*time.Second)
		if got := w.curlStatus("alice", "http", "http://"+siteName+"/"); got != 200 {
			t.Errorf("with a broken file: got %d, want 200", got)
		}
		needTool(t, "htpasswd", "apache2-utils")
		htpasswd := exec.Command("htpasswd", "-niB", "erin")
		htpasswd.Stdin = strings.NewReader("erin\n")
		erin, err := htpasswd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(users.path, []byte(alice+"\n"+string(erin)), 0o644); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "the new user is let in without a signal", func() error {
			if got := w.curlStatus("erin", "http", "http://"+siteName+"/"); got != 200 {
				return fmt.Errorf("got %d", got)
			}
			return nil
		})
		if got := w.curlStatus("carol", "http", "http://"+siteName+"/"); got != 407 {
			t.Errorf("who was taken out: got %d, want 407", got)
		}
		lost.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := lost.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("the connection of who was taken out: %v", err)
		}
		kept.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(kept, "x")
		if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
			t.Errorf("the connection of who stayed: %v", err)
		}
	})
}

// connectAs opens a tunnel as a user, and returns the status of the answer.
func (w *world) connectAs(t testing.TB, user, target string) (net.Conn, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := w.cli.Dial(ctx, httpProxy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\nProxy-Authorization: Basic %s\r\n\r\n", target,
		base64.StdEncoding.EncodeToString([]byte(user+":"+user)))
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Time{})
	return conn, res.StatusCode
}

// Proves that users are hosts of their own on the real hub: the server behind it sees other
// addresses for each, of both families, and the same for the same one, also of the next run;
// so do receivers of datagrams, and who connects to a user.
func TestIsolatedUsers(t *testing.T) {
	t.Parallel()
	w := newWorld6(t)
	w.srv.Policy(userName, "NoBridge", "yes") // as the official tools make users
	users := newUserFile(t, w, "alice\nbob\ncarol\n mac 5e:00:00:00:00:07\n")
	f := usualFlags.with(flags{"socks5": absent, "http": absent, "listen": httpProxy, "proxy-users": users.path, "isolate-users": "true"})
	for _, row := range []struct {
		name   string
		ranges string // of dnsmasq
		six    string // how IPv6 addresses begin then
		runs   int
	}{
		{"by a router", lanPrefix6 + ":,slaac,64", lanPrefix6, 2},
		{"by DHCPv6", lanPrefix6 + ":1000," + lanPrefix6 + ":1fff,64,10m", lanPrefix6 + ":1", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			if w.lan.dhcp != nil {
				w.lan.dhcp.Kill()
			}
			w.lan.Dnsmasq(usualLease, append([]string{"--enable-ra", "--dhcp-range=" + row.ranges}, names6...)...)
			seen := make(map[string]string) // by user and host
			for n := range row.runs {
				c := w.in(t).StartClient(f)
				c.WaitLog("tunnel up", upTime)
				var coming sync.WaitGroup
				for _, user := range []string{"alice", "bob", "alice+web"} { // they come side by side
					coming.Go(func() { _, _ = w.seenOf(user, "http", inside6) })
				}
				coming.Wait()
				for _, user := range []string{"alice", "bob", "alice+web", "alice"} {
					w.in(t).addressesOf(user, row.six, seen)
					w.in(t).checkOwnAddress(user, seen[user+" "+siteName], netip.MustParseAddr(lanGateway))
					w.in(t).checkOwnAddress(user, seen[user+" "+inside6], netip.MustParseAddr(lanGateway6))
				}
				if n == 0 {
					// The policy allows three stations in a session; a fourth is told so.
					if got := w.curlStatus("carol", "http", "http://"+siteName+"/whoami"); got != 403 {
						t.Errorf("one station too many: got %d, want 403", got)
					}
					c.WaitLog("NoBridge", 5*time.Second)
				}
				c.Terminate()
				if code := c.ExitCode(15 * time.Second); code != 0 {
					t.Errorf("run %d: exit code %d", n, code)
				}
				eventually(t, 5*time.Second, "the addresses are given back", func() error {
					if n4, n6 := w.lan.Saw("DHCPRELEASE(br0) 10."), w.lan.Saw("DHCPRELEASE(br0) 00:03"); n4 < 3*(n+1) || row.runs == 1 && n6 < 3 {
						return fmt.Errorf("%d of IPv4 and %d of IPv6 so far", n4, n6)
					}
					return nil
				})
			}
			different := make(map[string]bool)
			for _, addr := range seen {
				different[addr] = true
			}
			if len(seen) != 6 || len(different) != 6 {
				t.Errorf("addresses: got %v, want six", seen)
			}
		})
	}
}

// addressesOf notes which addresses the server sees for a user, which must be those that were
// seen before.
func (w *world) addressesOf(user, six string, seen map[string]string) {
	w.t.Helper()
	for _, host := range []string{inside6, siteName} { // IPv6 first, which comes last
		for _, scheme := range []string{"http", "socks5h"} {
			var got string
			eventually(w.t, upTime, user+" gets through to "+host, func() (err error) {
				got, err = w.seenOf(user, scheme, host)
				return err
			})
			if host == inside6 && (!strings.HasPrefix(got, six) || strings.Contains(got, "ff:fe")) {
				w.t.Errorf("%s is %s, want an address in %s that does not tell the MAC address", user, got, six)
			}
			if was := seen[user+" "+host]; was != "" && was != got {
				w.t.Errorf("%s is now %s, was %s", user, got, was)
			}
			seen[user+" "+host] = got
		}
	}
}

// seenOf returns the address that a server sees for a user.
func (w *world) seenOf(user, scheme, host string) (string, error) {
	return w.Curl("--max-time", "15", "--proxy", scheme+"://"+user+":"+strings.TrimSuffix(user, "+web")+"@"+httpProxy, "http://"+host+"/whoami")
}

// checkOwnAddress checks that what a user sends to a host by UDP ASSOCIATE comes from an
// address, and that BIND awaits the host there.
func (w *world) checkOwnAddress(user, want string, host netip.Addr) {
	w.t.Helper()
	peer := w.lan.ns.ListenPacket(netip.AddrPortFrom(host, 0).String())
	control := w.socks5As(user, []byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
	defer control.Close()
	relay := net.UDPAddrFromAddrPort(readBound(w.t, control))
	sock := w.cli.ListenPacket("127.0.0.1:0")
	if _, err := sock.WriteTo(datagramTo(peer.LocalAddr().(*net.UDPAddr).AddrPort(), 0, "from "+user), relay); err != nil {
		w.t.Fatal(err)
	}
	b := make([]byte, 100)
	peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, from, err := peer.ReadFrom(b)
	if err != nil || string(b[:n]) != "from "+user || from.(*net.UDPAddr).IP.String() != want {
		w.t.Errorf("%s by UDP: got %q from %v, %v, want it from %s", user, b[:n], from, err, want)
	}
	bind := append([]byte{5, 2}, datagramTo(netip.AddrPortFrom(host, 21), 0, "")[2:]...) // which has the same in it
	awaits := w.socks5As(user, bind)
	defer awaits.Close()
	at := readBound(w.t, awaits)
	if at.Addr().String() != want {
		w.t.Errorf("%s by BIND: awaited at %v, want %s", user, at, want)
	}
	server, err := w.lan.dialFrom(host.String(), at.String())
	if err != nil {
		w.t.Fatalf("connect to %s: %v", user, err)
	}
	defer server.Close()
	if from := readBound(w.t, awaits); from.String() != server.LocalAddr().String() {
		w.t.Errorf("%s by BIND: told of %v, want %v", user, from, server.LocalAddr())
	}
	io.WriteString(server, user)
	if n, err := io.ReadFull(awaits, b[:len(user)]); err != nil || string(b[:n]) != user {
		w.t.Errorf("%s by BIND: got %q, %v", user, b[:n], err)
	}
}

// socks5As logs in to the proxy as a user (RFC 1929), and sends it a request.
func (w *world) socks5As(user string, request []byte) net.Conn {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := w.cli.Dial(ctx, httpProxy)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	password, _, _ := strings.Cut(user, "+")
	login := append(append([]byte{1, byte(len(user))}, user...), byte(len(password)))
	conn.Write(slices.Concat([]byte{5, 1, 2}, login, []byte(password), request))
	answer := make([]byte, 2+2)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[1] != 2 || answer[3] != 0 {
		w.t.Fatalf("%s logs in: got %v, %v", user, answer, err)
	}
	return conn
}
