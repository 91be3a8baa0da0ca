//go:build linux

package integration

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// blockTCP lets no TCP out of the client's namespace, and counts what it drops.
const blockTCP = `
table inet blocked {
	counter dropped {}
	chain out {
		type filter hook output priority 0
		oifname "eth0" meta l4proto tcp counter name dropped drop
	}
}
`

// rudpPort finds the server's R-UDP port as its administrator would: of the UDP ports of
// the server those that are no TCP port of it, and of these the one that answers.
func (w *world) rudpPort() string {
	w.t.Helper()
	var port string
	eventually(w.t, 20*time.Second, "a UDP port answers to R-UDP", func() error {
		for line := range strings.Lines(w.srv.ns.output("ss", "-ulnH")) {
			f := strings.Fields(line)
			_, p, err := net.SplitHostPort(f[3])
			if err == nil && !strings.Contains(" 443 992 1194 5555 53 ", " "+p+" ") && w.answersRUDP(p) {
				port = p
				return nil
			}
		}
		return errors.New("none does")
	})
	return port
}

func (w *world) answersRUDP(port string) bool {
	c := w.srv.ns.ListenPacket("127.0.0.1:0")
	defer c.Close()
	to, err := net.ResolveUDPAddr("udp", "127.0.0.1:"+port)
	if err != nil {
		w.t.Fatal(err)
	}
	opening := make([]byte, 39)
	rand.Read(opening)
	for range 2 { // the first makes the session, the second is answered
		c.WriteTo(opening, to)
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	n, _, err := c.ReadFrom(make([]byte, 2048))
	return err == nil && n > len(opening)
}

// A udpbox relays datagrams to a port of the server, and can go wrong.
type udpbox struct {
	front   net.PacketConn
	to      net.Addr
	newUp   func() net.PacketConn
	lost    atomic.Int64
	dropped atomic.Int64 // of clients that are cut off
	swaps   atomic.Int64

	mu    sync.Mutex // guards the fields below
	lose  float64
	flows map[string]*udpFlow
	cut   map[string]bool
	g     sync.WaitGroup
}

type udpFlow struct {
	client net.Addr
	up     net.PacketConn
}

const udpboxPort = "10444"

func (w *world) startUDPBox(port string, lose float64) *udpbox {
	w.t.Helper()
	to, err := net.ResolveUDPAddr("udp", "127.0.0.1:"+port)
	if err != nil {
		w.t.Fatal(err)
	}
	b := &udpbox{
		front: w.srv.ns.ListenPacket("0.0.0.0:" + udpboxPort), to: to, lose: lose,
		newUp: func() net.PacketConn { return w.srv.ns.ListenPacket("127.0.0.1:0") },
		flows: map[string]*udpFlow{}, cut: map[string]bool{},
	}
	b.g.Go(b.serve)
	w.t.Cleanup(func() {
		b.front.Close()
		b.mu.Lock()
		for _, f := range b.flows {
			f.up.Close()
		}
		b.mu.Unlock()
		b.g.Wait()
	})
	return b
}

func (b *udpbox) serve() {
	p := make([]byte, 4096)
	for {
		n, from, err := b.front.ReadFrom(p)
		if err != nil {
			return
		}
		if f := b.flow(from); f != nil && !b.loses() {
			f.up.WriteTo(p[:n], b.to)
		}
	}
}

func (b *udpbox) loses() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if mathrand.Float64() >= b.lose {
		return false
	}
	b.lost.Add(1)
	return true
}

// flow returns the way to the server for a client, nil if it is cut off.
func (b *udpbox) flow(client net.Addr) *udpFlow {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut[client.String()] {
		b.dropped.Add(1)
		return nil
	}
	f := b.flows[client.String()]
	if f == nil {
		f = &udpFlow{client: client, up: b.newUp()}
		b.flows[client.String()] = f
		b.g.Go(func() { b.back(f, f.up) })
	}
	return f
}

func (b *udpbox) back(f *udpFlow, up net.PacketConn) {
	p := make([]byte, 4096)
	for {
		n, _, err := up.ReadFrom(p)
		if err != nil {
			return
		}
		if !b.loses() {
			b.front.WriteTo(p[:n], f.client)
		}
	}
}

// Rebind gives every flow another port towards the server, as a NAT does that forgets.
func (b *udpbox) Rebind() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.flows {
		f.up.Close()
		f.up = b.newUp()
		up := f.up
		b.g.Go(func() { b.back(f, up) })
		b.swaps.Add(1)
	}
}

// CutOff lets nothing more through of the clients that there are.
func (b *udpbox) CutOff() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, f := range b.flows {
		b.cut[name] = true
		f.up.Close()
		delete(b.flows, name)
		n++
	}
	return n
}

