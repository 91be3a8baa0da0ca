//go:build linux

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	longText = 6 // strings of 200 characters: an answer that no datagram of 512 bytes holds

	forwardsMAC  = "02:00:00:00:70:07"
	clientSecond = "198.18.0.12"  // another address of the client's machine
	otherAddress = "10.200.0.149" // what the client has in the VPN later
)

// dnsRecords are what only name servers of the VPN know, of types that a resolver of
// addresses has no idea of.
func dnsRecords() []string {
	long := "--txt-record=long.corp"
	for i := range longText {
		long += "," + strings.Repeat(string(rune('a'+i)), 200)
	}
	return []string{"--txt-record=note.corp,hello", "--srv-host=_ldap._tcp.corp,files.corp,389,1,2", "--mx-host=corp,files.corp,5", long}
}

// address returns the client's address in the VPN.
func (c *client) address() string {
	c.t.Helper()
	m := regexp.MustCompile(`10\.200\.0\.(?:[5-9]\d|1[0-4]\d|150)\b`).FindAllString(c.Log(), -1)
	if len(m) == 0 {
		c.t.Fatalf("no address in the log:\n%s", c.Log())
	}
	return m[len(m)-1]
}

// run runs a program to its end in the namespace, and returns its output and exit code.
func (n *netns) run(t testing.TB, input string, argv ...string) (out, errs string, code int) {
	t.Helper()
	cmd := n.Command(append([]string{"timeout", "60"}, argv...)...)
	cmd.Env = append(cmd.Env, "SOFTETHER_PASS="+userPassword, "HOME="+t.TempDir())
	cmd.Stdin = strings.NewReader(input)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", argv[0], err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// nginx serves on the client's machine, and tells its clients who the PROXY protocol says
// that they are.
func (w *world) nginx(port string) {
	w.t.Helper()
	const program = "/usr/sbin/nginx"
	needTool(w.t, program, "nginx-light")
	dir := w.t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; user root; pid %[1]s/pid; error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	server {
		listen 127.0.0.1:%[2]s proxy_protocol;
		location / { return 200 "$proxy_protocol_addr to $proxy_protocol_server_addr:$proxy_protocol_server_port\n"; }
	}
}
`, dir, port)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	p := start(w.t, "nginx", w.cli.Command(program, "-c", conf))
	eventually(w.t, 10*time.Second, "nginx listens", func() error {
		if !p.Running() {
			w.t.Fatalf("nginx has ended:\n%s", p.Log())
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		c, err := w.cli.Dial(ctx, "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// iperf measures for a second by iperf3 and fails the test if next to nothing came.
func iperf(t *testing.T, from *netns, host, port string, args ...string) {
	t.Helper()
	out, errs, code := from.run(t, "", append([]string{"iperf3", "-J", "-t", "1", "-c", host, "-p", port}, args...)...)
	var r struct {
		End struct {
			Received struct { // which the receiver has counted, unlike "sum"
				Bytes   int64 `json:"bytes"`
				Packets int   `json:"packets"` // of UDP, those lost too
				Lost    int   `json:"lost_packets"`
			} `json:"sum_received"`
		} `json:"end"`
		Error string `json:"error"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || r.Error != "" {
		t.Errorf("iperf3 %v: exit %d, %v %s %s\n%s", args, code, err, r.Error, errs, out)
		return
	}
	got := r.End.Received
	t.Logf("%v: %+v", args, got)
	if got.Bytes < 100_000 || got.Lost > got.Packets/5 || slices.Contains(args, "-u") && got.Packets == 0 {
		t.Errorf("iperf3 %v: too little came: %+v", args, got)
	}
}

