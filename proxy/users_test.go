package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// guests is an Auth of several users, whose password is their name.
type guests struct {
	mu  sync.Mutex
	all map[string]*guest
}

// guest is a User.
type guest struct {
	name  string
	only  string // the host or address that may be reached; empty means all
	limit int    // of connections; 0 means none

	mu   sync.Mutex
	cuts map[int]func() // of what is open
	next int
	paid int // connections that were limited
}

func newGuests(list ...*guest) *guests {
	g := &guests{all: make(map[string]*guest)}
	for _, u := range list {
		u.cuts = make(map[int]func())
		g.all[u.name] = u
	}
	return g
}

func (g *guests) Login(_ context.Context, name, password []byte) User {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.all[string(name)]
	if u == nil || string(password) != u.name {
		return nil
	}
	return u
}

func (u *guest) String() string { return u.name }

func (u *guest) Permits(host string, addr netip.Addr, port uint16) error {
	if u.only == "" || host == u.only || !addr.IsValid() && host != "deny.corp" || addr.String() == u.only {
		return nil
	}
	return fmt.Errorf("%s may not", u.name)
}

func (u *guest) Enter(cut func()) (func(), error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.limit > 0 && len(u.cuts) >= u.limit {
		return nil, errors.New("too many")
	}
	u.next++
	id := u.next
	u.cuts[id] = cut
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.cuts, id)
	}, nil
}

func (u *guest) Limit(c net.Conn) net.Conn {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.paid++
	return c
}

// A guest may send and receive what is shorter than 1000 bytes.
func (u *guest) MaySend(n int) bool    { return n < 1000 }
func (u *guest) MayReceive(n int) bool { return n < 1000 }

func (u *guest) open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.cuts)
}

// names is a Dialer that knows names' addresses and asks before it dials them. All are
// at one address in truth. It notes what it dialed, and for whom.
type names struct {
	dialTo
	of map[string]string // name to address

	mu   sync.Mutex
	whom []string
}

func (d *names) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.whom = append(d.whom, UserOf(ctx)+" "+address)
	d.mu.Unlock()
	return d.dialTo.DialContext(ctx, network, address)
}

func (d *names) DialPermitted(ctx context.Context, network, address string, permit func(netip.AddrPort) error) (net.Conn, error) {
	host, port, _ := net.SplitHostPort(address)
	var p uint16
	fmt.Sscan(port, &p)
	addr, err := netip.ParseAddr(d.of[host])
	if err != nil {
		return nil, &net.DNSError{Name: host, IsNotFound: true}
	}
	if err := permit(netip.AddrPortFrom(addr, p)); err != nil {
		return nil, opError(err)
	}
	return d.DialContext(ctx, network, address)
}

func (d *names) dialed() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.whom, ", ")
}

// basic is the header of a request by a guest.
func basic(name string) string {
	if name == "" {
		return ""
	}
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+name)) + "\r\n"
}

