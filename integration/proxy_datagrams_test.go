//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const otherHost = "10.200.0.2" // a second address in the LAN

// dante returns what runs a program by socksify, a SOCKS client that nobody here wrote, of
// the version socks_v4 or socks_v5.
func (w *world) dante(version, protocols string) []any {
	w.t.Helper()
	needTool(w.t, "socksify", "dante-client")
	host, port, _ := net.SplitHostPort(mixedProxy)
	conf := filepath.Join(w.t.TempDir(), "socks.conf")
	text := fmt.Sprintf(`resolveprotocol: fake
route {
	from: 0.0.0.0/0 to: 127.0.0.0/8 via: direct
}
route {
	from: 0.0.0.0/0 to: 0.0.0.0/0 via: %s port = %s
	proxyprotocol: %s
	protocol: %s
	method: none
}
`, host, port, version, protocols)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return []any{"env", "SOCKS_CONF=" + conf, "socksify"}
}

const pysocksLibrary = "/usr/lib/python3/dist-packages/socks.py"

// pysocks returns what runs a task of testdata/socksudp.py.
func (w *world) pysocks(task ...any) []any {
	w.t.Helper()
	needFile(w.t, pysocksLibrary, "python3-socks")
	_, port, _ := net.SplitHostPort(mixedProxy)
	return append([]any{"/usr/bin/python3", "testdata/socksudp.py", port}, task...)
}

// counters has the client write its counters and returns one section of them, the first of a name.
func (c *client) counters(section string) string {
	c.t.Helper()
	before := len(c.Log())
	c.Signal(syscall.SIGUSR1)
	c.WaitLogAfter(before, `(?m)^process\n(  .*\n)+`, 10*time.Second)
	m := regexp.MustCompile(`(?m)^` + section + `(?: .*)?\n((  .*\n)*)`).FindStringSubmatch(c.Log()[before:])
	if m == nil {
		c.t.Fatalf("no counters of %s", section)
	}
	return regexp.MustCompile(` +`).ReplaceAllString(m[1], " ")
}

// turn is coturn as a STUN server at two addresses and ports, as RFC 5780 wants it.
func (l *lan) turn() {
	l.t.Helper()
	needTool(l.t, "turnserver", "coturn")
	l.ns.IP("address", "add", otherHost+"/24", "dev", "br0")
	dir := l.t.TempDir()
	p := start(l.t, "turnserver", l.ns.Command("turnserver", "-n", "--stun-only", "-L", lanGateway, "-L", otherHost,
		"--listening-port", "3478", "--alt-listening-port", "3479", "--no-tls", "--no-dtls", "--no-cli",
		"--log-file", "stdout", "--pidfile", filepath.Join(dir, "pid"), "--userdb", filepath.Join(dir, "db")))
	eventually(l.t, 10*time.Second, "coturn listens", func() error {
		out, err := l.ns.Command("ss", "-Huln", "sport = :3479").Output()
		if err == nil && strings.Count(string(out), "\n") < 2 {
			err = errors.New("not yet")
		}
		if !p.Running() {
			l.t.Fatalf("coturn has ended:\n%s", p.Log())
		}
		return err
	})
}

