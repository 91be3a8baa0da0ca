// Package client leads the life of a VPN: connect, get an address, carry frames,
// lose the session, wait, again.
//
// # Theory of operation
//
// A Client owns no network of its own. It is handed a frame.Endpoint, which
// produces and consumes frames, and a Configurer, which gives that endpoint its
// addresses. Both outlive many sessions: while there is none, the endpoint keeps
// its addresses and connections, and a new session that brings the same address
// goes on as if nothing had happened. An endpoint that is a port of a bridge gets no
// address: it carries the frames of others, from the moment a session is there.
//
// For each session there is one scope of goroutines:
//
//	session ──Run──► addresses.Filter ──► endpoint  from the start
//	endpoint ─────────Run────────► session          once an address is applied
//	addresses.Lead                                  gets, renews, re-applies what changed
//
// The first to stop ends the others, and its error is the cause.
//
// # Which errors end the program
//
// Run returns for an error that no retry can mend (a wrong password, a certificate
// that is not trusted), for one of the endpoint or the Configurer, when the time is over
// that the user's policy gives a session (AutoDisconnect), and when ctx ends. All else is
// retried, after a delay that grows.
//
// # Order of stopping
//
// When ctx ends: frames stop, the lease is released, the session is closed with
// TLS's notice, the zero configuration is applied. Whoever uses the endpoint (the
// proxies) stops before, so that its last words still get through.
package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/addresses"
	"softether-go/pkg/autoconf"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/frame"
	"softether-go/pkg/session"
	"softether-go/pkg/wire"
)

const (
	// stopGrace bounds what is still done for the session once ctx has ended.
	stopGrace = time.Second
	// slowStep is after how long a step is reported as still under way.
	slowStep = 3 * time.Second
)

// Config says what a Client connects. Session and Endpoint are required, and so is
// Configurer if there is an address to apply. An error of Configurer's ends the Client.
type Config struct {
	Session    session.Config
	Endpoint   frame.Endpoint
	Configurer addresses.Configurer
	// How the endpoint gets its addresses. If there are to be none every frame passes
	// untouched, and Configurer is not called.
	addresses.Config

	// Servers, if set, returns where to go in place of Session's Host and Port, one
	// server at least: each is tried when those before it have failed in a way that may
	// pass. It is asked at every attempt and may block.
	Servers func(context.Context) []Server
	// Refresh, if set, is asked before each attempt for what may have changed since, such as
	// a password that was replaced in its file. It may read files.
	Refresh func(session.Config) session.Config
	// Hurry ends the wait between attempts when it yields, as when the network has
	// changed. What it held when a session came up is forgotten. May be nil.
	Hurry <-chan struct{}

	ReconnectDelay time.Duration      // base of the delays; 0 means 5 s
	ReconnectMax   time.Duration      // their limit; 0 means 1 min, or ReconnectDelay if longer
	OnState        func(State)        // told of each new state, must not block; may be nil
	OnWelcome      func(wire.Welcome) // told what the server says of each session, must not block; may be nil
	Log            *slog.Logger       // nil discards
}

// A Server is one that the hub may be found at.
type Server struct {
	Host string
	Port int // 0 means 443
}