// datagramsTell sends a datagram to a port with a PROXY header that leads to an echo, which
// shows who the header says that we are, and hears the answer from nobody else.
func datagramsTell(t *testing.T, ns *netns, from, at string) {
	t.Helper()
	c := ns.ListenPacket(from + ":0").(*net.UDPConn)
	defer c.Close()
	to := netip.MustParseAddrPort(at)
	want := "\r\n\r\n\x00\r\nQUIT\n\x21\x12\x00\x0c"
	us := c.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, a := range []netip.AddrPort{us, to} {
		want += string(a.Addr().AsSlice())
	}
	for _, a := range []netip.AddrPort{us, to} {
		want += string([]byte{byte(a.Port() >> 8), byte(a.Port())})
	}
	want += "word"
	eventually(t, 10*time.Second, "a datagram to "+at+" is answered", func() error {
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.WriteToUDPAddrPort([]byte("word"), to); err != nil {
			return err
		}
		b := make([]byte, 100)
		n, peer, err := c.ReadFromUDPAddrPort(b)
		if err == nil && (string(b[:n]) != want || peer.Port() != to.Port() || peer.Addr().Unmap() != to.Addr()) {
			t.Fatalf("the answer of %s is %q from %v, want %q", at, b[:n], peer, want)
		}
		return err
	})
}

// refused connects and wants to be let in by nobody.
func refused(t *testing.T, ns *netns, at string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := ns.Dial(ctx, at)
	if err == nil {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: got %v, want a reset", at, err)
	}
}

// ncatUDP has a datagram echoed by the VPN through -L. There is no end to be passed on, so
// ncat's input stays open for a while.
func (w *world) ncatUDP(t *testing.T) {
	t.Helper()
	out, errs, _ := w.cli.run(t, "", "sh", "-c", "{ echo datagram; sleep 1; } | ncat -u 127.0.0.1 7000")
	if out != "datagram\n" {
		t.Errorf("over UDP: got %q, %s", out, errs)
	}
}