// Proves that a client whose network lets no TCP out gets in by R-UDP, in each way that
// the real server takes it, and what it carries is whole.
func TestRUDPWhereTCPIsBlocked(t *testing.T) {
	t.Parallel()
	needTool(t, "nft", "nftables")
	w := newWorld(t)
	w.srv.Admin("VpnOverIcmpDnsEnable /ICMP:yes /DNS:yes", "Flush")
	port := w.rudpPort()
	t.Logf("the server's R-UDP port is %s", port)
	cmd := w.cli.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(blockTCP)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, row := range []struct {
		name     string
		flags    flags
		underlay string // as the server calls it
	}{
		{"direct", flags{"transport": "rudp", "rudp-port": port}, "VPN over UDP"},
		{"after TCP has failed", flags{"transport": "auto", "rudp-port": port}, "VPN over UDP"},
		{"as name look-ups", flags{"transport": "dns"}, "VPN over DNS"},
		{"as name look-ups, after TCP has failed", flags{"transport": "auto", "connections": "2"}, "VPN over DNS"},
		{"in ICMP messages", flags{"transport": "icmp"}, "VPN over ICMP"},
		{"compressed, so all in the stream", flags{"transport": "rudp", "rudp-port": port, "compress": "true"}, "VPN over UDP"},
		{"in the clear", flags{"transport": "rudp", "rudp-port": port, "insecure-no-encryption": "true"}, "VPN over UDP"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			before := w.blocked()
			f := usualFlags.with(flags{"log-level": "debug"}).with(row.flags)
			c := &client{w: w}
			if row.flags["transport"] == "icmp" { // which takes root
				path, err := buildClient()
				if err != nil {
					t.Fatal(err)
				}
				c.process = start(t, "softether-go", w.cli.Command(append([]string{path}, f.args()...)...))
			} else {
				c = w.StartClient(f)
			}
			c.WaitUp()
			w.checkTransfers(4 << 20)
			if got := w.sessionGet(); !strings.Contains(got["Physical Underlay Protocol"], row.underlay) {
				t.Errorf("the server says of the session %v, want %s", got, row.underlay)
			}
			if tcp := strings.Contains(row.flags["transport"], "auto"); tcp != (w.blocked() > before) {
				t.Errorf("%d packets of TCP were held back, and %d before; TCP was to be tried: %v", w.blocked(), before, tcp)
			}
			session := w.Session()
			c.Signal(os.Interrupt)
			<-c.done
			w.srv.Disconnect(session) // it would outlive its client for a while
		})
	}
}

// blocked returns how many packets of TCP were held back.
func (w *world) blocked() int {
	w.t.Helper()
	out := w.cli.output("nft", "list", "counter", "inet", "blocked", "dropped")
	m := counterPackets.FindStringSubmatch(out)
	if m == nil {
		w.t.Fatalf("no count in %s", out)
	}
	n := 0
	for _, digit := range m[1] {
		n = 10*n + int(digit-'0')
	}
	return n
}

// Proves that a session by R-UDP outlives loss, a NAT that forgets, and the end of its
// connection, and stays the same.
func TestRUDPOverABadNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := w.startUDPBox(w.rudpPort(), 0.03)
	c := w.StartClient(usualFlags.with(flags{"transport": "rudp", "rudp-port": udpboxPort, "log-level": "debug"}))
	c.WaitUp()
	before := w.Session()
	inner := w.dialEcho()
	inner.Check(10 * time.Second)
	d := w.startGated("lossy", 4<<20)
	w.lan.site.Open(d.name)
	d.Check(60 * time.Second)
	if box.lost.Load() == 0 {
		t.Error("nothing was lost")
	}

	box.Rebind()
	inner.Check(20 * time.Second)
	if box.swaps.Load() == 0 || strings.Contains(c.Log(), "connection lost") {
		t.Errorf("%d flows have another port; a lost connection: %v", box.swaps.Load(), strings.Contains(c.Log(), "connection lost"))
	}

	if n := box.CutOff(); n == 0 {
		t.Error("there was nobody to cut off")
	}
	c.WaitLog("session joined again", 40*time.Second)
	inner.Check(30 * time.Second)
	if got := w.Session(); got != before {
		t.Errorf("session %s, want %s still", got, before)
	}
	if box.dropped.Load() == 0 || !strings.Contains(c.Log(), "the server has been silent for 12 s") {
		t.Errorf("%d datagrams of the old connection were dropped, and the log says:\n%s", box.dropped.Load(), c.Log())
	}
}

// Proves that nobody at the port is told in time and in words.
func TestRUDPToTheWrongPort(t *testing.T) {
	t.Parallel()
	w := newBareWorld(t)
	for _, row := range []struct{ port, want string }{
		{"9", "connection refused"},
		{"1194", "nobody answers there"}, // OpenVPN's
	} {
		c := w.StartClient(usualFlags.with(flags{"transport": "rudp", "rudp-port": row.port}))
		c.WaitLog("R-UDP 198.18.0.1:"+row.port+": .*"+row.want, 30*time.Second)
		c.Signal(os.Interrupt)
		<-c.done
	}
}

// checkTransfers carries so much each way and compares its sums.
func (w *world) checkTransfers(size int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	conn, err := w.socksDial(ctx, net.JoinHostPort(lanGateway, "80"))
	if err != nil {
		w.t.Fatal(err)
	}
	begun := time.Now()
	if err := fetchStream(ctx, conn, "down", size); err != nil {
		w.t.Errorf("down: %v", err)
	}
	down := time.Since(begun)
	begun = time.Now()
	up := w.cli.Command("curl", "--silent", "--show-error", "--fail", "--max-time", "60", "--proxy", w.proxy,
		"--upload-file", "-", "http://"+siteName+"/sink")
	up.Stdin = streamOf("up", size)
	out, err := up.Output()
	if _, got, _ := strings.Cut(string(out), " "); err != nil || got != sumOf("up", size) {
		w.t.Errorf("up: the site received %q, %v", out, err)
	}
	w.t.Logf("%.0f Mbit/s down, %.0f up", 1000*gigabits(size, down), 1000*gigabits(size, time.Since(begun)))
}
