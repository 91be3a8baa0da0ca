package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"softether-go/netstack"
	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

// open serves a forward until the test ends.
func open(t *testing.T, cfg Config) *Forward {
	t.Helper()
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.Serve(t.Context()) }() // t.Context ends before cleanups
	t.Cleanup(func() {
		if err := <-ended; !errors.Is(err, context.Canceled) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return f
}

// tcpServer serves each connection until the test ends, and returns its address.
func tcpServer(t *testing.T, ln net.Listener, serve func(net.Conn)) string {
	t.Helper()
	var g sync.WaitGroup
	g.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			g.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		g.Wait()
	})
	return ln.Addr().String()
}

// loopback listens on this machine.
func loopback(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// answerAll sends back what it gets once the client has said all, with a greeting.
func answerAll(c net.Conn) {
	b, _ := io.ReadAll(c)
	fmt.Fprintf(c, "you said %q", b)
}

// ask says a word, ends its half, and returns the answer.
func ask(t *testing.T, network, address, word string) (string, error) {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, word); err != nil {
		return "", err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestStreamsHaveTwoHalves(t *testing.T) {
	dir := t.TempDir()
	unix, err := net.Listen("unix", filepath.Join(dir, "target"))
	if err != nil {
		t.Fatal(err)
	}
	inUnix := tcpServer(t, unix, answerAll)
	inTCP := tcpServer(t, loopback(t), answerAll)
	for _, row := range []struct{ name, listen, target string }{
		{"a port to a port", "127.0.0.1:0", inTCP},
		{"a Unix socket to a port", filepath.Join(dir, "port"), inTCP},
		{"a port to a Unix socket", "127.0.0.1:0", inUnix},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := open(t, Config{Network: "tcp", From: Host{}, Listen: row.listen, To: Host{}, Target: row.target})
			got, err := ask(t, f.Addr().Network(), f.Addr().String(), "hello")
			if want := `you said "hello"`; got != want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
			f.Close()
			<-f.ended
			if st := f.Stats(); st.Accepted != 1 || st.Open != 0 || st.ToTarget != 5 || st.ToClients != 16 {
				t.Errorf("counters: %+v", st)
			}
		})
	}
}

// expectReset connects and wants to be reset, which may come as soon as that.
func expectReset(t *testing.T, f *Forward) {
	t.Helper()
	c, err := net.Dial("tcp", f.Addr().String())
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

// What cannot be bound says what to do about it.
func TestATakenPortSaysSo(t *testing.T) {
	taken := loopback(t)
	defer taken.Close()
	for _, network := range []string{"tcp", "udp"} {
		at := taken.Addr().String()
		if network == "udp" {
			pc, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			at = pc.LocalAddr().String()
		}
		if _, err := Open(Config{Network: network, From: Host{}, Listen: at, To: Host{}, Target: "h:1"}); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("%s: got %v", network, err)
		}
	}
}

// A target that is not there is what a port without a listener is.
func TestAClientWithoutATargetIsReset(t *testing.T) {
	ln := loopback(t)
	nobody := ln.Addr().String()
	ln.Close()
	f := open(t, Config{Network: "tcp", From: Host{}, Listen: "127.0.0.1:0", To: Host{}, Target: nobody})
	expectReset(t, f)
	if st := f.Stats(); st.Failed != 1 {
		t.Errorf("counters: %+v", st)
	}
}

func TestOneClientTooManyIsReset(t *testing.T) {
	target := tcpServer(t, loopback(t), func(c net.Conn) { io.Copy(c, c) })
	f := open(t, Config{Network: "tcp", From: Host{}, Listen: "127.0.0.1:0", To: Host{}, Target: target, MaxConns: 1})
	first, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	echo(t, first, "served")
	expectReset(t, f)
	echo(t, first, "served still")
	if st := f.Stats(); st.OverLimit != 1 || st.Open != 1 {
		t.Errorf("counters: %+v", st)
	}
}

// echo sends a word and waits for it.
func echo(t *testing.T, c net.Conn, word string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, word); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(word))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != word {
		t.Fatalf("got %q, %v; want %q", b, err, word)
	}
}