// Each refusal has its code, and what is refused is not dialed.
func TestUsersAreToldByCodes(t *testing.T) {
	d := &names{dialTo: dialTo{addr: listenTCP(t, echo)}, of: map[string]string{
		"files.corp": "192.0.2.1", "other.corp": "192.0.2.2", "deny.corp": "192.0.2.1",
		"evil.corp": "127.0.0.1", "meta.corp": "169.254.169.254", "self.corp": "127.0.0.1",
	}}
	free, bound := &guest{name: "free"}, &guest{name: "bound", only: "192.0.2.1"}
	c := Config{Dialer: d, Auth: newGuests(free, bound)}
	mixed := serve(t, NewMixed(c))
	_, port, _ := net.SplitHostPort(mixed)
	for _, row := range []struct {
		user, target string
		socks        byte
		status       int
	}{
		{"free", "files.corp:80", 0, 200},
		{"free", "192.0.2.9:80", 0, 200},
		{"bound", "192.0.2.1:80", 0, 200},
		{"bound", "files.corp:80", 0, 200},
		{"bound", "other.corp:80", 2, 403},
		{"bound", "192.0.2.2:80", 2, 403},
		{"bound", "deny.corp:80", 2, 403},
		{"free", "none.corp:80", 4, 502},
		{"free", "localhost:80", 2, 403},
		{"free", "a.localhost.:80", 2, 403},
		{"free", "127.0.0.2:80", 2, 403},
		{"free", "[::1]:80", 2, 403},
		{"free", "[::ffff:127.0.0.1]:80", 2, 403},
		{"free", "0.0.0.0:80", 2, 403},
		{"free", "[::]:80", 2, 403},
		{"free", "169.254.169.254:80", 2, 403},
		{"free", "[fe80::1]:80", 2, 403},
		{"free", "224.0.0.1:80", 2, 403},
		{"free", "[ff02::1]:80", 2, 403},
		{"free", "255.255.255.255:80", 2, 403},
		{"free", "evil.corp:80", 2, 403},
		{"free", "meta.corp:80", 2, 403},
	} {
		before := d.dialed()
		conn := connect(t, mixed)
		send(t, conn, "CONNECT "+row.target+" HTTP/1.1\r\nHost: "+row.target+"\r\n"+basic(row.user)+"\r\n")
		b := make([]byte, 12)
		io.ReadFull(conn, b)
		if got, want := string(b), fmt.Sprintf("HTTP/1.1 %d", row.status); got != want {
			t.Errorf("%s to %s by CONNECT: got %q, want %q", row.user, row.target, got, want)
		}
		conn.Close()

		conn = connect(t, mixed)
		host, p, _ := net.SplitHostPort(row.target)
		var n uint16
		fmt.Sscan(p, &n)
		l := string([]byte{byte(len(row.user))}) + row.user
		send(t, conn, "\x05\x01\x02\x01"+l+l+"\x05\x01\x00\x03"+string([]byte{byte(len(host))})+host+string([]byte{byte(n >> 8), byte(n)}))
		b = make([]byte, 6)
		io.ReadFull(conn, b)
		if got, want := string(b), "\x05\x02\x01\x00\x05"+string(row.socks); got != want {
			t.Errorf("%s to %s by SOCKS5: got %q, want %q", row.user, row.target, got, want)
		}
		conn.Close()
		if after := d.dialed(); row.status == 403 && after != before {
			t.Errorf("%s to %s is refused, but was dialed", row.user, row.target)
		}

		if row.status == 200 {
			continue
		}
		conn = connect(t, mixed)
		send(t, conn, "GET http://"+row.target+"/ HTTP/1.1\r\nHost: "+row.target+"\r\n"+basic(row.user)+"\r\n")
		b = make([]byte, 12)
		io.ReadFull(conn, b)
		if got, want := string(b), fmt.Sprintf("HTTP/1.1 %d", row.status); got != want {
			t.Errorf("%s to %s by GET: got %q, want %q", row.user, row.target, got, want)
		}
		conn.Close()
	}
	if !strings.Contains(d.dialed(), "bound files.corp:80") {
		t.Errorf("the dialer does not know for whom: %s", d.dialed())
	}
	if bound.paid == 0 {
		t.Error("the user's limit was not asked for")
	}
	conn := connect(t, mixed)
	send(t, conn, "CONNECT 127.0.0.1:"+port+" HTTP/1.1\r\nHost: x\r\n"+basic("free")+"\r\n")
	expect(t, conn, "HTTP/1.1 403") // loopback before loop: it would be one on any port
}

