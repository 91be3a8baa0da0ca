package forward

import (
	"context"
	"net"
	"sync"

	"softether-go/pkg/relay"
)

// serveTCP takes connections until the port is closed, and waits for their ends.
func (f *Forward) serveTCP(ctx context.Context) {
	var clients sync.WaitGroup
	defer clients.Wait()
	slots := make(chan struct{}, f.cfg.MaxConns)
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			f.counters.overLimit.Add(1)
			relay.Reset(c)
			continue
		}
		f.counters.accepted.Add(1)
		f.counters.open.Add(1)
		clients.Go(func() {
			defer func() { f.counters.open.Add(-1); <-slots }()
			f.carry(ctx, c)
		})
	}
}

// buffers are shared by all forwards of the process.
var buffers relay.Buffers

// carry serves one connection to its end.
func (f *Forward) carry(ctx context.Context, c net.Conn) {
	dialing, cancel := context.WithTimeout(ctx, f.cfg.DialTimeout)
	target, err := f.cfg.To.DialContext(dialing, f.cfg.networkOf(f.cfg.Target), f.cfg.Target)
	cancel()
	if err != nil {
		f.unreached(ctx, c.RemoteAddr(), err)
		relay.Reset(c)
		return
	}
	r := relay.Relay{
		Client: c, Target: target, Outbound: &f.counters.toTarget, Inbound: &f.counters.toClients,
		HalfClose: f.cfg.HalfClose, Buffers: &buffers,
	}
	if f.cfg.ProxyHeader {
		r.Early = appendProxyHeader(nil, stream, c.RemoteAddr(), c.LocalAddr())
	}
	if err := r.Run(ctx); err != nil {
		f.cfg.Log.Debug("forward ended early", "client", c.RemoteAddr(), "target", f.cfg.Target, "cause", err)
	}
}
