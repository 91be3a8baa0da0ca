package udpaccel

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
)

// A sea is a network of sockets in memory, for virtual time.
type sea struct {
	mu    sync.Mutex
	ports map[netip.AddrPort]*buoy
	// drop says what is lost.
	drop func(from, to netip.AddrPort, d []byte) bool
	seen [][]byte // all that was sent
}

func newSea() *sea {
	return &sea{ports: map[netip.AddrPort]*buoy{}, drop: func(netip.AddrPort, netip.AddrPort, []byte) bool { return false }}
}

type message struct {
	data []byte
	from netip.AddrPort
}

// A buoy is a net.PacketConn of a sea.
type buoy struct {
	sea      *sea
	mu       sync.Mutex
	at       netip.AddrPort
	in       chan message
	deadline chan struct{} // closed when it is over
	closed   chan struct{}
	once     sync.Once
}

func (s *sea) listen(at string) *buoy {
	b := &buoy{sea: s, at: netip.MustParseAddrPort(at), in: make(chan message, 1000), deadline: make(chan struct{}), closed: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports[b.at] = b
	return b
}

// move gives b another address, as a NAT does.
func (b *buoy) move(to string) {
	b.sea.mu.Lock()
	defer b.sea.mu.Unlock()
	delete(b.sea.ports, b.at)
	b.at = netip.MustParseAddrPort(to)
	b.sea.ports[b.at] = b
}

func (b *buoy) ReadFrom(p []byte) (int, net.Addr, error) {
	b.mu.Lock()
	deadline := b.deadline
	b.mu.Unlock()
	select {
	case <-b.closed:
		return 0, nil, net.ErrClosed
	case <-deadline:
		return 0, nil, os.ErrDeadlineExceeded
	case m := <-b.in:
		return copy(p, m.data), net.UDPAddrFromAddrPort(m.from), nil
	}
}

func (b *buoy) WriteTo(p []byte, to net.Addr) (int, error) {
	b.sea.mu.Lock()
	defer b.sea.mu.Unlock()
	target := addrPortOf(to)
	b.sea.seen = append(b.sea.seen, slices.Clone(p))
	if other := b.sea.ports[target]; other != nil && !b.sea.drop(b.at, target, p) {
		select {
		case other.in <- message{slices.Clone(p), b.at}:
		default:
		}
	}
	return len(p), nil
}

func (b *buoy) Close() error { b.once.Do(func() { close(b.closed) }); return nil }

func (b *buoy) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(b.at) }

func (b *buoy) SetReadDeadline(t time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	over := false
	select {
	case <-b.deadline:
		over = true
	default:
	}
	switch {
	case t.IsZero() && over:
		b.deadline = make(chan struct{})
	case !t.IsZero() && !over:
		close(b.deadline)
	}
	return nil
}

func (b *buoy) SetDeadline(t time.Time) error    { return b.SetReadDeadline(t) }
func (b *buoy) SetWriteDeadline(time.Time) error { return nil }

const (
	clientAt = "192.0.2.2:5000"
	serverAt = "192.0.2.1:40000"
)

// A side is a Path that runs in a sea, with what it receives.
type side struct {
	*Path
	socket *buoy
	got    frametest.Pipe
}

// sides are a client and a server that run until the test ends.
func sides(t *testing.T, s *sea, v Version, change func(*Config)) (client, server *side) {
	t.Helper()
	key := func(first byte) []byte { return count(first, v.keyLen()) }
	c := Config{Version: v, Fast: true, Wanted: true, SendKey: key(1), ReceiveKey: key(2), SendCookie: 11, ReceiveCookie: 22,
		Peers: []netip.AddrPort{netip.MustParseAddrPort(serverAt)}}
	if change != nil {
		change(&c)
	}
	d := Config{Version: v, Fast: c.Fast, Wanted: true, Compress: c.Compress, SendKey: key(2), ReceiveKey: key(1), SendCookie: 22, ReceiveCookie: 11,
		Peers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:9")}} // wrong, as behind a NAT
	client = startSide(t, s.listen(clientAt), c)
	server = startSide(t, s.listen(serverAt), d)
	return client, server
}

func startSide(t *testing.T, b *buoy, c Config) *side {
	t.Helper()
	p, err := New(b, c)
	if err != nil {
		t.Fatal(err)
	}
	s := &side{Path: p, socket: b}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, &s.got) }()
	t.Cleanup(func() {
		cancel()
		<-done
		p.Close()
	})
	return s
}

func testFrame(fill byte, n int) []byte {
	f := count(fill, frame.HeaderLen+n)
	frame.PutHeader(f, []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}, frame.TypeIPv4)
	return f
}