// A target that is the address by which the client reached the proxy is a loop, and so is
// any other of the program's ports.
func TestTheProxyIsNoTargetOfItself(t *testing.T) {
	v := visitor{local: netip.MustParseAddrPort("192.0.2.1:8080"), own: func(network string, at netip.AddrPort) bool {
		return network == "tcp" && at == netip.MustParseAddrPort("192.0.2.3:9090")
	}}
	for _, row := range []struct {
		target string
		why    Reason
	}{{"192.0.2.1:8080", Loop}, {"[::ffff:192.0.2.1]:8080", Loop}, {"192.0.2.1:80", 0}, {"192.0.2.2:8080", 0},
		{"192.0.2.3:9090", Loop}, {"[::ffff:192.0.2.3]:9090", Loop}, {"192.0.2.3:9091", 0}} {
		err := v.permits("", netip.MustParseAddrPort(row.target))
		if row.why == 0 {
			if err != nil {
				t.Errorf("%s: got %v", row.target, err)
			}
			continue
		}
		if err == nil || dialReason(err) != row.why {
			t.Errorf("%s: got %v, want %v", row.target, err, row.why)
		}
	}
	if r := reasons[Loop]; r.reply != 2 || r.status != 508 {
		t.Errorf("codes: got %d and %d", r.reply, r.status)
	}
}

func TestUserLimitOfConnections(t *testing.T) {
	proceed := make(chan struct{})
	o := newOrigin(t, Config{Auth: newGuests(&guest{name: "alice", limit: 1}, &guest{name: "bob", limit: 1})}, func(w http.ResponseWriter, r *http.Request) {
		<-proceed
	})
	get := "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n"
	c := connect(t, o.addr)
	send(t, c, get+basic("alice")+"\r\n")
	u := o.proxy.Auth.(*guests).all["alice"]
	eventually(t, "alice is in", func() bool { return u.open() > 0 })
	for _, request := range []string{get, "CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp\r\n"} {
		second := connect(t, o.addr)
		send(t, second, request+basic("alice")+"\r\n")
		expect(t, second, "HTTP/1.1 429")
	}
	close(proceed)
	expect(t, c, "HTTP/1.1 200")
	other := connect(t, o.addr)
	send(t, other, get+basic("bob")+"\r\n")
	expect(t, other, "HTTP/1.1 200")
	eventually(t, "alice is gone", func() bool { return u.open() == 0 })
	if n := o.proxy.Stats().Refused[UserLimit]; n != 2 {
		t.Errorf("refused by the limit: got %d, want 2", n)
	}
}

// Who is cut off loses tunnels and requests under way, of either protocol.
func TestUserIsCutOff(t *testing.T) {
	target := listenTCP(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 1)) // an answer ahead of its question is none
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
		io.Copy(io.Discard, c)
	})
	u := &guest{name: "alice"}
	m := NewMixed(Config{Dialer: &dialTo{addr: target}, Auth: newGuests(u)})
	addr := serve(t, m)
	for _, row := range []struct{ input, answer string }{
		{"GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n" + basic("alice") + "\r\n", "HTTP/1.1 200"},
		{"CONNECT a.corp:80 HTTP/1.1\r\nHost: a.corp\r\n" + basic("alice") + "\r\n", "HTTP/1.1 200"},
		{"\x05\x01\x02\x01\x05alice\x05alice\x05\x01\x00\x03\x06a.corp\x00\x50", "\x05\x02\x01\x00\x05\x00"},
	} {
		c := connect(t, addr)
		send(t, c, row.input)
		expect(t, c, row.answer)
		u.mu.Lock()
		for _, cut := range u.cuts {
			cut()
		}
		u.mu.Unlock()
		io.Copy(io.Discard, c) // ends, or the test's time does
		eventually(t, "alice is gone", func() bool { return u.open() == 0 })
	}
}

// A connection to a target that is kept is of the user it was made for.
func TestUsersDoNotShareConnections(t *testing.T) {
	o := newOrigin(t, Config{Auth: newGuests(&guest{name: "alice"}, &guest{name: "bob"})}, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.RemoteAddr)
	})
	seen := make(map[string]string)
	for _, name := range []string{"alice", "bob", "alice", "bob"} {
		res, b := o.exchange(t, "GET", "GET http://a.corp/ HTTP/1.1\r\nHost: a.corp\r\n"+basic(name)+"\r\n")
		if res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		if was := seen[name]; was != "" && was != b {
			t.Errorf("%s has a new connection", name)
		}
		seen[name] = b
	}
	if seen["alice"] == seen["bob"] {
		t.Error("two users share a connection to a target")
	}
}

