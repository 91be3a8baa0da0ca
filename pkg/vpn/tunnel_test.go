package vpn_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"softether-go/pkg/client"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/hub"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/session"
	"softether-go/pkg/vpn"
	"softether-go/pkg/wire"
)

// dial joins a lab's VPN until the test ends.
func dial(t *testing.T, cfg vpn.Config) *vpn.Tunnel {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tunnel, err := vpn.Dial(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tunnel.Close() })
	return tunnel
}

func newLab(t *testing.T) lab {
	l := startLab()
	t.Cleanup(l.stop)
	return l
}

func TestDialSaysWhyItWasInVain(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close() // nobody is there
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = vpn.Dial(ctx, vpn.Config{Session: session.Config{Host: "127.0.0.1", Port: port, Hub: "VPN", User: "alice"}})
	var se *session.Error
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &se) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want the deadline and a refused connection in a session.Error", err)
	}
}

func TestDialDoesNotTrustASelfSignedServer(t *testing.T) {
	cfg := newLab(t).config()
	cfg.Session.Trust = session.Trust{}
	_, err := vpn.Dial(t.Context(), cfg)
	var untrusted *session.UntrustedError
	if !errors.As(err, &untrusted) {
		t.Fatalf("got %v, want an UntrustedError", err)
	}
	cfg.Session.Trust.Insecure = true
	dial(t, cfg)
}

func TestCloseEndsWhatTheTunnelOpened(t *testing.T) {
	tunnel := dial(t, newLab(t).config())
	conn, err := tunnel.DialContext(t.Context(), "tcp", "hub.demo:80")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tunnel.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := tunnel.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	if tunnel.Err() != nil || tunnel.State() != client.Up {
		t.Errorf("it says that it has ended: %v, %v", tunnel.Err(), tunnel.State())
	}
	ends := make(chan error, 3)
	go func() { _, err := conn.Read(make([]byte, 1)); ends <- err }()
	go func() { _, err := listener.Accept(); ends <- err }()
	go func() { _, _, err := packets.ReadFrom(make([]byte, 1)); ends <- err }()
	tunnel.Close()
	tunnel.Close() // does nothing
	for range 3 {
		if err := <-ends; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
	}
	select {
	case <-tunnel.Done():
	default:
		t.Error("Done is open after Close")
	}
	if !errors.Is(tunnel.Err(), net.ErrClosed) {
		t.Errorf("Err: %v, want net.ErrClosed", tunnel.Err())
	}
	if _, err := tunnel.DialContext(t.Context(), "tcp", "10.77.0.1:80"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a dial after Close: %v", err)
	}
}

// A tunnel that the caller runs closes when the caller says so.
func TestOpenTakesListenersBeforeItRuns(t *testing.T) {
	lab := newLab(t)
	tunnel, err := vpn.Open(lab.config())
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	listener, err := tunnel.Listen("tcp4", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- tunnel.Run(ctx) }()
	<-tunnel.Up()
	go func() {
		c, err := dial(t, lab.config()).DialContext(ctx, "tcp", netip.AddrPortFrom(tunnel.Address().Address.Addr(), 7000).String())
		if err == nil {
			io.WriteString(c, "x")
			c.Close()
		}
	}()
	c, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); string(b) != "x" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	c.Close()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
}