func (c Config) withDefaults() Config {
	if c.ReconnectDelay == 0 {
		c.ReconnectDelay = 5 * time.Second
	}
	if c.ReconnectMax == 0 {
		c.ReconnectMax = time.Minute
	}
	c.ReconnectMax = max(c.ReconnectMax, c.ReconnectDelay)
	if c.Servers == nil {
		only := []Server{{c.Session.Host, c.Session.Port}}
		c.Servers = func(context.Context) []Server { return only }
	}
	if c.OnWelcome == nil {
		c.OnWelcome = func(wire.Welcome) {}
	}
	if c.OnState == nil {
		c.OnState = func(State) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Session.UDP.History == nil {
		c.Session.UDP.History = &session.UDPHistory{}
	}
	if c.Session.UniqueID == [16]byte{} {
		rand.Read(c.Session.UniqueID[:])
	}
	return c
}

// A Client keeps one VPN up.
type Client struct {
	cfg     Config
	keeper  *addresses.Keeper
	backoff backoff
	state   atomic.Int32
	session atomic.Pointer[session.Session] // the last one; nil before the first
	cause   atomic.Pointer[error]           // why there is no session
	since   time.Time                       // when the current session came up; zero while it is not. Run's only

	admitted bool // the server has let us in before. Run's only
}

// New returns a Client that Run brings to life.
func New(cfg Config) *Client {
	cfg = cfg.withDefaults()
	return &Client{
		cfg: cfg, keeper: addresses.New(cfg.Config, cfg.Configurer, cfg.Log),
		backoff: backoff{base: cfg.ReconnectDelay, most: cfg.ReconnectMax},
	}
}

// State returns the present state. It may be called from any goroutine.
func (c *Client) State() State { return State(c.state.Load()) }

// Cause returns why the last session ended or did not come about, nil while one is up
// and before the first attempt has failed. It may be called from any goroutine.
func (c *Client) Cause() error {
	if err := c.cause.Load(); err != nil {
		return *err
	}
	return nil
}

// Stats returns the counters of the session there is or was last. It may be called
// from any goroutine.
func (c *Client) Stats() session.Stats {
	if s := c.session.Load(); s != nil {
		return s.Stats()
	}
	return session.Stats{}
}

// ByUDP reports whether what is sent goes by UDP acceleration. It may be called from any
// goroutine, and often.
func (c *Client) ByUDP() bool {
	s := c.session.Load()
	return s != nil && s.ByUDP()
}

// UDP tells of UDP acceleration in that session. It may be called from any goroutine.
func (c *Client) UDP() session.UDPStats {
	if s := c.session.Load(); s != nil {
		return s.UDP()
	}
	return session.UDPStats{}
}

// DHCP counts what came to nothing while addresses were asked for; has is false if they
// never are. It may be called from any goroutine.
func (c *Client) DHCP() (n dhcp.Stats, has bool) { return c.keeper.DHCP() }

// IPv6 is the same of IPv6.
func (c *Client) IPv6() (n autoconf.Stats, has bool) { return c.keeper.IPv6() }

func (c *Client) enter(s State) {
	c.state.Store(int32(s))
	c.cfg.OnState(s)
}

// fatal marks an error that is not the network's fault.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// Run keeps the VPN up until ctx ends, which it reports as ctx.Err(), or an error
// that no retry can mend. It is called once.
func (c *Client) Run(ctx context.Context) error {
	defer c.enter(Stopped)
	for {
		err := c.once(ctx)
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), c.keeper.Unconfigure())
		}
		c.cause.Store(&err)
		delay, end := c.judge(err)
		if end != nil {
			return errors.Join(end, c.keeper.Unconfigure())
		}
		c.enter(Waiting)
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), c.keeper.Unconfigure())
		case <-time.After(delay):
		case <-c.cfg.Hurry:
			c.cfg.Log.Info("not waiting any longer: the network has changed")
		}
	}
}

// judge decides what follows a session's end: a wait, or the end of it all.
func (c *Client) judge(cause error) (delay time.Duration, end error) {
	var f fatal
	var se *session.Error
	advice := wire.Retry
	switch {
	case errors.As(cause, &f):
		return 0, f.error
	case errors.Is(cause, session.ErrWantsUDP):
		c.cfg.Log.Info("logging in again", "cause", cause)
		return 0, nil
	case errors.As(cause, &se):
		advice = se.Advice()
	}
	if advice == wire.Never && c.unsure(cause) {
		delay = jitter(unsureDelay).Round(time.Second)
		c.cfg.Log.Warn("refused, though the server has let us in before: trying again, slowly, in case it is RADIUS or the domain that is out of order",
			"cause", cause, "retry_in", delay)
		return delay, nil
	}
	if advice == wire.Never {
		return 0, cause
	}
	up := time.Duration(0)
	if !c.since.IsZero() {
		up = time.Since(c.since)
	}
	if up >= stableAfter {
		delay = c.backoff.afterStable()
	} else {
		delay = c.backoff.next(advice == wire.Wait)
	}
	delay = delay.Round(time.Millisecond)
	if up > 0 {
		c.cfg.Log.Warn("session lost", "cause", cause, "up", up.Round(time.Second), "retry_in", delay)
	} else {
		c.cfg.Log.Warn("not connected", "cause", cause, "retry_in", delay)
	}
	return delay, nil
}

