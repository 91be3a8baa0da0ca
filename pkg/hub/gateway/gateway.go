// Package gateway is the host behind an embedded hub: what a router is on a home
// network. It gives addresses by DHCP, names by DNS and a page by HTTP.
//
// # Theory of operation
//
// A Gateway is a frame.Endpoint, to be attached to a hub's switch, on top of the
// same network stack that the client uses. Serve runs its three servers on that
// stack until its context ends. It forwards nothing: the network ends here.
//
// # Limits
//
// Leases are bounded by the pool, DNS over TCP and HTTP by their deadlines. It is
// for demos and tests; it holds what it needs in memory and trusts nobody with
// more than that.
package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/netstack"
	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

// Config says what network to be the gateway of. The zero value is 10.77.0.1/24
// with the name hub.demo for itself.
type Config struct {
	Address  netip.Prefix          // the gateway's own; zero means 10.77.0.1/24
	Names    map[string]netip.Addr // lower case, without final dot; nil means hub.demo
	Domain   string                // given to clients to complete names; "" means demo
	Lease    time.Duration         // 0 means 1 h
	MTU      int                   // given to clients; 0 gives none
	Routes   []netcfg.Route        // given to clients as classless routes
	Truncate bool                  // answer DNS over UDP with "ask again over TCP"
	Log      *slog.Logger          // nil discards
}

// A Gateway is one host with three servers.
type Gateway struct {
	cfg   Config
	stack *netstack.Stack
	pool  pool
}

// New makes a gateway. The caller closes it.
func New(cfg Config) (*Gateway, error) {
	if !cfg.Address.IsValid() {
		cfg.Address = netip.MustParsePrefix("10.77.0.1/24")
	}
	if cfg.Names == nil {
		cfg.Names = map[string]netip.Addr{"hub.demo": cfg.Address.Addr()}
	}
	if cfg.Domain == "" {
		cfg.Domain = "demo"
	}
	if cfg.Lease == 0 {
		cfg.Lease = time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = 0x5e
	stack, err := netstack.New(netstack.Config{MAC: mac, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	if err := stack.Apply(context.Background(), netcfg.Config{Address: cfg.Address}); err != nil {
		stack.Close()
		return nil, err
	}
	return &Gateway{cfg: cfg, stack: stack, pool: newPool(cfg.Address, cfg.Lease)}, nil
}

// WriteFrames takes frames from the hub.
func (g *Gateway) WriteFrames(frames [][]byte) error { return g.stack.WriteFrames(frames) }

// Run hands the gateway's frames to the hub.
func (g *Gateway) Run(ctx context.Context, dst frame.Writer) error { return g.stack.Run(ctx, dst) }

// Close ends the stack and with it every connection.
func (g *Gateway) Close() error { return g.stack.Close() }

// Serve runs the servers until ctx ends, which it reports as ctx.Err(), or one
// fails.
func (g *Gateway) Serve(ctx context.Context) error {
	self := g.cfg.Address.Addr()
	dhcp, err := g.stack.ListenPacket(netip.AddrPortFrom(netip.IPv4Unspecified(), 67))
	if err != nil {
		return fmt.Errorf("gateway: DHCP: %w", err)
	}
	defer dhcp.Close()
	dns, err := g.stack.ListenPacket(netip.AddrPortFrom(self, 53))
	if err != nil {
		return fmt.Errorf("gateway: DNS: %w", err)
	}
	defer dns.Close()
	dnsTCP, err := g.stack.ListenTCP(netip.AddrPortFrom(self, 53))
	if err != nil {
		return fmt.Errorf("gateway: DNS over TCP: %w", err)
	}
	defer dnsTCP.Close()
	web, err := g.stack.ListenTCP(netip.AddrPortFrom(self, 80))
	if err != nil {
		return fmt.Errorf("gateway: HTTP: %w", err)
	}
	server := &http.Server{Handler: g.pages(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}

	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		dhcp.Close()
		dns.Close()
		dnsTCP.Close()
		server.Close()
	})
	defer stop()
	group.Go(func() error { return unlessClosed(ctx, g.serveDHCP(dhcp)) })
	group.Go(func() error { return unlessClosed(ctx, g.serveDNS(dns)) })
	group.Go(func() error { return unlessClosed(ctx, g.serveDNSTCP(ctx, dnsTCP)) })
	group.Go(func() error { return unlessClosed(ctx, server.Serve(web)) })
	return group.Wait()
}

// unlessClosed replaces the error of a server that was stopped by that of ctx.
func unlessClosed(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed)) {
		return ctx.Err()
	}
	return err
}

var _ frame.Endpoint = (*Gateway)(nil)
