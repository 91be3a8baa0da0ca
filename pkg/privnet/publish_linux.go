package privnet

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"softether-go/pkg/forward"
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
type Published struct{ ports []*forward.Forward }

// Publish opens all ports or none. Who connects before the server inside listens
// is refused. A nil log discards.
func Publish(ports []Port, d Dialer, log *slog.Logger) (*Published, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := new(Published)
	for _, port := range ports {
		f, err := forward.Open(forward.Config{Network: port.Network, From: forward.Host{}, Listen: port.Listen.String(),
			To: insideOf{d}, Target: port.inside(), Unreliable: true, Log: log})
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("publish: %w", err)
		}
		p.ports = append(p.ports, f)
		log.Info("published", "listen", f.Addr(), "inside", port.inside())
	}
	return p, nil
}

// Close closes the ports, and cuts off who came by them.
func (p *Published) Close() {
	for _, f := range p.ports {
		f.Close()
	}
}

// Serve serves the ports until ctx ends, and closes them.
func (p *Published) Serve(ctx context.Context) error {
	var g sync.WaitGroup
	for _, f := range p.ports {
		g.Go(func() { _ = f.Serve(ctx) }) // it ends with ctx, or with the port
	}
	<-ctx.Done()
	g.Wait()
	return ctx.Err()
}

// insideOf is a namespace to dial in: the address is a port there.
type insideOf struct{ Dialer }

// DialContext connects inside.
func (n insideOf) DialContext(ctx context.Context, _, port string) (net.Conn, error) {
	return n.Dial(ctx, port)
}
