package privnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is for what a busy machine does in milliseconds.
const patience = 30 * time.Second

// insideHere dials this machine in place of a namespace.
type insideHere struct{ tcp, udp string }

func (i insideHere) Dial(ctx context.Context, port string) (net.Conn, error) {
	network, _, _ := strings.Cut(port, "/")
	address := map[string]string{"tcp": i.tcp, "udp": i.udp}[network]
	if address == "" {
		return nil, errors.New("nobody listens")
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// publish opens a port and serves it until the test ends; it returns its address.
func publish(t *testing.T, network string, d Dialer) string {
	t.Helper()
	p, err := Publish([]Port{{Network: network, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Inside: 80}}, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { p.Serve(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return p.ports[0].Addr().String()
}

// Each direction ends by itself: the server answers once it has read everything.
func TestAPublishedConnectionIsThatToTheServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		c.Write([]byte(strings.ToUpper(string(b))))
	}()
	c, err := net.Dial("tcp", publish(t, "tcp", insideHere{tcp: l.Addr().String()}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "hello")
	c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "HELLO" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAPublishedPortWithoutAServerEndsTheConnection(t *testing.T) {
	c, err := net.Dial("tcp", publish(t, "tcp", insideHere{}))
	if errors.Is(err, syscall.ECONNRESET) {
		return // so soon
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %d bytes, %v, want the end", n, err)
	}
}

func TestEachClientOfAPublishedUDPPortHasItsOwnAnswers(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			server.WriteTo([]byte(strings.ToUpper(string(b[:n]))), from)
		}
	}()
	address := publish(t, "udp", insideHere{udp: server.LocalAddr().String()})
	for _, text := range []string{"one", "two"} {
		c, err := net.Dial("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 2 {
			c.SetDeadline(time.Now().Add(patience))
			io.WriteString(c, text)
			b := make([]byte, 10)
			if n, err := c.Read(b); string(b[:n]) != strings.ToUpper(text) {
				t.Errorf("got %q, %v", b[:n], err)
			}
		}
	}
}

func TestAPortThatIsTakenIsAnErrorAndNoneIsOpened(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	free := netip.MustParseAddrPort("127.0.0.1:0")
	taken := netip.MustParseAddrPort(busy.Addr().String())
	if _, err := Publish([]Port{{"tcp", free, 80}, {"udp", free, 53}, {"tcp", taken, 81}}, insideHere{}, nil); err == nil ||
		!strings.Contains(err.Error(), "publish: forward "+taken.String()+" to tcp/81: the port is in use") {
		t.Errorf("got %v", err)
	}
}
