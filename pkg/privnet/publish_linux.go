package privnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// datagramIdle is after how long without a datagram a client of a UDP port is
	// forgotten (RFC 4787, REQ-5: two minutes at least).
	datagramIdle = 2 * time.Minute
	// maxClients bounds the clients of a UDP port, each of which has a socket inside.
	maxClients = 256
	// acceptPause is the wait after an accept that failed, as for want of descriptors.
	acceptPause = 100 * time.Millisecond
)

// A Port of this machine that leads to one inside.
type Port struct {
	Network string         // tcp or udp
	Listen  netip.AddrPort // here
	Inside  uint16         // there
}

func (p Port) inside() string { return fmt.Sprintf("%s/%d", p.Network, p.Inside) }

// A Dialer connects inside; see Link.Dial.
type Dialer interface {
	Dial(ctx context.Context, port string) (net.Conn, error)
}

// Published are ports that are open.
type Published struct {
	dialer Dialer
	log    *slog.Logger
	tcp    []published[net.Listener]
	udp    []published[*net.UDPConn]
}

type published[T any] struct {
	Port
	socket T
}

// Publish opens all ports or none. Who connects before the server inside listens
// is refused. A nil log discards.
func Publish(ports []Port, d Dialer, log *slog.Logger) (*Published, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Published{dialer: d, log: log}
	for _, port := range ports {
		addr, err := p.open(port)
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("publish %s: %w", port.inside(), err)
		}
		log.Info("published", "listen", addr, "inside", port.inside())
	}
	return p, nil
}

func (p *Published) open(port Port) (net.Addr, error) {
	if port.Network == "udp" {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(port.Listen))
		if err != nil {
			return nil, err
		}
		p.udp = append(p.udp, published[*net.UDPConn]{port, c})
		return c.LocalAddr(), nil
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(port.Listen))
	if err != nil {
		return nil, err
	}
	p.tcp = append(p.tcp, published[net.Listener]{port, l})
	return l.Addr(), nil
}

// Close closes the ports. Serve closes what came by them.
func (p *Published) Close() {
	for _, l := range p.tcp {
		l.socket.Close()
	}
	for _, c := range p.udp {
		c.socket.Close()
	}
}

// Serve serves the ports until ctx ends, and closes them.
func (p *Published) Serve(ctx context.Context) error {
	var g sync.WaitGroup
	stop := context.AfterFunc(ctx, p.Close)
	defer stop()
	for _, l := range p.tcp {
		g.Go(func() { p.serveTCP(ctx, l, &g) })
	}
	for _, c := range p.udp {
		g.Go(func() { p.serveUDP(ctx, c) })
	}
	<-ctx.Done()
	g.Wait()
	return ctx.Err()
}

func (p *Published) serveTCP(ctx context.Context, l published[net.Listener], g *sync.WaitGroup) {
	for {
		c, err := l.socket.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			p.log.Warn("connection not accepted", "listen", l.Listen, "cause", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		g.Go(func() { p.relay(ctx, c, l.inside()) })
	}
}

// relay joins a connection to one inside, until both directions have ended.
func (p *Published) relay(ctx context.Context, c net.Conn, port string) {
	defer c.Close()
	inner, err := p.dialer.Dial(ctx, port)
	if err != nil {
		p.log.Debug("nobody inside", "port", port, "cause", err)
		_ = c.(*net.TCPConn).SetLinger(0) // for the client to hear of it as of a refusal
		return
	}
	defer inner.Close()
	stop := context.AfterFunc(ctx, func() {
		c.Close()
		inner.Close()
	})
	defer stop()
	var g sync.WaitGroup
	g.Go(func() { copyHalf(inner, c) })
	g.Go(func() { copyHalf(c, inner) })
	g.Wait()
}

// copyHalf copies one direction and its end.
func copyHalf(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil { // broken: neither direction has a use
		dst.Close()
		src.Close()
	}
}

// serveUDP gives each client a socket inside.
func (p *Published) serveUDP(ctx context.Context, l published[*net.UDPConn]) {
	var g sync.WaitGroup
	defer g.Wait()
	u := &datagrams{clients: map[netip.AddrPort]net.Conn{}}
	defer u.close()
	b := make([]byte, 1<<16)
	for {
		n, from, err := l.socket.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what an earlier datagram met
		}
		inner, fresh := u.find(from), false
		if inner == nil {
			if inner, err = p.dialer.Dial(ctx, l.inside()); err != nil || !u.add(from, inner) {
				if err == nil {
					inner.Close()
				}
				continue
			}
			fresh = true
		}
		_ = inner.SetReadDeadline(time.Now().Add(datagramIdle))
		_, _ = inner.Write(b[:n]) // as lost as any datagram
		if fresh {
			g.Go(func() {
				defer u.remove(from)
				carryAnswers(l.socket, from, inner)
			})
		}
	}
}

// carryAnswers carries a server's datagrams to a client until neither has sent any for long.
func carryAnswers(l *net.UDPConn, to netip.AddrPort, inner net.Conn) {
	b := make([]byte, 1<<16)
	for {
		n, err := inner.Read(b)
		if err != nil {
			return
		}
		_ = inner.SetReadDeadline(time.Now().Add(datagramIdle))
		_, _ = l.WriteToUDPAddrPort(b[:n], to)
	}
}

// datagrams are the clients of a UDP port.
type datagrams struct {
	mu      sync.Mutex
	closed  bool
	clients map[netip.AddrPort]net.Conn
}

func (u *datagrams) find(from netip.AddrPort) net.Conn {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.clients[from]
}

func (u *datagrams) add(from netip.AddrPort, c net.Conn) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || len(u.clients) >= maxClients {
		return false
	}
	u.clients[from] = c
	return true
}

func (u *datagrams) remove(from netip.AddrPort) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.clients[from]; c != nil {
		c.Close()
		delete(u.clients, from)
	}
}

func (u *datagrams) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, c := range u.clients {
		c.Close()
	}
}