// Stock programs over UDP ASSOCIATE: DNS, STUN in all its questions about the kind of NAT,
// flows like QUIC's, the largest datagrams; and what is hostile in between.
func TestProxyUDP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.lan.turn()
	echo := w.lan.ns.ListenPacket("0.0.0.0:" + echoPort)
	go echoDatagrams(echo)
	c := w.StartClient(mixedFlags)
	c.WaitUp()

	t.Run("DNS by drill", func(t *testing.T) {
		needTool(t, "drill", "ldnsutils")
		w := w.in(t)
		if out := w.inside(append(w.dante("socks_v5", "udp"), "drill", siteName, "@"+lanGateway)...); !strings.Contains(out, "IN\tA\t"+lanGateway) {
			t.Errorf("got %s", out)
		}
	})
	t.Run("coturn's client says who may answer", func(t *testing.T) {
		w := w.in(t)
		out := w.inside(append(w.dante("socks_v5", "udp"), "turnutils_natdiscovery", "-f", "-p", "3478", lanGateway)...)
		if !strings.Contains(out, "NAT with Endpoint Independent Filtering!") || !strings.Contains(out, "Response origin: : "+otherHost+":3479") {
			t.Errorf("got %s", out)
		}
	})
	t.Run("STUN servers see one address", func(t *testing.T) {
		w := w.in(t)
		out := w.inside(w.pysocks("stun", lanGateway, otherHost)...)
		want := regexp.MustCompile(`^mapped 10\.200\.0\.\d+:\d+\nanswered by ` + regexp.QuoteMeta(otherHost+":3479") + " same\n$")
		if !want.MatchString(out) {
			t.Errorf("got %q, want a match of %s", out, want)
		}
	})
	t.Run("flows", func(t *testing.T) {
		for _, tt := range []struct {
			host        string
			size, count int
		}{{lanGateway, 1200, 3000}, {siteName, 1200, 1000}, {lanGateway, 9000, 100}, {lanGateway, 65507 - 10, 20}} {
			w := w.in(t)
			out := w.inside(w.pysocks("echo", tt.host, tt.size, tt.count)...)
			if want := fmt.Sprintf("right %d\n", tt.count); out != want {
				t.Errorf("%d bytes to %s: got %q, want %q", tt.size, tt.host, out, want)
			}
		}
	})
	t.Run("what is hostile is dropped and counted", func(t *testing.T) { hostileDatagrams(t, w.in(t), c) })
	t.Run("a session that is lost ends no association", func(t *testing.T) { associationOutlivesSession(t, w.in(t)) })
	t.Run("nothing is left", func(t *testing.T) {
		eventually(t, 10*time.Second, "the associations end with their connections", func() error {
			if got := c.counters("mixed"); !strings.Contains(got, " associations 0\n") || !strings.Contains(got, " open 0\n") {
				return errors.New(got)
			}
			return nil
		})
	})
}