// A user's rules and limits are those of datagrams and of BIND too, and they end with the
// user.
func TestUsersOfSocketsAreHeldToTheirRules(t *testing.T) {
	const login = helloAuth + "\x01\x01b\x01b"
	b := &guest{name: "b", only: "192.0.2.1", limit: 1}
	far := newMemSocket("10.0.0.5:1")
	s := NewSOCKS5(Config{Dialer: newNever(), Auth: newGuests(b), Listener: loopbackListener,
		Resolver: resolveFunc(func(context.Context, string, string) ([]netip.Addr, error) {
			t.Error("a name that is not permitted was asked for")
			return nil, &net.DNSError{}
		}),
		PacketListener: packetFunc(func(ctx context.Context, _, _ string) (net.PacketConn, error) {
			if got := UserOf(ctx); got != "b" {
				t.Errorf("opened for %q, want b", got)
			}
			return far, nil
		})})
	addr := serve(t, s)
	c := connect(t, addr)
	send(t, c, login+associate)
	expect(t, c, "\x05\x02"+loginOK+"\x05\x00\x00\x01\x7f\x00\x00\x01")
	port := make([]byte, 2)
	if _, err := io.ReadFull(c, port); err != nil {
		t.Fatal(err)
	}
	second := connect(t, addr)
	send(t, second, login+associate)
	expect(t, second, "\x05\x02"+loginOK+failure(2)) // more than the one connection

	sock, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port[0])<<8 | int(port[1])})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	for _, d := range []string{toHost("deny.corp") + "x", toHost("me.localhost") + "x", "\x00\x00\x00\x01\xc0\x00\x02\x02\x00\x35elsewhere", to4 + strings.Repeat("x", 1000), to4 + "allowed"} {
		send(t, sock, d)
	}
	if got := far.await(0); got.data != "allowed" {
		t.Errorf("sent %.20q, want only what is allowed", got.data)
	}
	far.deliver("192.0.2.7:1", strings.Repeat("y", 1000))
	far.deliver("192.0.2.7:1", "short")
	sock.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 2000)
	if n, err := sock.Read(buf); err != nil || string(buf[headerIPv4:n]) != "short" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if got := s.Stats().Dropped; got[DropNotPermitted] != 3 || got[DropRate] != 2 {
		t.Errorf("dropped: got %v, want three not permitted and two for the rate", got)
	}
	b.mu.Lock()
	for _, cut := range b.cuts {
		cut()
	}
	b.mu.Unlock()
	expectEOF(t, c)

	eventually(t, "bob is gone", func() bool { return b.open() == 0 })
	c = connect(t, addr)
	send(t, c, login+"\x05\x02\x00\x03\x09deny.corp\x00\x15")
	expect(t, c, "\x05\x02"+loginOK+failure(2)) // and is not asked for
	c.Close()
	eventually(t, "bob is gone", func() bool { return b.open() == 0 })
	c = connect(t, addr)
	send(t, c, login+bindAny)
	expect(t, c, "\x05\x02"+loginOK)
	at := readAddress(t, c, bindAny)
	peer, err := net.Dial("tcp", at.String())
	if err == nil { // or the reset came first
		defer peer.Close()
	}
	expect(t, c, failure(2)) // 127.0.0.1 is not whom b may reach
	c.Close()
	b.mu.Lock()
	b.only = "127.0.0.1"
	b.mu.Unlock()
	eventually(t, "bob is gone", func() bool { return b.open() == 0 })
	c = connect(t, addr)
	send(t, c, login+bindAny)
	expect(t, c, "\x05\x02"+loginOK)
	peer = connect(t, readAddress(t, c, bindAny).String())
	readAddress(t, c, bindAny)
	send(t, peer, "hello")
	expect(t, c, "hello")
	if b.paid != 1 {
		t.Errorf("connections held to the rate: got %d, want 1", b.paid)
	}
}