// unsure reports whether a refusal may be the fault of RADIUS or a domain, which judge
// plain passwords: the server has one code for a wrong password and for theirs.
func (c *Client) unsure(cause error) bool {
	return c.admitted && c.cfg.Session.Auth == wire.PlainPassword && errors.Is(cause, wire.CodeAuthFailed)
}

// once leads one session from dialing to its end.
func (c *Client) once(ctx context.Context) error {
	c.since = time.Time{}
	c.enter(Dialing)
	begun := time.Now()
	s, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	c.admitted = true
	c.session.Store(s)
	w := s.Welcome()
	c.cfg.Log.Info("session established", "session", w.SessionName, "hub", c.cfg.Session.Hub, "over", s.Network(),
		"took", time.Since(begun).Round(time.Millisecond))
	c.showWelcome(w)
	c.cfg.OnWelcome(w)
	return c.carry(ctx, s, begun)
}

// dial opens a session at the first server that lets us.
func (c *Client) dial(ctx context.Context) (s *session.Session, err error) {
	servers := c.cfg.Servers(ctx)
	login := c.cfg.Session
	if c.cfg.Refresh != nil {
		login = c.cfg.Refresh(login)
	}
	for i, server := range servers {
		cfg := login
		cfg.Host, cfg.Port = server.Host, server.Port
		s, err = c.dialOne(ctx, cfg)
		var se *session.Error
		if err == nil || ctx.Err() != nil || i == len(servers)-1 || errors.As(err, &se) && se.Advice() == wire.Never {
			break
		}
		c.cfg.Log.Warn("not connected, trying the next server", "cause", err)
	}
	return s, err
}

// dialOne opens a session at a certain server and reports a step that takes long.
func (c *Client) dialOne(ctx context.Context, cfg session.Config) (*session.Session, error) {
	c.cfg.Log.Info("connecting", "host", cfg.Host, "port", cfg.Port)
	slow := newSlowReporter(c.cfg.Log)
	defer slow.stop()
	cfg.Progress = func(op session.Op) { slow.step(string(op) + " " + cfg.Host) }
	cfg.Log = c.cfg.Log
	return session.Dial(ctx, cfg)
}

func (c *Client) showWelcome(w wire.Welcome) {
	if w.Message != "" {
		c.cfg.Log.Info("message from the hub", "text", w.Message)
	}
	c.showGrants(w)
	c.cfg.Log.Info("policy", "items", w.Policy.String(), "timeout", w.Timeout)
	for _, line := range explain(w.Policy) {
		c.cfg.Log.Info("the user's policy limits the session", "by", line)
	}
	if c.cfg.DHCP == nil && c.cfg.Any() && w.Policy.Value("DHCPForce") != 0 {
		c.cfg.Log.Warn("the user's policy has DHCPForce, so the hub drops everything from the address of -address: drop -no-dhcp")
	}
	if limits := bridgeLimits(w.Policy); c.cfg.Session.Bridge && len(limits) > 0 {
		c.cfg.Log.Warn("the user's policy limits the bridge, and the hub drops what is beyond without notice; ask its administrator",
			"at_most", strings.Join(limits, ", "))
	}
}

