// Package forward leads a port of one network to a host of another: from this machine
// into the VPN, or from the VPN to this machine.
//
// # Theory of operation
//
// A Forward listens in one network and dials in another, and knows nothing else of
// either. Which of the two is the VPN is the caller's matter; Host is this machine.
// A listener in the VPN stays when the session is lost and when the address changes, and
// each connection is dialed anew, so a Forward survives what its networks survive.
//
// TCP: each client has a connection of its own to the target, made when it comes, and a
// relay carries both ways. Who cannot be served is reset, as if nobody listened.
//
// UDP: each client, told by its address and port and by the address of ours that it talks
// to, is a flow with a socket of its own, so that answers find back, and come from where
// the client looks for them. The target's name is looked up once a flow. Two goroutines are
// all there is: one for the port, one for each flow's answers; none is started
// for a datagram. What comes before a flow's socket is there waits, a little of it.
//
// With ProxyHeader the target is told who the client is: by a header of the PROXY
// protocol, version 2, before the stream of a connection, or before each datagram.
//
// # Limits
//
// MaxConns connections at a time; more are reset and counted. MaxFlows flows; one more
// takes the place of that which has been silent the longest if this was for some time, or
// else is dropped and counted. A flow ends after FlowIdle without a datagram either way.
//
// # Errors
//
// What befalls one client is counted, logged at debug level, and no matter of the
// Forward's. That the target is not reached is told as a warning, once a minute. Serve
// ends with its context or by Close and Shutdown.
package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"softether-go/pkg/binding"
	"softether-go/pkg/seldom"
)

// A Listener is where a Forward listens, by "tcp", "udp" or, if it has paths, "unix".
type Listener interface {
	Listen(network, address string) (net.Listener, error)
	ListenPacket(network, address string) (net.PacketConn, error)
}

// A Dialer is where a Forward dials, by the same networks.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config says what leads where.
type Config struct {
	Network string // "tcp" or "udp"; required
	From    Listener
	Listen  string // in From: "address:port", or the path of a Unix socket if it has a slash
	To      Dialer
	Target  string // in To: "host:port", or a path

	ProxyHeader bool // tell the target who the client is

	Name       string // in the log; "" means Listen and Target
	Unreliable bool   // that the target is not there is nothing to warn of

	DialTimeout time.Duration // names included; 0 means 30 s
	HalfClose   time.Duration // silence allowed in a connection's last direction; 0 means 5 min
	MaxConns    int           // 0 means 1024
	MaxFlows    int           // 0 means 512: at most 32 MB of buffers
	FlowIdle    time.Duration // 0 means 2 min (RFC 4787, REQ-5)
	Log         *slog.Logger  // nil discards
}

func (c Config) withDefaults() Config {
	c.Name = cmp.Or(c.Name, c.Network+" "+c.Listen+" to "+c.Target)
	c.DialTimeout = cmp.Or(c.DialTimeout, 30*time.Second)
	c.HalfClose = cmp.Or(c.HalfClose, 5*time.Minute)
	c.MaxConns = cmp.Or(c.MaxConns, 1024)
	c.MaxFlows = cmp.Or(c.MaxFlows, 512)
	c.FlowIdle = cmp.Or(c.FlowIdle, 2*time.Minute)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// networkOf returns the network of an address: a path's is unix.
func (c Config) networkOf(address string) string {
	if c.Network == "tcp" && strings.ContainsRune(address, '/') {
		return "unix"
	}
	return c.Network
}

// A Forward is one port that leads somewhere.
type Forward struct {
	cfg      Config
	listener net.Listener // of TCP
	packets  packetConn   // of UDP
	counters counters
	missed   seldom.Line // that a target was not reached

	stop    sync.Once
	stopped chan struct{} // closed by Shutdown and Close: nothing more is taken
	cut     chan struct{} // closed by Close: nobody is served any more
	cutOnce sync.Once
	started atomic.Bool
	ended   chan struct{} // closed when Serve has
}

// Open binds the port. The caller serves, and closes.
func Open(cfg Config) (*Forward, error) {
	f := &Forward{cfg: cfg.withDefaults(), stopped: make(chan struct{}), cut: make(chan struct{}), ended: make(chan struct{})}
	var err error
	if cfg.Network == "udp" {
		err = f.openUDP()
	} else {
		err = f.openTCP()
	}
	if err != nil {
		return nil, fmt.Errorf("forward %s to %s: %w", cfg.Listen, cfg.Target, err)
	}
	return f, nil
}

func (f *Forward) openTCP() error {
	ln, err := f.cfg.From.Listen(f.cfg.networkOf(f.cfg.Listen), f.cfg.Listen)
	if err != nil {
		return err
	}
	f.listener = binding.NewPatient(ln, func(d time.Duration, cause error) {
		f.cfg.Log.Warn("connection not accepted", "listen", f.cfg.Listen, "cause", cause, "pause", d)
	})
	return nil
}

func (f *Forward) openUDP() error {
	pc, err := f.cfg.From.ListenPacket("udp", f.cfg.Listen)
	if err != nil {
		return err
	}
	var tells bool
	if f.packets, tells = pc.(packetConn); !tells {
		f.packets = boundConn{pc}
	}
	return nil
}

// Addr returns what the port is bound to.
func (f *Forward) Addr() net.Addr {
	if f.packets != nil {
		return f.packets.LocalAddr()
	}
	return f.listener.Addr()
}

// Serve serves until ctx ends, which it reports as ctx.Err(), or Shutdown or Close, which
// it reports as net.ErrClosed. By then nobody is served any more. It is called once.
func (f *Forward) Serve(ctx context.Context) error {
	f.started.Store(true)
	defer close(f.ended)
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	watch.Go(func() {
		select {
		case <-f.cut:
			cancel(net.ErrClosed)
		case <-ctx.Done():
		}
		f.stopTaking()
	})
	if f.packets != nil {
		f.serveUDP(ctx)
	} else {
		f.serveTCP(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return net.ErrClosed
}

// stopTaking closes the port.
func (f *Forward) stopTaking() {
	f.stop.Do(func() {
		close(f.stopped)
		if f.listener != nil {
			_ = f.listener.Close() // there is nothing to do about it
		} else if f.packets != nil {
			_ = f.packets.Close()
		}
	})
}

// Shutdown takes no more clients, and waits until those there are have ended by
// themselves; when ctx ends it does what Close does, and returns ctx's error. Flows of
// datagrams have no end to wait for.
func (f *Forward) Shutdown(ctx context.Context) error {
	f.stopTaking()
	if !f.started.Load() {
		return nil
	}
	select {
	case <-f.ended:
		return nil
	case <-ctx.Done():
		if n := f.counters.open.Load(); n > 0 && f.listener != nil {
			f.cfg.Log.Info("forwarded connections that are not done are cut off", "listen", f.cfg.Listen, "connections", n)
		}
		f.Close()
		<-f.ended
		return ctx.Err()
	}
}

// Close closes the port and cuts off all clients.
func (f *Forward) Close() {
	f.stopTaking()
	f.cutOnce.Do(func() { close(f.cut) })
}

// isStop reports whether an error of the port says that it is closed.
func (f *Forward) isStop(err error) bool {
	select {
	case <-f.stopped:
		return true
	default:
		return errors.Is(err, net.ErrClosed)
	}
}