// withClient is a forward to a server that echoes, with one client.
func withClient(t *testing.T) (*Forward, net.Conn) {
	t.Helper()
	target := tcpServer(t, loopback(t), func(c net.Conn) { io.Copy(c, c) })
	f := open(t, Config{Network: "tcp", From: Host{}, Listen: "127.0.0.1:0", To: Host{}, Target: target})
	c, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	echo(t, c, "before")
	return f, c
}

func TestShutdownLetsClientsFinish(t *testing.T) {
	f, c := withClient(t)
	down := make(chan error, 1)
	go func() { down <- f.Shutdown(t.Context()) }()
	<-f.stopped
	echo(t, c, "while it waits")
	c.Close()
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := net.Dial("tcp", f.Addr().String()); err == nil {
		t.Error("a client was taken after Shutdown")
	}
}

func TestShutdownCutsThoseWhoStay(t *testing.T) {
	f, c := withClient(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("got %v, want a reset", err)
	}
}

// A socket file whose listener was killed is in nobody's way, and one in use stays.
func TestAbandonedSocketsAreReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (Host{}).Listen("unix", path); err == nil {
		t.Fatal("a socket in use was taken")
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	old.Close()
	ln, err := Host{}.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want a socket of the user alone", info.Mode(), err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (Host{}).Listen("unix", file); err == nil {
		t.Error("a file that is no socket was replaced")
	}
}

// udpServer answers each datagram with what answer says, until the test ends.
func udpServer(t *testing.T, answer func([]byte) []byte) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	g.Go(func() {
		b := make([]byte, maxDatagram)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if out := answer(b[:n]); out != nil {
				pc.WriteTo(out, from)
			}
		}
	})
	t.Cleanup(func() {
		pc.Close()
		g.Wait()
	})
	return pc.LocalAddr().String()
}

// udpClient returns a client of f, at the address that it is bound to.
func udpClient(t *testing.T, f *Forward) net.Conn {
	t.Helper()
	return udpClientAt(t, f, addrPort(f.Addr()).Addr().String())
}

// udpClientAt returns a client of f at an address of this machine, who hears of no other.
func udpClientAt(t *testing.T, f *Forward, host string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(host), addrPort(f.Addr()).Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// exchange sends a datagram and returns the next that comes.
func exchange(t *testing.T, c net.Conn, b []byte) []byte {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	out := make([]byte, maxDatagram)
	n, err := c.Read(out)
	if err != nil {
		t.Fatal(err)
	}
	return out[:n]
}

func TestDatagramsOfAllSizesFindBack(t *testing.T) {
	target := udpServer(t, func(b []byte) []byte { return append([]byte{}, b...) })
	f := open(t, Config{Network: "udp", From: Host{}, Listen: "127.0.0.1:0", To: Host{}, Target: target})
	a, b := udpClient(t, f), udpClient(t, f)
	for _, size := range []int{0, 1, 1472, 9000, 65507} {
		for i, c := range []net.Conn{a, b} {
			want := bytes.Repeat([]byte{byte('a' + i)}, size)
			if got := exchange(t, c, want); !bytes.Equal(got, want) {
				t.Errorf("client %d, %d bytes: got %d others", i, size, len(got))
			}
		}
	}
	if st := f.Stats(); st.Open != 2 || st.Accepted != 2 || st.Datagrams != 20 || st.Dropped != 0 || st.ToTarget != st.ToClients {
		t.Errorf("counters: %+v", st)
	}
}

// slowly dials after a while, as a name server that has to be asked makes it.
type slowly struct {
	Host
	wait chan struct{}
	err  error
	n    atomic.Int32
}

func (s *slowly) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	s.n.Add(1)
	select {
	case <-s.wait:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.err != nil {
		return nil, s.err
	}
	return s.Host.DialContext(ctx, network, address)
}

func TestAFirstFlightWaitsForItsSocket(t *testing.T) {
	target := udpServer(t, func(b []byte) []byte { return append([]byte{}, b...) })
	to := &slowly{wait: make(chan struct{})}
	f := open(t, Config{Network: "udp", From: Host{}, Listen: "127.0.0.1:0", To: to, Target: target})
	c := udpClient(t, f)
	for i := range maxAhead + 3 {
		fmt.Fprint(c, i)
	}
	for f.Stats().Dropped < 3 {
		time.Sleep(time.Millisecond)
	}
	close(to.wait)
	b := make([]byte, 10)
	for i := range maxAhead {
		n, err := c.Read(b)
		if err != nil || string(b[:n]) != fmt.Sprint(i) {
			t.Fatalf("datagram %d: got %q, %v", i, b[:n], err)
		}
	}
}

// What waits for sockets is bounded over all flows, and the room is given back.
func TestWhatWaitsForSocketsIsBounded(t *testing.T) {
	to := &slowly{wait: make(chan struct{}), err: errors.New("no such host")}
	f := open(t, Config{Network: "udp", From: Host{}, Listen: "127.0.0.1:0", To: to, Target: "nobody:1"})
	big := make([]byte, 60000)
	const clients = maxAheadBytes/60000 + 10
	for i := range uint64(clients) {
		if _, err := udpClient(t, f).Write(big); err != nil {
			t.Fatal(err)
		}
		for f.Stats().Accepted == i { // or the socket drops them
			time.Sleep(time.Millisecond)
		}
	}
	for end := time.Now().Add(20 * time.Second); f.Stats().Dropped == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing was dropped: %+v", f.Stats())
		}
	}
	close(to.wait)
	for end := time.Now().Add(20 * time.Second); f.Stats().Open > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("counters: %+v", f.Stats())
		}
	}
	if st := f.Stats(); st.Dropped != st.Accepted || st.ToTarget != 0 {
		t.Errorf("counters: %+v, want each datagram dropped once", st)
	}
}

