// Package addresses leads the life of a host's addresses in the hub: gets them, keeps
// them, gives them back, whatever the host is.
//
// # Theory of operation
//
// A Keeper owns no network. Lead configures a host for one session, which it is handed as
// a frame.Writer, and hears by Filter, a Writer in the inbound path:
//
//	session ──► Filter: autoconf, dhcp ──► the host
//	session ◄── Lead:   autoconf, dhcp ──► Configurer.Apply
//
// IPv4 and IPv6 are led side by side and applied as one. The host may send once there is
// an IPv4 address, or if none comes for some seconds, an IPv6 address that leads beyond
// the link; a hub that has only one of them will do.
//
// A Keeper lives through many sessions, and so do the addresses. A server may drop frames
// from addresses that it did not see leased in this very session, so each session asks
// again, beginning with what we had.
package addresses

import (
	"context"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/autoconf"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

// A Configurer gives a host its network configuration. Apply may be called with the same
// value again, which makes the host announce itself to a network that may have forgotten
// it; the zero Config takes all back. An error means that the configuration cannot work
// here.
type Configurer interface {
	Apply(context.Context, netcfg.Config) error
}

// Config says where addresses come from. The zero Config is for a host without any.
type Config struct {
	DHCP   *dhcp.Config // asks for IPv4 addresses; nil means that Static is used as it is
	Static netcfg.Config
	// IPv6 has the host configured by routers' advertisements and DHCPv6, beside what DHCP
	// or Static say; nil leaves IPv6 to the host.
	IPv6 *autoconf.Config
	// Adjust, if set, changes what is applied: a lease, a Static beside IPv6, or both.
	Adjust func(netcfg.Config) netcfg.Config
}

// Any reports whether there are to be any addresses.
func (c Config) Any() bool { return c.DHCP != nil || c.IPv6 != nil || !c.Static.IsZero() }

// expects4 reports whether there is to be an IPv4 address.
func (c Config) expects4() bool { return c.DHCP != nil || c.Static.Address.IsValid() }

// Failed marks an error of the Configurer, which is no fault of the network.
type Failed struct{ error }

func (f Failed) Unwrap() error { return f.error }

// A Keeper keeps the addresses of one host.
type Keeper struct {
	cfg  Config
	to   Configurer
	log  *slog.Logger
	dhcp *dhcp.Client     // nil with static addresses
	auto *autoconf.Client // nil without IPv6

	mu      sync.Mutex    // guards the fields below; held across Apply
	v4, v6  netcfg.Config // what each family wants
	applied netcfg.Config // what they came to; zero before the first
}

// New returns a Keeper that Lead brings to life. What it comes to is applied to to. A nil
// log discards.
func New(cfg Config, to Configurer, log *slog.Logger) *Keeper {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{cfg: cfg, to: to, log: log}
	if cfg.DHCP != nil {
		k.dhcp = dhcp.New(*cfg.DHCP)
	}
	if cfg.IPv6 != nil {
		k.auto = autoconf.New(*cfg.IPv6)
	}
	return k
}

// Filter returns a Writer for the inbound path of a session, before the host.
func (k *Keeper) Filter(next frame.Writer) frame.Writer {
	if k.dhcp != nil {
		next = k.dhcp.Filter(next)
	}
	if k.auto != nil {
		next = k.auto.Filter(next)
	}
	return next
}

// Yield says that the host sends now, and so answers questions about its addresses by
// itself. Filter takes it back.
func (k *Keeper) Yield() {
	if k.auto != nil {
		k.auto.Yield()
	}
}

// Release gives the leases back through out. That they may not get through is no error:
// leases end.
func (k *Keeper) Release(ctx context.Context, out frame.Writer) {
	var g errgroup.Group
	if k.dhcp != nil {
		g.Go(func() error { return k.dhcp.Release(ctx, out) })
	}
	if k.auto != nil {
		g.Go(func() error { return k.auto.Release(ctx, out) })
	}
	if err := g.Wait(); err != nil {
		k.log.Debug("lease not released", "cause", err)
	}
}

// Unconfigure takes all addresses from the host, if there are to be any.
func (k *Keeper) Unconfigure() error {
	if !k.cfg.Any() {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.v4, k.v6, k.applied = netcfg.Config{}, netcfg.Config{}, netcfg.Config{}
	return k.to.Apply(context.Background(), netcfg.Config{})
}

// DHCP counts what came to nothing while addresses were asked for; has is false if they
// never are. It may be called from any goroutine.
func (k *Keeper) DHCP() (n dhcp.Stats, has bool) {
	if k.dhcp == nil {
		return n, false
	}
	return k.dhcp.Stats(), true
}

// IPv6 is the same of IPv6.
func (k *Keeper) IPv6() (n autoconf.Stats, has bool) {
	if k.auto == nil {
		return n, false
	}
	return k.auto.Stats(), true
}
