package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"softether-go/pkg/client"
	"softether-go/pkg/config"
	"softether-go/pkg/fairqueue"
	"softether-go/pkg/frame"
	"softether-go/pkg/session"
	"softether-go/pkg/underlay"
)

// vpn is one assembled program: the local end of the tunnel, the proxies on top of
// it if it is a stack of our own, and the client that keeps a session below it.
type vpn struct {
	log     *slog.Logger
	end     localEnd
	way     *underlay.Dialer // beside the tunnel
	proxies *proxies
	client  *client.Client
	carrier *batches            // between end and client
	queue   *fairqueue.Endpoint // of what the end sends; nil if it has its own
	up      chan struct{}       // closed when the tunnel is up for the first time

	showEvery time.Duration // between log lines with the counters; 0 means none
	tables    io.Writer     // for tables of the counters
}

// newVPN builds everything and binds the listeners, so that what cannot work here
// fails before the server hears of us.
func newVPN(ctx context.Context, cfg config.Config, log *slog.Logger) (*vpn, error) {
	sc, err := sessionConfig(cfg, log)
	if err != nil {
		return nil, err
	}
	v := &vpn{log: log, proxies: &proxies{}, up: make(chan struct{}), tables: os.Stderr}
	if v.way, err = newDialer(cfg, v.protect, log); err != nil {
		return nil, err
	}
	if err := v.openEnd(ctx, cfg); err != nil {
		return nil, err
	}
	v.addClient(sc, cfg)
	return v, nil
}

// newVPNOn builds everything above a local end that is open already, which is closed
// on an error too.
func newVPNOn(end localEnd, cfg config.Config, log *slog.Logger) (*vpn, error) {
	sc, err := sessionConfig(cfg, log)
	if err != nil {
		end.Close()
		return nil, err
	}
	v := &vpn{log: log, end: end, proxies: &proxies{}, up: make(chan struct{}), tables: os.Stderr}
	if v.way, err = newDialer(cfg, v.protect, log); err != nil {
		end.Close()
		return nil, err
	}
	v.addClient(sc, cfg)
	return v, nil
}

// protect keeps the way to the server beside the tunnel.
func (v *vpn) protect(ctx context.Context, servers []netip.Addr) error {
	return v.end.protect(ctx, servers)
}

// addClient makes the client that joins the local end to the server.
func (v *vpn) addClient(sc session.Config, cfg config.Config) {
	log := v.log
	v.carrier = &batches{Endpoint: v.queued()}
	v.showEvery = cfg.Log.Statistics
	sc.DialContext = v.way.DialContext
	cc := client.Config{
		Session:        sc,
		Servers:        serversOf(cfg.Server, v.way),
		Hurry:          v.way.Changed(),
		Endpoint:       v.carrier,
		Configurer:     v.end,
		ReconnectDelay: cfg.Retry.Delay,
		ReconnectMax:   cfg.Retry.MaxDelay,
		OnState:        v.noteState(),
		Log:            log,
	}
	addressing(&cc, cfg, v.end.MAC(), log)
	v.client = client.New(cc)
}

// queued is the local end, with a queue before the tunnel unless it has one of its own.
func (v *vpn) queued() frame.Endpoint {
	if _, ok := v.end.(*stackEnd); ok {
		return v.end
	}
	v.queue = fairqueue.New(v.end, v.way)
	return v.queue
}

// openEnd opens the near end of the tunnel, and the proxies on it if it is a stack of
// our own.
func (v *vpn) openEnd(ctx context.Context, cfg config.Config) (err error) {
	switch {
	case cfg.TAP.Bridge != "":
		v.end, err = openBridge(cfg, v.log)
	case cfg.Mode == config.ModeTAP:
		v.end, err = openTAP(cfg, v.log)
	default:
		var stack *stackEnd
		if stack, err = newStack(cfg, v.way, v.log); err != nil {
			return err
		}
		v.end = stack
		if v.proxies, err = openProxies(ctx, cfg.Proxy, splitDialer(cfg.Split, stack, v.way.Bind), v.log); err != nil {
			stack.Close()
		}
	}
	return err
}

// run serves until ctx ends or something fails for good. The proxies stop first,
// while the tunnel still carries their clients' last words.
func (v *vpn) run(ctx context.Context) error {
	below, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	parts := []func(context.Context) error{v.client.Run, v.proxies.serve, v.end.watch, v.way.Watch, v.showCounters, v.giveBack}
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() { ended <- part(below) }()
	}
	var err error
	left := len(parts)
	select {
	case <-ctx.Done():
		v.log.Info("stopping")
	case err = <-ended:
		left--
	}
	v.proxies.shutdown(v.client.State() == client.Up && err == nil)
	cancel()
	for range left {
		if e := <-ended; err == nil && !errors.Is(e, context.Canceled) {
			err = e
		}
	}
	return errors.Join(err, v.end.Close())
}

// giveBack returns memory to the system after bursts.
func (v *vpn) giveBack(ctx context.Context) error {
	return (&reclaimer{carried: v.carrier.carried}).run(ctx)
}

// close gives back what newVPN opened. After run nothing is left to do.
func (v *vpn) close() {
	v.proxies.shutdown(false)
	if err := v.end.Close(); err != nil {
		v.log.Debug("local end not closed", "cause", err)
	}
}