// Nothing is allocated for a datagram, and no goroutine started.
func TestADatagramCostsNothingButItsCopies(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	f := open(t, Config{Network: "udp", From: Host{}, Listen: "127.0.0.1:0", To: Host{}, Target: pc.LocalAddr().String(), ProxyHeader: true})
	c := udpClient(t, f)
	msg, out := make([]byte, 1000), make([]byte, 2000)
	round := func() {
		if _, err := c.Write(msg); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(out); err != nil {
			t.Fatal(err)
		}
	}
	round()
	before := runtime.NumGoroutine()
	if got := testing.AllocsPerRun(500, round); got != 0 {
		t.Errorf("allocations for a datagram there and back: %v, want none", got)
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("goroutines: %d before and %d after", before, after)
	}
}

// A target that cannot be reached is not asked for at each datagram.
func TestAFlowWithoutATargetIsNotDialedForEachDatagram(t *testing.T) {
	to := &slowly{wait: make(chan struct{}), err: errors.New("no such host")}
	close(to.wait)
	f := open(t, Config{Network: "udp", From: Host{}, Listen: "127.0.0.1:0", To: to, Target: "nobody:1"})
	c := udpClient(t, f)
	for range 100 {
		fmt.Fprint(c, "x")
		time.Sleep(time.Millisecond)
	}
	if n := to.n.Load(); n > 2 {
		t.Errorf("dialed %d times within a tenth of a second, want once, or twice on a slow machine", n)
	}
}

func TestFlowsEndWhenNobodySpeaks(t *testing.T) {
	target := udpServer(t, func(b []byte) []byte { return b })
	f := open(t, Config{Network: "udp", From: Host{}, Listen: "127.0.0.1:0", To: Host{}, Target: target, FlowIdle: 50 * time.Millisecond})
	c := udpClient(t, f)
	exchange(t, c, []byte("x"))
	for end := time.Now().Add(20 * time.Second); f.Stats().Open > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the flow has not ended")
		}
	}
	exchange(t, c, []byte("again")) // a new one
	if st := f.Stats(); st.Accepted != 2 {
		t.Errorf("counters: %+v", st)
	}
}

// Strangers that fill the table do not push out whoever is talking.
func TestAFullTableKeepsThoseWhoTalk(t *testing.T) {
	target := udpServer(t, func(b []byte) []byte { return append([]byte{}, b...) })
	f := open(t, Config{Network: "udp", From: Host{}, Listen: "127.0.0.1:0", To: Host{}, Target: target, MaxFlows: 1})
	c := udpClient(t, f)
	exchange(t, c, []byte("talk"))
	for range 10 {
		fmt.Fprint(udpClient(t, f), "me too")
	}
	exchange(t, c, []byte("on"))
	for end := time.Now().Add(20 * time.Second); f.Stats().OverLimit < 10; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("counters: %+v", f.Stats())
		}
	}
}