// A lost session is none of the user's business: connections go on, listeners stay. One
// that is refused for good ends the tunnel, with the server's reason.
func TestATunnelOutlivesItsSessions(t *testing.T) {
	lab := newLab(t)
	cfg := lab.config()
	cfg.ReconnectDelay = 10 * time.Millisecond
	server, caller := dial(t, cfg), dial(t, cfg)
	listener, err := server.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	address := netip.AddrPortFrom(server.Address().Address.Addr(), 7000).String()
	c, err := caller.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	echo := func(c net.Conn, word string) {
		t.Helper()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, word)
		b := make([]byte, len(word))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != word {
			t.Fatalf("got %q, %v; want %q", b, err, word)
		}
	}
	echo(c, "before")
	lost := lab.hub.KickAll()
	echo(c, "after")
	if lost != 2 {
		t.Errorf("%d sessions were lost, want 2", lost)
	}
	again, err := caller.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	echo(again, "a new one")

	fault := &hub.Fault{Step: hub.BeforeWelcome, Kind: hub.Refuse, Code: wire.CodeAuthFailed}
	defer lab.hub.Inject(fault)()
	lab.hub.KickAll()
	select {
	case <-caller.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the tunnel goes on though it is refused")
	}
	var se *session.Error
	if err := caller.Err(); !errors.As(err, &se) || !errors.Is(err, wire.CodeAuthFailed) || se.Advice() != wire.Never {
		t.Errorf("Err: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, net.ErrClosed) {
		t.Errorf("a connection of the ended tunnel: %v", err)
	}
	if _, err := caller.DialContext(t.Context(), "tcp", address); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a dial in the ended tunnel: %v", err)
	}
}

func TestListenTakesNoNames(t *testing.T) {
	tunnel, err := vpn.Open(vpn.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	for _, row := range []struct{ network, address, want string }{
		{"udp", ":80", "unknown network"},
		{"tcp5", ":80", "unknown network"},
		{"tcp", "localhost:80", "not an address"},
		{"tcp", "80", "not an address"},
	} {
		if _, err := tunnel.Listen(row.network, row.address); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("Listen(%q, %q): %v, want %q", row.network, row.address, err, row.want)
		}
	}
	if _, err := tunnel.ListenPacket("tcp", ":80"); err == nil {
		t.Error("ListenPacket took tcp")
	}
}

// What LookupNetIP does not know goes to the VPN's name servers too.
func TestResolverAsksTheVPN(t *testing.T) {
	tunnel := dial(t, newLab(t).config())
	got, err := tunnel.Resolver().LookupNetIP(t.Context(), "ip4", "hub.demo.")
	if err != nil || len(got) != 1 || got[0] != netip.MustParseAddr("10.77.0.1") {
		t.Errorf("hub.demo: %v, %v", got, err)
	}
	var dns *net.DNSError
	if _, err := tunnel.Resolver().LookupNetIP(t.Context(), "ip4", "nobody.demo."); !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("nobody.demo: %v, want not found", err)
	}
}

// end is a test pipe as an End.
type end struct{ frametest.Pipe }

func (*end) MAC() net.HardwareAddr                       { return net.HardwareAddr{2, 0, 0, 0, 0, 1} }
func (*end) Apply(context.Context, netcfg.Config) error  { return nil }
func (*end) Protect(context.Context, []netip.Addr) error { return errors.New("no way out") }
func (*end) Watch(context.Context) error                 { return errors.New("unplugged") }

// An End that fails ends its Line, and the way asks it before each connection.
func TestALineListensToItsEnd(t *testing.T) {
	cfg := newLab(t).config()
	line := vpn.New(cfg, new(end))
	if err := line.Run(t.Context()); err == nil || err.Error() != "unplugged" {
		t.Errorf("got %v, want the end's error", err)
	}
	held := new(protected)
	line = vpn.New(cfg, held)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	held.asked = cancel
	if err := line.Run(ctx); !errors.Is(err, context.Canceled) || len(held.servers) != 1 {
		t.Errorf("got %v, told of %v", err, held.servers)
	}
}

type protected struct {
	frametest.Pipe
	asked   func()
	servers []netip.Addr
}

func (*protected) MAC() net.HardwareAddr                      { return net.HardwareAddr{2, 0, 0, 0, 0, 1} }
func (*protected) Apply(context.Context, netcfg.Config) error { return nil }
func (p *protected) Protect(_ context.Context, servers []netip.Addr) error {
	p.servers = servers
	p.asked()
	return errors.New("no way out")
}