// showGrants says what is not as usual, and what we asked for and did not get.
func (c *Client) showGrants(w wire.Welcome) {
	if w.VLAN != 0 {
		c.cfg.Log.Info("the hub has put us into a VLAN", "id", w.VLAN)
	}
	if !w.Encrypt {
		c.cfg.Log.Warn("frames travel without encryption, as asked for")
	}
	asked := c.cfg.Session
	var denied []string
	for _, row := range []struct {
		asked, granted bool
		what           string
	}{
		{asked.Connections > w.MaxConnection, false, fmt.Sprintf("%d connections (only %d)", asked.Connections, w.MaxConnection)},
		{asked.HalfDuplex, w.HalfConnection, "half-duplex"},
		{asked.QoS, w.QoS, "qos"},
		{asked.Compress, w.Compress, "compression"},
		{asked.Cleartext, !w.Encrypt, "no encryption"},
	} {
		if row.asked && !row.granted {
			denied = append(denied, row.what)
		}
	}
	if len(denied) > 0 {
		c.cfg.Log.Warn("the server does not grant all that was asked for", "denied", strings.Join(denied, ", "))
	}
}

// carry runs everything that lives as long as the session. When ctx ends, the
// session goes on receiving until the lease is released; the same when the user's policy
// ends it.
func (c *Client) carry(ctx context.Context, s *session.Session, begun time.Time) error {
	ctx, done := expiring(ctx, s)
	defer done()
	inbound := c.keeper.Filter(c.cfg.Endpoint)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, life := errgroup.WithContext(life)
	g.Go(func() error { return c.endpointError(s.Run(life, inbound)) })
	g.Go(func() error {
		work, cancel := context.WithCancelCause(life)
		defer cancel(nil)
		stop := context.AfterFunc(ctx, func() {
			cancel(ctx.Err())
			time.AfterFunc(stopGrace, end) // for what hangs in a write
		})
		defer stop()
		err := c.work(work, s, begun)
		if ctx.Err() != nil && life.Err() == nil {
			c.keeper.Release(life, s)
			return ctx.Err()
		}
		return err
	})
	err := g.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// work configures the endpoint and lets it send, until something stops.
func (c *Client) work(ctx context.Context, s *session.Session, begun time.Time) error {
	c.enter(Configuring)
	g, ctx := errgroup.WithContext(ctx)
	ready := make(chan struct{})
	g.Go(func() error { return c.lead(ctx, s, ready) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ready:
		}
		select {
		case <-c.cfg.Hurry: // of the way to this session
		default:
		}
		c.since = time.Now()
		c.cause.Store(nil)
		c.enter(Up)
		c.cfg.Log.Info("tunnel up", "took", time.Since(begun).Round(time.Millisecond))
		c.keeper.Yield()
		return c.endpointError(c.cfg.Endpoint.Run(ctx, s))
	})
	return g.Wait()
}

// lead keeps the endpoint's addresses in a session, and closes ready once it may send.
func (c *Client) lead(ctx context.Context, s *session.Session, ready chan<- struct{}) error {
	welcome := s.Welcome()
	slow := newSlowReporter(c.cfg.Log)
	defer slow.stop()
	switch {
	case !c.cfg.Any():
		c.cfg.Log.Info("carrying frames without an address of our own")
	case c.cfg.DHCP != nil:
		slow.step("ask for an address by DHCP")
	}
	err := c.keeper.Lead(ctx, addresses.Session{
		Out: s, NoDHCP: noDHCP(welcome.Policy), Hint: whyNoLease(welcome),
		Ready: func() { slow.stop(); close(ready) },
	})
	if f := (addresses.Failed{}); errors.As(err, &f) {
		return fatal{f.Unwrap()}
	}
	return err
}

// endpointError tells a failure of the endpoint, which is for good, from one of
// the session or the end of ctx.
func (c *Client) endpointError(err error) error {
	var se *session.Error
	if errors.As(err, &se) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fatal{fmt.Errorf("the local end of the tunnel stopped: %w", err)}
}
