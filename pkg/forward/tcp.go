package forward

import (
	"context"
	"net"
	"sync"
	"time"

	"softether-go/pkg/relay"
)

// Pauses after a failed accept, as a lack of descriptors does not go away at once.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// serveTCP takes connections until the port is closed, and waits for their ends.
func (f *Forward) serveTCP(ctx context.Context) {
	var clients sync.WaitGroup
	defer clients.Wait()
	slots := make(chan struct{}, f.cfg.MaxConns)
	for pause := minAcceptPause; ; {
		c, err := f.listener.Accept()
		if err != nil {
			if f.isStop(err) || !f.pause(pause, err) {
				return
			}
			pause = min(2*pause, maxAcceptPause)
			continue
		}
		pause = minAcceptPause
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

// pause waits after a failed accept and reports whether to go on.
func (f *Forward) pause(d time.Duration, cause error) bool {
	f.cfg.Log.Warn("connection not accepted", "listen", f.cfg.Listen, "cause", cause, "pause", d)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-f.stopped:
		return false
	case <-t.C:
		return true
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
