package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"softether-go/pkg/client"
	"softether-go/pkg/config"
	"softether-go/pkg/health"
	"softether-go/pkg/vpn"
	"softether-go/proxy"
)

// program is one assembled VPN: the life of it on the local end of the tunnel, and the
// proxies and forwards on top of that if it is a stack of our own.
type program struct {
	*vpn.Line
	log      *slog.Logger
	end      io.Closer
	proxies  *proxies
	forwards forwards
	health   *teller
	own      *ownPorts
	manager  *notifier // of services; nil tells nobody
	drain    time.Duration
	leave    func() error // what is to be done before the session ends; may be nil

	showEvery time.Duration // between log lines with the counters; 0 means none
	tables    io.Writer     // for tables of the counters
}

// A localEnd is the near end of the tunnel on this machine. Its Close takes back all
// that was put there; a second call does nothing.
type localEnd interface {
	vpn.End
	io.Closer
}

// newProgram builds everything and binds the listeners, so that what cannot work here
// fails before the server hears of us.
func newProgram(ctx context.Context, cfg config.Config, log *slog.Logger) (*program, error) {
	p, err := newBareProgram(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	return p.toldOf(ctx, cfg.Service)
}

// newBareProgram is newProgram without those who ask how it is.
func newBareProgram(ctx context.Context, cfg config.Config, log *slog.Logger) (*program, error) {
	vc, err := vpnConfig(cfg, log)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.TAP.Monitor:
		end, err := openMonitor(cfg, log)
		if err != nil {
			return nil, err
		}
		return assemble(vc, end, cfg), nil
	case cfg.TAP.Bridge != "":
		end, err := openBridge(cfg, log)
		if err != nil {
			return nil, err
		}
		return assemble(vc, end, cfg), nil
	case cfg.Mode == config.ModeTAP:
		end, err := openTAP(cfg, log)
		if err != nil {
			return nil, err
		}
		return assemble(vc, end, cfg), nil
	}
	if cfg.Proxy.Isolate {
		return newIsolatedProgram(ctx, vc, cfg, log)
	}
	return newProxyProgram(ctx, vc, cfg, log)
}

// newProxyProgram serves proxies and forwards on a stack of our own.
func newProxyProgram(ctx context.Context, vc vpn.Config, cfg config.Config, log *slog.Logger) (*program, error) {
	p := emptyProgram(&vc, cfg)
	tunnel, err := vpn.Open(vc)
	if err != nil {
		return nil, err
	}
	p.Line, p.end = tunnel.Line, tunnel
	pc := proxy.Config{
		Listener: sockets{tunnel}, PacketListener: sockets{tunnel},
		Inside: func() proxy.Inside { return inside(tunnel.Address(), cfg.Split) },
		Own:    p.own.has, Log: log,
	}
	beside := splitBetween(&pc, cfg.Split, tunnel, vc.Way.Bind)
	if p.proxies, err = openProxies(ctx, cfg.Proxy, pc); err != nil {
		tunnel.Close()
		return nil, err
	}
	p.proxies.up = tunnel.Up()
	if p.forwards, err = openForwards(ctx, cfg.Forwards, tunnel, beside, log); err != nil {
		p.proxies.close()
		tunnel.Close()
		return nil, err
	}
	return p, nil
}

// newProgramOn builds everything above a local end that is open already, which is closed
// on an error too.
func newProgramOn(ctx context.Context, end localEnd, cfg config.Config, log *slog.Logger) (*program, error) {
	vc, err := vpnConfig(cfg, log)
	if err != nil {
		end.Close()
		return nil, err
	}
	return assemble(vc, end, cfg).toldOf(ctx, cfg.Service)
}

// assemble puts a VPN on a local end.
func assemble(vc vpn.Config, end localEnd, cfg config.Config) *program {
	p := emptyProgram(&vc, cfg)
	p.Line, p.end = vpn.New(vc, end), end
	return p
}

// emptyProgram is told by a VPN made from vc of its states.
func emptyProgram(vc *vpn.Config, cfg config.Config) *program {
	p := &program{log: vc.Log, proxies: &proxies{}, health: &teller{}, own: &ownPorts{}, drain: cfg.Service.Drain,
		showEvery: cfg.Log.Statistics, tables: os.Stderr}
	vc.OnState = p.noteState()
	return p
}

// toldOf opens where others may ask how the program is. On an error it closes the program.
func (p *program) toldOf(ctx context.Context, c config.Service) (*program, error) {
	t, err := openTeller(ctx, c.Health)
	if err != nil {
		p.close()
		return nil, err
	}
	t.server = health.Server{Monitor: p.Health(), Metrics: func(w io.Writer) error { return writeMetrics(w, p.counters()) }}
	p.health = t
	return p, nil
}

// watchdog gives the service manager signs of life.
func (p *program) watchdog(ctx context.Context) error { return p.manager.watch(ctx, p.Health()) }

// run serves until ctx ends or something fails for good. The proxies stop first,
// while the tunnel still carries their clients' last words.
func (p *program) run(ctx context.Context) error {
	p.own.addAll(p)
	below, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	parts := []func(context.Context) error{p.Line.Run, p.proxies.serve, p.proxies.reload, p.forwards.serve, p.health.serve, p.watchdog, p.showCounters, p.giveBack}
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() { ended <- part(below) }()
	}
	var err error
	left := len(parts)
	select {
	case <-ctx.Done():
		p.log.Info("stopping")
	case err = <-ended:
		left--
	}
	p.manager.stopping()
	p.Health().Drain()
	if p.State() != client.Up || err != nil {
		p.drain = 0
	}
	p.shutdown(p.drain)
	if p.leave != nil {
		err = errors.Join(err, p.leave())
	}
	cancel()
	for range left {
		if e := <-ended; err == nil && !errors.Is(e, context.Canceled) {
			err = e
		}
	}
	return errors.Join(err, p.end.Close())
}

// shutdown takes no more clients and ends those there are, after a while.
func (p *program) shutdown(wait time.Duration) {
	var g sync.WaitGroup
	g.Go(func() { p.proxies.shutdown(wait) })
	g.Go(func() { p.forwards.shutdown(wait) })
	g.Wait()
}

// giveBack returns memory to the system after bursts.
func (p *program) giveBack(ctx context.Context) error {
	return (&reclaimer{carried: p.Carried}).run(ctx)
}

// close gives back what newProgram opened. After run nothing is left to do.
func (p *program) close() {
	p.shutdown(0)
	p.health.close()
	if err := p.end.Close(); err != nil {
		p.log.Debug("local end not closed", "cause", err)
	}
}
