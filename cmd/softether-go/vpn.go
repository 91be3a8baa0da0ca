package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"time"

	"softether-go/pkg/client"
	"softether-go/pkg/config"
	"softether-go/pkg/vpn"
)

// program is one assembled VPN: the life of it on the local end of the tunnel, and the
// proxies on top of that if it is a stack of our own.
type program struct {
	*vpn.Line
	log     *slog.Logger
	end     io.Closer
	proxies *proxies

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
	vc, err := vpnConfig(cfg, log)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.TAP.Bridge != "":
		end, err := openBridge(cfg, log)
		if err != nil {
			return nil, err
		}
		return assemble(vc, end, cfg.Log), nil
	case cfg.Mode == config.ModeTAP:
		end, err := openTAP(cfg, log)
		if err != nil {
			return nil, err
		}
		return assemble(vc, end, cfg.Log), nil
	}
	return newProxyProgram(ctx, vc, cfg, log)
}

// newProxyProgram serves proxies on a stack of our own.
func newProxyProgram(ctx context.Context, vc vpn.Config, cfg config.Config, log *slog.Logger) (*program, error) {
	p := emptyProgram(&vc, cfg.Log)
	tunnel, err := vpn.Open(vc)
	if err != nil {
		return nil, err
	}
	p.Line, p.end = tunnel.Line, tunnel
	if p.proxies, err = openProxies(ctx, cfg.Proxy, splitDialer(cfg.Split, tunnel, vc.Way.Bind), log); err != nil {
		tunnel.Close()
		return nil, err
	}
	return p, nil
}

// newProgramOn builds everything above a local end that is open already, which is closed
// on an error too.
func newProgramOn(end localEnd, cfg config.Config, log *slog.Logger) (*program, error) {
	vc, err := vpnConfig(cfg, log)
	if err != nil {
		end.Close()
		return nil, err
	}
	return assemble(vc, end, cfg.Log), nil
}

// assemble puts a VPN on a local end.
func assemble(vc vpn.Config, end localEnd, c config.Log) *program {
	p := emptyProgram(&vc, c)
	p.Line, p.end = vpn.New(vc, end), end
	return p
}

// emptyProgram is told by a VPN made from vc of its states.
func emptyProgram(vc *vpn.Config, c config.Log) *program {
	p := &program{log: vc.Log, proxies: &proxies{}, showEvery: c.Statistics, tables: os.Stderr}
	vc.OnState = p.noteState()
	return p
}

// run serves until ctx ends or something fails for good. The proxies stop first,
// while the tunnel still carries their clients' last words.
func (p *program) run(ctx context.Context) error {
	below, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	parts := []func(context.Context) error{p.Line.Run, p.proxies.serve, p.proxies.reload, p.showCounters, p.giveBack}
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
	p.proxies.shutdown(p.State() == client.Up && err == nil)
	cancel()
	for range left {
		if e := <-ended; err == nil && !errors.Is(e, context.Canceled) {
			err = e
		}
	}
	return errors.Join(err, p.end.Close())
}

// giveBack returns memory to the system after bursts.
func (p *program) giveBack(ctx context.Context) error {
	return (&reclaimer{carried: p.Carried}).run(ctx)
}

// close gives back what newProgram opened. After run nothing is left to do.
func (p *program) close() {
	p.proxies.shutdown(false)
	if err := p.end.Close(); err != nil {
		p.log.Debug("local end not closed", "cause", err)
	}
}