// Ports into the VPN and out of it, with stock programs at both ends, and all of them
// again when the server has been restarted.
func TestForwards(t *testing.T) {
	t.Parallel()
	for program, pkg := range map[string]string{"iperf3": "iperf3", "dig": "bind9-dnsutils", "curl": "curl", "ncat": "ncat"} {
		needTool(t, program, pkg)
	}
	w := newWorldWithoutDHCP(t)
	w.lan.Dnsmasq(usualLease, dnsRecords()...)
	w.nginx("8002")
	for ns, port := range map[*netns]string{w.lan.ns: "5201", w.cli: "5202"} {
		p := start(t, "iperf3", ns.Command("iperf3", "--forceflush", "-s", "-p", port))
		p.WaitLog("Server listening", 10*time.Second)
	}
	home := w.cli.Listen("127.0.0.1:8003")
	go echo(home)
	go echoDatagrams(w.cli.ListenPacket("127.0.0.1:9003"))
	go echoDatagrams(w.lan.ns.ListenPacket("0.0.0.0:" + echoPort))
	w.cli.IP("address", "add", clientSecond+"/24", "dev", "eth0")

	dir := filepath.Join(run.dir, w.cli.name+"-sockets")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 65534, 65534)); err != nil { // for the client, who is nobody
		t.Fatal(err)
	}
	sock, homeSock := filepath.Join(dir, "web.sock"), filepath.Join(dir, "home.sock")
	atPath, err := net.Listen("unix", homeSock)
	if err == nil {
		err = os.Chmod(homeSock, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer atPath.Close()
	go echo(atPath)
	c := w.StartClient(usualFlags.with(flags{
		"L": strings.Join([]string{"8000:" + siteName + ":80", sock + ":" + siteName + ":80", "7000:" + lanGateway + ":" + echoPort,
			"udp/7000:" + lanGateway + ":" + echoPort, "5201:" + lanGateway + ":5201", "udp/5201:" + lanGateway + ":5201",
			"8500:" + otherAddress + ":8600", "8089:nobody.corp:80", "udp/proxyv2/0.0.0.0:7007:" + lanGateway + ":" + echoPort}, ","),
		"R": "8600:localhost:8500,8090:localhost:1,proxyv2/8002:127.0.0.1:8002,8003:127.0.0.1:8003,5202:localhost:5202,udp/5202:localhost:5202," +
			"8004:" + homeSock + ",udp/proxyv2/9003:127.0.0.1:9003",
		"dns-listen": "5300,0.0.0.0:5303",
		"mac":        forwardsMAC,
	}))
	c.WaitUp()
	ours := c.address()

	t.Run("curl by -L, over TCP and a Unix socket", func(t *testing.T) {
		w := w.in(t)
		for _, args := range [][]string{{"http://127.0.0.1:8000/"}, {"--unix-socket", sock, "http://x/"}} {
			if page, err := w.Curl(args...); err != nil || page != sitePage {
				t.Errorf("%v: %q, %v", args, page, err)
			}
		}
		const size = 8 << 20
		got, err := w.Curl("--output", "-", fmt.Sprintf("http://127.0.0.1:8000/stream/forward/%d", size))
		if err != nil || sumOfString(got) != sumOf("forward", size) {
			t.Errorf("8 MB: %d bytes, %v, or other ones", len(got), err)
		}
	})
	t.Run("nobody else reaches -L", func(t *testing.T) {
		if _, err := w.srv.ns.Dial(t.Context(), clientAddress+":8000"); err == nil {
			t.Error("the port is open to other machines")
		}
	})
	t.Run("ncat says all and then hears all", func(t *testing.T) {
		if out, errs, _ := w.cli.run(t, "to be echoed\n", "ncat", "127.0.0.1", "7000"); out != "to be echoed\n" {
			t.Errorf("got %q, %s", out, errs)
		}
		w.ncatUDP(t)
	})
	t.Run("nginx hears by -R who its client is", func(t *testing.T) {
		out, errs, code := w.lan.ns.run(t, "", "curl", "--silent", "--show-error", "http://"+ours+":8002/")
		if want := lanGateway + " to " + ours + ":8002\n"; out != want || code != 0 {
			t.Errorf("got %q, %s; want %q", out, errs, want)
		}
	})
	t.Run("iperf3", func(t *testing.T) {
		iperf(t, w.cli, "127.0.0.1", "5201")
		iperf(t, w.cli, "127.0.0.1", "5201", "-u", "-b", "10M", "-l", "1200")
		iperf(t, w.lan.ns, ours, "5202")
		iperf(t, w.lan.ns, ours, "5202", "-u", "-b", "10M", "-l", "1200", "-R")
	})
	t.Run("dig asks what it likes", func(t *testing.T) {
		for _, row := range []struct {
			args, want string
		}{
			{"files.corp A +short", lanGateway},
			{"files.corp A +tcp +short", lanGateway},
			{"note.corp TXT +short", `"hello"`},
			{"_ldap._tcp.corp SRV +short", "1 2 389 files.corp."},
			{"corp MX +short +noedns", "5 files.corp."},
			{"-x 10.200.0.1 +short", "files.corp."},
			{"long.corp TXT +noedns", "(TCP)"}, // cut over UDP, and asked again
			{"nobody.corp A", "status: NXDOMAIN"},
			{"corp AXFR", "failed"},
			{"corp NS +opcode=STATUS", "status: NOTIMP"},
		} {
			argv := append([]string{"dig", "@127.0.0.1", "-p", "5300", "+tries=1", "+timeout=10"}, strings.Fields(row.args)...)
			if out, errs, _ := w.cli.run(t, "", argv...); !strings.Contains(out, row.want) {
				t.Errorf("dig %s: got %s%s, want %q", row.args, out, errs, row.want)
			}
		}
	})

	t.Run("datagrams say who the client is, and are answered from where they went", func(t *testing.T) {
		for _, at := range []string{clientAddress, clientSecond} {
			datagramsTell(t, w.srv.ns, serverAddress, at+":7007")
			if out, errs, _ := w.srv.ns.run(t, "", "dig", "@"+at, "-p", "5303", "+short", "+tries=1", siteName); out != lanGateway+"\n" {
				t.Errorf("dig @%s: %q, %s", at, out, errs)
			}
		}
		datagramsTell(t, w.lan.ns, lanGateway, ours+":9003")
	})
	t.Run("what leads nowhere is told of once", func(t *testing.T) {
		for range 2 {
			refused(t, w.cli, "127.0.0.1:8089")
			refused(t, w.lan.ns, ours+":8090")
		}
		for _, want := range []string{`forward="-L 127.0.0.1:8089:nobody.corp:80".*no such host`, `forward="-R 8090:localhost:1".*refused`} {
			c.WaitLog("level=WARN.*"+want, 10*time.Second)
			if n := len(regexp.MustCompile(want).FindAllString(c.Log(), -1)); n != 1 {
				t.Errorf("%s is told %d times", want, n)
			}
		}
	})
	t.Run("a path by -R", func(t *testing.T) {
		if out, errs, _ := w.lan.ns.run(t, "to a path\n", "ncat", ours, "8004"); out != "to a path\n" {
			t.Errorf("got %q, %s", out, errs)
		}
	})

	inner, err := w.cli.Dial(t.Context(), "127.0.0.1:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	through := &innerConn{t: t, Conn: inner}
	through.Check(10 * time.Second)
	outer, err := w.lan.ns.Dial(t.Context(), ours+":8003")
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Close()
	back := &innerConn{t: t, Conn: outer}
	back.Check(10 * time.Second)
	seen := len(c.Log())
	w.srv.Kill()
	w.srv.Start()
	w.lan.Attach()
	c.WaitLogAfter(seen, "tunnel up", recoverTime)
	through.Check(recoverTime)
	back.Check(recoverTime)
	again := func(t *testing.T, ours string) {
		w := w.in(t)
		for _, args := range [][]string{{"http://127.0.0.1:8000/"}, {"--unix-socket", sock, "http://x/"}} {
			if page, err := w.Curl(args...); err != nil || page != sitePage {
				t.Errorf("-L, %v: %q, %v", args, page, err)
			}
		}
		if out, errs, _ := w.lan.ns.run(t, "to a path\n", "ncat", ours, "8004"); out != "to a path\n" {
			t.Errorf("-R to a path: %q, %s", out, errs)
		}
		datagramsTell(t, w.lan.ns, lanGateway, ours+":9003")
		if out, errs, _ := w.lan.ns.run(t, "", "curl", "--silent", "--show-error", "http://"+ours+":8002/"); !strings.HasPrefix(out, lanGateway+" to ") {
			t.Errorf("-R: %q, %s", out, errs)
		}
		if out, _, _ := w.cli.run(t, "", "dig", "@127.0.0.1", "-p", "5300", "files.corp", "+short"); out != lanGateway+"\n" {
			t.Errorf("-dns-listen: %q", out)
		}
		w.ncatUDP(t)
	}
	t.Run("all again after a restart of the server", func(t *testing.T) { again(t, c.address()) })
	t.Run("all again at another address", func(t *testing.T) {
		w.lan.dhcp.Kill()
		w.lan.Dnsmasq(usualLease, append(dnsRecords(), "--dhcp-host="+forwardsMAC+","+otherAddress)...)
		seen := len(c.Log())
		w.srv.Disconnect(w.Session())
		c.WaitLogAfter(seen, "(?s)address="+regexp.QuoteMeta(otherAddress)+".*tunnel up", recoverTime)
		again(t, otherAddress)
		refused(t, w.cli, "127.0.0.1:8500")
		c.WaitLog(`forward="-L 127.0.0.1:8500:`+otherAddress+`:8600".*our own address`, 10*time.Second)
	})
	c.Terminate()
	if _, err := os.Stat(sock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the Unix socket is left behind: %v", err)
	}
}