// associate asks for an association and returns its connection and where the relay is.
func (w *world) associate() (net.Conn, *net.UDPAddr) {
	w.t.Helper()
	control := w.socks5([]byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
	return control, net.UDPAddrFromAddrPort(readBound(w.t, control))
}

// socks5 connects to the proxy and sends it a request without a login.
func (w *world) socks5(request []byte) net.Conn {
	w.t.Helper()
	return w.socks5At(mixedProxy, request)
}

func (w *world) socks5At(proxy string, request []byte) net.Conn {
	w.t.Helper()
	var conn net.Conn
	err := w.cli.do(func() (err error) {
		conn, err = net.DialTimeout("tcp", proxy, 10*time.Second)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Write(append([]byte{5, 1, 0}, request...)); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// readBound reads a reply of success and returns the address in it.
func readBound(t testing.TB, conn net.Conn) netip.AddrPort {
	t.Helper()
	b := make([]byte, 4+4+2, 4+16+2)
	_, err := io.ReadFull(conn, b)
	if err == nil && b[3] == 4 {
		b = b[:cap(b)]
		_, err = io.ReadFull(conn, b[10:])
	}
	if err != nil || b[1] != 0 {
		t.Fatalf("got reply %v, %v, want success", b, err)
	}
	at, _ := socksAddress(b[3:])
	return at
}

// socksAddress takes apart an address of SOCKS5 that is no name, and returns what follows.
func socksAddress(b []byte) (netip.AddrPort, []byte) {
	n := 4
	if b[0] == 4 {
		n = 16
	}
	addr, _ := netip.AddrFromSlice(b[1 : 1+n])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[1+n:])), b[1+n+2:]
}

// datagramTo is a datagram for the relay to an address.
func datagramTo(to netip.AddrPort, fragment byte, data string) []byte {
	kind := byte(1)
	if to.Addr().Is6() {
		kind = 4
	}
	b := append([]byte{0, 0, fragment, kind}, to.Addr().AsSlice()...)
	return append(binary.BigEndian.AppendUint16(b, to.Port()), data...)
}

func hostileDatagrams(t *testing.T, w *world, c *client) {
	control, relay := w.associate()
	client, stranger := w.cli.ListenPacket("127.0.0.1:0"), w.cli.ListenPacket("127.0.0.1:0")
	elsewhere := w.cli.ListenPacket(clientAddress + ":0")
	send := func(from net.PacketConn, fragment byte, to, data string) {
		t.Helper()
		if _, err := from.WriteTo(datagramTo(netip.MustParseAddrPort(to), fragment, data), relay); err != nil {
			t.Fatal(err)
		}
	}
	service := lanGateway + ":" + echoPort
	send(elsewhere, 0, service, "from another host before the client")
	send(client, 0, service, "one")
	buf := make([]byte, 1500)
	client.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, _, err := client.ReadFrom(buf); err != nil || string(buf[10:n]) != "one" {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	send(stranger, 0, service, "from another port")
	send(elsewhere, 0, service, "from another host")
	send(client, 1, service, "a fragment")
	send(client, 0x82, service, "the last fragment")
	send(client, 0, "127.0.0.1:"+echoPort, "to loopback")
	send(client, 0, lanGateway+":0", "to port 0")
	if _, err := client.WriteTo([]byte{0, 0, 0, 1, 10, 200}, relay); err != nil { // cut short
		t.Fatal(err)
	}
	send(client, 0, service, "two")
	if n, _, err := client.ReadFrom(buf); err != nil || string(buf[10:n]) != "two" {
		t.Fatalf("got %q, %v, want the echo of what was honest", buf[:n], err)
	}
	got := c.counters("mixed")
	for _, want := range []string{"associations 1", "dropped_foreign 3", "dropped_fragment 2", "dropped_destination 2", "dropped_malformed 1"} {
		if !strings.Contains(got, " "+want+"\n") {
			t.Errorf("counters: want %q among\n%s", want, got)
		}
	}
	control.Close()
}

func associationOutlivesSession(t *testing.T, w *world) {
	control, relay := w.associate()
	client, peer := w.cli.ListenPacket("127.0.0.1:0"), w.lan.ns.ListenPacket(lanGateway+":0")
	seen := func(within time.Duration) (as string) {
		t.Helper()
		eventually(t, within, "a datagram comes to the peer", func() error {
			if _, err := client.WriteTo(datagramTo(peer.LocalAddr().(*net.UDPAddr).AddrPort(), 0, "hello"), relay); err != nil {
				return err
			}
			peer.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, from, err := peer.ReadFrom(make([]byte, 100))
			if err == nil {
				as = from.String()
			}
			return err
		})
		return as
	}
	before, session := seen(10*time.Second), w.Session()
	w.srv.Disconnect(session)
	eventually(t, upTime, "another session", func() error {
		if all := w.srv.Sessions(userName); len(all) != 1 || all[0] == session {
			return fmt.Errorf("there are %v", all)
		}
		return nil
	})
	if after := seen(upTime); after != before {
		t.Errorf("the peer sees %s after the session was lost, and saw %s before", after, before)
	}
	control.Close()
}

// An FTP server that connects to its client, active mode, reaches it by BIND of either
// version; and nobody else does.
func TestProxyBind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.lan.ns.IP("address", "add", otherHost+"/24", "dev", "br0")
	c := w.StartClient(mixedFlags)
	c.WaitUp()
	dir := w.lan.ftp()
	for _, version := range []string{"socks_v4", "socks_v5"} {
		t.Run("active FTP by "+version, func(t *testing.T) {
			needTool(t, "tnftp", "tnftp")
			w := w.in(t)
			file := filepath.Join(t.TempDir(), "got")
			script := "user anonymous x\nget pub/file " + file + "\nquit\n"
			out := w.inside(append(w.dante(version, "tcp"), "tnftp", "-A", "-n", "-v", lanGateway, stdin(script))...)
			got, err := os.ReadFile(file)
			if want, _ := os.ReadFile(filepath.Join(dir, "pub", "file")); err != nil || string(got) != string(want) {
				t.Errorf("got %d bytes, %v, want %d; the client says:\n%s", len(got), err, len(want), out)
			}
		})
	}
	t.Run("strangers are turned away", func(t *testing.T) {
		w := w.in(t)
		peer := netip.MustParseAddr(lanGateway).As4()
		conn := w.socks5(append([]byte{5, 2, 0, 1}, append(peer[:], 0, 21)...))
		at := readBound(t, conn)
		if !strings.HasPrefix(at.String(), "10.200.0.") {
			t.Fatalf("the peer is awaited at %v, want an address in the VPN", at)
		}
		stranger, err := w.lan.dialFrom(otherHost, at.String())
		if err == nil {
			_, err = io.Copy(io.Discard, stranger)
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the stranger: got %v, want a reset", err)
		}
		server, err := w.lan.dialFrom(lanGateway, at.String())
		if err != nil {
			t.Fatal(err)
		}
		if from := readBound(t, conn); from.String() != server.LocalAddr().String() {
			t.Errorf("the peer is told as %v, want %v", from, server.LocalAddr())
		}
		fmt.Fprint(server, "hello")
		b := make([]byte, 5)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != "hello" {
			t.Errorf("got %q, %v", b, err)
		}
		if got := c.counters("mixed"); !strings.Contains(got, " refused_stranger 1\n") {
			t.Errorf("counters: want one stranger among\n%s", got)
		}
	})
}

// dialFrom connects from one of the LAN's addresses.
func (l *lan) dialFrom(host, to string) (conn net.Conn, err error) {
	l.t.Helper()
	err = l.ns.do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}, Timeout: 10 * time.Second}
		conn, err = d.Dial("tcp", to)
		return err
	})
	if err == nil {
		l.t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// ftp serves a file by vsftpd, in active mode alone, and returns its directory.
func (l *lan) ftp() string {
	l.t.Helper()
	needTool(l.t, "vsftpd", "vsftpd")
	dir := filepath.Join(run.dir, l.ns.name+".ftp")
	empty := dir + ".empty"
	for _, d := range []string{filepath.Join(dir, "pub"), empty} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	data, err := io.ReadAll(streamOf("ftp", 300_000))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "pub", "file"), data, 0o644)
	}
	conf := dir + ".conf"
	text := fmt.Sprintf("listen=YES\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\nanon_root=%s\n"+
		"pasv_enable=NO\nconnect_from_port_20=YES\nsecure_chroot_dir=%s\nseccomp_sandbox=NO\nftp_username=daemon\n"+
		"nopriv_user=nobody\nlisten_address=%s\n", dir, empty, lanGateway)
	if err == nil {
		err = os.WriteFile(conf, []byte(text), 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	start(l.t, "vsftpd", l.ns.Command("vsftpd", conf))
	eventually(l.t, 10*time.Second, "vsftpd listens", func() error {
		conn, err := l.dialFrom(lanGateway, lanGateway+":21")
		if err == nil {
			conn.Close()
		}
		return err
	})
	return dir
}

// The same by IPv6, inside and on the way to the proxy: any peer may answer, names have
// only such an address, and a peer connects to where it is awaited.
func TestProxySocketsIPv6(t *testing.T) {
	t.Parallel()
	const own6 = "[::1]:1081" // where the client serves by IPv6
	other6 := lanPrefix6 + ":2"
	w := newWorld6(t)
	w.lan.ns.IP("address", "add", other6+"/64", "dev", "br0", "nodad")
	w.lan.Dnsmasq(usualLease, append(names6, "--enable-ra", "--dhcp-range="+lanPrefix6+":,slaac,64")...)
	go echoDatagrams(w.lan.ns.ListenPacket("[" + lanGateway6 + "]:" + echoPort))
	c := w.StartClient(mixedFlags.with(flags{"listen": mixedProxy + "," + own6}))
	c.WaitUp()
	c.Addresses6(t, lanPrefix6)

	for _, proxy := range []string{mixedProxy, own6} {
		t.Run("datagrams by "+proxy, func(t *testing.T) {
			w := w.in(t)
			control := w.socks5At(proxy, []byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
			relay := readBound(t, control)
			if want := netip.MustParseAddrPort(proxy).Addr(); relay.Addr() != want {
				t.Fatalf("the relay is at %v, want it at %v, where the client connected to", relay, want)
			}
			sock := w.cli.ListenPacket(netip.AddrPortFrom(relay.Addr(), 0).String())
			exchange := func(b []byte, want string) netip.AddrPort {
				t.Helper()
				if b != nil {
					if _, err := sock.WriteTo(b, net.UDPAddrFromAddrPort(relay)); err != nil {
						t.Fatal(err)
					}
				}
				buf := make([]byte, 2048)
				sock.SetReadDeadline(time.Now().Add(10 * time.Second))
				n, _, err := sock.ReadFrom(buf)
				if err != nil || n < 22 {
					t.Fatalf("got %d bytes, %v", n, err)
				}
				from, data := socksAddress(buf[3:n])
				if string(data) != want {
					t.Fatalf("got %d bytes from %v, want %d", len(data), from, len(want))
				}
				return from
			}
			service := netip.MustParseAddrPort("[" + lanGateway6 + "]:" + echoPort)
			data := strings.Repeat("0123456789ab", 100)
			for range 300 {
				if from := exchange(datagramTo(service, 0, data), data); from != service {
					t.Fatalf("answered by %v, want %v", from, service)
				}
			}
			byName := append([]byte{0, 0, 0, 3, byte(len(inside6))}, inside6...)
			byName = append(binary.BigEndian.AppendUint16(byName, service.Port()), "by name"...)
			if from := exchange(byName, "by name"); from != service {
				t.Errorf("answered by %v, want %v", from, service)
			}
			// Who was never written to, too.
			seen := w.lan.ns.ListenPacket("[" + other6 + "]:0")
			at := seen.LocalAddr().(*net.UDPAddr).AddrPort()
			if _, err := sock.WriteTo(datagramTo(at, 0, "who am I?"), net.UDPAddrFromAddrPort(relay)); err != nil {
				t.Fatal(err)
			}
			seen.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, us, err := seen.ReadFrom(make([]byte, 100))
			if err != nil {
				t.Fatal(err)
			}
			stranger := w.lan.ns.ListenPacket("[" + other6 + "]:0")
			if _, err := stranger.WriteTo([]byte("unasked"), us); err != nil {
				t.Fatal(err)
			}
			if from := exchange(nil, "unasked"); from != stranger.LocalAddr().(*net.UDPAddr).AddrPort() {
				t.Errorf("heard from %v, want %v", from, stranger.LocalAddr())
			}
		})
	}
	t.Run("BIND", func(t *testing.T) {
		w := w.in(t)
		peer := netip.MustParseAddr(lanGateway6)
		conn := w.socks5(append(append([]byte{5, 2, 0, 4}, peer.AsSlice()...), 0, 21))
		at := readBound(t, conn)
		if !strings.HasPrefix(at.Addr().String(), strings.TrimSuffix(lanPrefix6, ":")) {
			t.Fatalf("the peer is awaited at %v, want an address in the VPN", at)
		}
		server, err := w.lan.dialFrom(lanGateway6, at.String())
		if err != nil {
			t.Fatal(err)
		}
		if from := readBound(t, conn); from.String() != server.LocalAddr().String() {
			t.Errorf("the peer is told as %v, want %v", from, server.LocalAddr())
		}
		fmt.Fprint(conn, "hello")
		b := make([]byte, 5)
		server.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(server, b); err != nil || string(b) != "hello" {
			t.Errorf("got %q, %v", b, err)
		}
	})
}
