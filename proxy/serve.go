package proxy

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"softether-go/pkg/binding"
	"softether-go/pkg/relay"
	"softether-go/pkg/seldom"
)

// server is what both kinds of proxy share: configuration, counters, and the life
// of listeners and connections.
type server struct {
	Config
	counters  counters
	buffers   relay.Buffers
	limitSaid seldom.Line // that the limit is reached
	loginSaid seldom.Line // that somebody could not log in

	mu     sync.Mutex // guards closed and runs
	closed bool
	runs   map[*run]struct{}
}

func newServer(c Config) *server {
	return &server{Config: c.withDefaults(), runs: make(map[*run]struct{})}
}

// A run is one call of Serve: its listener and the clients that came by it. It is
// itself the listener that Serve accepts from, within the limits, and it lasts
// until its last client has gone.
type run struct {
	*binding.Patient
	srv    *server
	ctx    context.Context // of every client; ends when the run must
	cancel context.CancelCauseFunc
	drain  func(context.Context) error // makes idle clients go; may be nil

	closer chan struct{} // closed when the closing goroutine has ended
	done   chan struct{} // closed when Serve is about to return

	mu      sync.Mutex // guards conns
	conns   map[net.Conn]struct{}
	clients sync.WaitGroup
}

// begin starts a run on ln; every run is ended with finish.
func (s *server) begin(ctx context.Context, ln net.Listener, drain func(context.Context) error) (*run, error) {
	r := &run{
		srv: s, drain: drain, closer: make(chan struct{}), done: make(chan struct{}),
		conns: make(map[net.Conn]struct{}),
	}
	r.Patient = binding.NewPatient(ln, func(d time.Duration, cause error) {
		s.Log.Warn("accepting proxy clients paused", "address", ln.Addr(), "pause", d, "cause", cause)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		ln.Close()
		return nil, net.ErrClosed
	}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	s.runs[r] = struct{}{}
	go r.closeWhenDone() // awaited in finish
	return r, nil
}

// finish waits for the clients and returns why the run ended.
func (r *run) finish() error {
	r.Close()
	r.clients.Wait()
	r.cancel(net.ErrClosed)
	<-r.closer
	r.srv.mu.Lock()
	delete(r.srv.runs, r)
	r.srv.mu.Unlock()
	close(r.done)
	return context.Cause(r.ctx)
}

// closeWhenDone cuts off every client when the run's context ends.
func (r *run) closeWhenDone() {
	defer close(r.closer)
	<-r.ctx.Done()
	r.Close()
	r.mu.Lock()
	conns := slices.Collect(maps.Keys(r.conns))
	r.mu.Unlock()
	for _, c := range conns {
		relay.Reset(c)
	}
}

// Accept returns the next client within the limits; remove must be called for it.
// Its only error is net.ErrClosed.
func (r *run) Accept() (net.Conn, error) {
	for {
		c, err := r.Patient.Accept()
		if err != nil || r.add(c) {
			return c, err
		}
		c.Close()
	}
}

// add counts c in, unless that would be too many or the run is over.
func (r *run) add(c net.Conn) bool {
	s := r.srv
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return false
	}
	if n := s.counters.open.Add(1); n > int64(s.MaxConns) {
		s.counters.open.Add(-1)
		s.limitReached(c)
		return false
	}
	s.counters.accepted.Add(1)
	r.conns[c] = struct{}{}
	r.clients.Add(1)
	return true
}

// limitReached counts, and logs once a minute.
func (s *server) limitReached(c net.Conn) {
	s.counters.refused[Limit].Add(1)
	if count, now := s.limitSaid.Again(); now {
		s.Log.Warn("proxy client refused: too many connections", "client", c.RemoteAddr(), "limit", s.MaxConns, "refusals", count)
	}
}

// remove closes c and counts it out. Only the first call for c counts.
func (r *run) remove(c net.Conn) {
	c.Close()
	r.mu.Lock()
	_, ok := r.conns[c]
	delete(r.conns, c)
	r.mu.Unlock()
	if ok {
		r.srv.counters.open.Add(-1)
		r.clients.Done()
	}
}

// refused counts and logs what a client did not get.
func (s *server) refused(client net.Addr, why Reason, err error) {
	s.counters.refused[why].Add(1)
	s.Log.Debug("proxy request refused", "client", client, "reason", slog.StringValue(why.String()), "cause", err)
}

// stop marks the server closed and returns its runs.
func (s *server) stop() []*run {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return slices.Collect(maps.Keys(s.runs))
}

// Shutdown stops accepting and waits until the clients have finished by
// themselves. When ctx ends first, it does what Close does and returns ctx's error.
func (s *server) Shutdown(ctx context.Context) error {
	runs := s.stop()
	for _, r := range runs {
		r.Close()
	}
	for _, r := range runs {
		if r.drain != nil {
			_ = r.drain(ctx) // its only error is that of ctx
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			if n := s.counters.open.Load(); n > 0 {
				s.Log.Info("proxy clients that are not done are cut off", "address", r.Addr(), "clients", n)
			}
			_ = s.Close()
			return ctx.Err()
		}
	}
	return nil
}

// Close stops accepting, cuts off every client, and waits for Serve to end. It
// always returns nil, and may be called again.
func (s *server) Close() error {
	runs := s.stop()
	for _, r := range runs {
		r.cancel(net.ErrClosed)
	}
	for _, r := range runs {
		<-r.done
	}
	return nil
}