func TestProxyHeadersTellWhoTheClientIs(t *testing.T) {
	addr := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	for _, row := range []struct {
		name      string
		transport byte
		src, dst  net.Addr
		want      string
	}{
		{"IPv4", stream, addr("10.0.0.5:4660"), addr("10.0.0.1:80"),
			proxySignature + "\x21\x11\x00\x0c\x0a\x00\x00\x05\x0a\x00\x00\x01\x12\x34\x00\x50"},
		{"IPv4 in IPv6", datagrams, addr("[::ffff:10.0.0.5]:4660"), addr("10.0.0.1:80"),
			proxySignature + "\x21\x12\x00\x0c\x0a\x00\x00\x05\x0a\x00\x00\x01\x12\x34\x00\x50"},
		{"IPv6", stream, addr("[fd00::5]:4660"), addr("[fd00::1]:80"),
			proxySignature + "\x21\x21\x00\x24\xfd" + strings.Repeat("\x00", 14) + "\x05\xfd" + strings.Repeat("\x00", 14) + "\x01\x12\x34\x00\x50"},
		{"IPv4 to a place unknown", datagrams, addr("10.0.0.5:4660"), addr("[::]:80"),
			proxySignature + "\x21\x12\x00\x0c\x0a\x00\x00\x05\x00\x00\x00\x00\x12\x34\x00\x50"},
		{"a Unix socket", stream, &net.UnixAddr{}, &net.UnixAddr{Name: "/s"}, proxySignature + "\x21\x00\x00\x00"},
	} {
		if got := string(appendProxyHeader(nil, row.transport, row.src, row.dst)); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		} else if len(got) > maxProxyHeader {
			t.Errorf("%s: %d bytes, which is more than the most", row.name, len(got))
		}
	}

	server := tcpServer(t, loopback(t), answerAll)
	f := open(t, Config{Network: "tcp", From: Host{}, Listen: "127.0.0.1:0", To: Host{}, Target: server, ProxyHeader: true})
	got, err := ask(t, "tcp", f.Addr().String(), "GET")
	if want := `\r\n\r\n\x00\r\nQUIT\n!\x11\x00\f\x7f\x00\x00\x01\x7f\x00\x00\x01`; err != nil || !strings.Contains(got, want) || !strings.HasSuffix(got, `GET"`) {
		t.Errorf("a connection's target got %s (%v), want %s", got, err, want)
	}

	target := udpServer(t, func(b []byte) []byte { return append([]byte{}, b...) })
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		f = open(t, Config{Network: "udp", From: Host{}, Listen: listen, To: Host{}, Target: target, ProxyHeader: true})
		c := udpClientAt(t, f, "127.0.0.1")
		for _, word := range []string{"first", "second"} { // each of them has one
			want := string(appendProxyHeader(nil, datagrams, c.LocalAddr(), c.RemoteAddr())) + word
			if got := string(exchange(t, c, []byte(word))); got != want {
				t.Errorf("%s: a datagram's target got %q, want %q", listen, got, want)
			}
		}
	}
}

// One client at two addresses of ours is two flows, and each has its answers from where it
// went.
func TestFlowsAreOfTheAddressTheyCameTo(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("all of 127.0.0.0/8 is this machine on Linux alone")
	}
	target := udpServer(t, func(b []byte) []byte { return append([]byte{}, b...) })
	f := open(t, Config{Network: "udp", From: Host{}, Listen: "0.0.0.0:0", To: Host{}, Target: target})
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	pc.SetDeadline(time.Now().Add(20 * time.Second))
	for _, host := range []string{"127.0.0.1", "127.0.0.2"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(host), addrPort(f.Addr()).Port())
		if _, err := pc.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(at)); err != nil {
			t.Fatal(err)
		}
		if _, from, err := pc.ReadFrom(make([]byte, 10)); err != nil || from.String() != at.String() {
			t.Errorf("at %s: an answer from %v, %v", host, from, err)
		}
	}
	if st := f.Stats(); st.Open != 2 || st.Dropped != 0 {
		t.Errorf("counters: %+v", st)
	}
}

// inVPN is a stack as a network.
type inVPN struct{ *netstack.Stack }

func (n inVPN) Listen(_, address string) (net.Listener, error) {
	return n.ListenTCP(netip.MustParseAddrPort(address))
}

func (n inVPN) ListenPacket(_, address string) (net.PacketConn, error) {
	return n.Stack.ListenPacket(netip.MustParseAddrPort(address))
}

// cable joins two stacks back to back, with these addresses.
func cable(t *testing.T, left, right string) (a, b inVPN) {
	t.Helper()
	made := make([]inVPN, 2)
	for i, address := range []string{left, right} {
		s, err := netstack.New(netstack.Config{MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}})
		if err != nil {
			t.Fatal(err)
		}
		made[i] = inVPN{s}
		made[i].apply(t, address)
	}
	a, b = made[0], made[1]
	ctx, cancel := context.WithCancel(context.Background())
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		_ = frame.Join(ctx, a, b)
	}()
	t.Cleanup(func() {
		a.Close()
		b.Close()
		cancel()
		<-joined
	})
	return a, b
}

func (n inVPN) apply(t *testing.T, address string) {
	t.Helper()
	if err := n.Apply(context.Background(), netcfg.Config{Address: netip.MustParsePrefix(address)}); err != nil {
		t.Fatal(err)
	}
}

// A forward from the VPN outlives the address that it was reached by.
func TestForwardsFromTheVPNOutliveAnAddress(t *testing.T) {
	ours, theirs := cable(t, "10.0.0.5/24", "10.0.0.9/24")
	server := tcpServer(t, loopback(t), answerAll)
	echoes := udpServer(t, func(b []byte) []byte { return append([]byte{}, b...) })
	tcp := open(t, Config{Network: "tcp", From: ours, Listen: "0.0.0.0:80", To: Host{}, Target: server, ProxyHeader: true})
	udp := open(t, Config{Network: "udp", From: ours, Listen: "0.0.0.0:53", To: Host{}, Target: echoes, ProxyHeader: true})
	for _, address := range []string{"10.0.0.5", "10.0.0.6"} {
		ours.apply(t, address+"/24")
		c, err := theirs.DialContext(t.Context(), "tcp", address+":80")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "hello")
		c.(interface{ CloseWrite() error }).CloseWrite()
		b, err := io.ReadAll(c)
		if want := `\n\x00\x00\t\n\x00\x00` + fmt.Sprintf(`\x%02x`, address[len(address)-1]-'0'); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: got %s (%v), want the client's and our address %s", address, b, err, want)
		}
		c.Close()
		u, err := theirs.DialContext(t.Context(), "udp", address+":53")
		if err != nil {
			t.Fatal(err)
		}
		u.SetDeadline(time.Now().Add(20 * time.Second))
		want := string(appendProxyHeader(nil, datagrams, u.LocalAddr(), u.RemoteAddr())) + "datagram"
		if got := exchange(t, u, []byte("datagram")); string(got) != want {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
		u.Close()
	}
	if a, b := tcp.Stats().Accepted, udp.Stats().Accepted; a != 2 || b != 2 {
		t.Errorf("accepted %d and %d, want 2 and 2", a, b)
	}
}

// A flow into the VPN goes on when the address has changed, with a socket of the new one.
func TestForwardsIntoTheVPNOutliveAnAddress(t *testing.T) {
	ours, theirs := cable(t, "10.0.0.5/24", "10.0.0.9/24")
	pc, err := theirs.ListenPacket("udp", "10.0.0.9:53")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(append(b[:n:n], " from "+from.(*net.UDPAddr).IP.String()...), from)
		}
	}()
	f := open(t, Config{Network: "udp", From: Host{}, Listen: "127.0.0.1:0", To: ours, Target: "10.0.0.9:53"})
	c := udpClient(t, f)
	if got := string(exchange(t, c, []byte("x"))); got != "x from 10.0.0.5" {
		t.Fatalf("got %q", got)
	}
	ours.apply(t, "10.0.0.6/24")
	for end := time.Now().Add(20 * time.Second); ; { // a datagram may meet the old flow's end
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		fmt.Fprint(c, "y")
		b := make([]byte, 100)
		if n, err := c.Read(b); err == nil {
			if string(b[:n]) != "y from 10.0.0.6" {
				t.Errorf("got %q", b[:n])
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal("no answer after the address has changed")
		}
	}
}
