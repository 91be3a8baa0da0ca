// Package dnsproxy answers DNS questions of programs by asking name servers elsewhere:
// those of the VPN, through the tunnel.
//
// # Theory of operation
//
// A Server listens on one port over UDP and TCP, and answers from the address of this
// machine that it was asked at. A question goes on as it came, whatever it asks for and
// with whatever options (EDNS), under a new identifier and from a port of its own (RFC
// 5452); the answer comes back as it came, under the client's.
// Name servers are asked in their order, each when the one before has failed or has
// been silent for a while. Which there are is asked for each question anew, because
// leases change. Search domains are the client's to apply.
//
// A question goes out over UDP. To a client that came by UDP an answer that was cut goes
// as it is, and it comes again by TCP; for one that came by TCP we ask by TCP then.
//
//	client ── UDP, TCP ──► Server ─► one exchange for each distinct question ─► tunnel
//
// Names that rules lead beside the tunnel are answered for by the resolver there, addresses
// and the name of an address only: nothing that there is to know about them is asked of
// the tunnel's name servers.
//
// # Loops
//
// Equal questions that are under way share one exchange, so a question that comes
// around to us again waits for itself and ends by its time-out, rather than breeding. One
// that too many wait for is refused, and servers that are ourselves are not asked.
//
// # Limits
//
// MaxQuestions are under way at a time; the next are dropped over UDP, and wait over TCP.
// MaxConns TCP clients, 10 s of silence each. A message has 64 KiB. Transfers of zones
// (AXFR, IXFR), which are no single answer, are refused.
//
// # What clients are told
//
// FORMERR: no single question. NOTIMP: no query, or one beside the tunnel for other than
// addresses and their names. REFUSED: there is no name server to
// ask, or the question is a zone transfer or a loop. SERVFAIL: no name server has
// answered, or there is no tunnel.
package dnsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"softether-go/pkg/binding"
)

// An Upstream is where the name servers are.
type Upstream interface {
	// DialContext connects to one of them, over "udp" or "tcp".
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// NameServers returns those to ask now, and our own addresses there, which are not
	// asked; without any there is no tunnel. It is called for each question.
	NameServers() (servers, own []netip.Addr)
}

// Config says what to serve. Upstream is required.
type Config struct {
	Upstream Upstream
	Listen   netip.AddrPort
	Beside   Beside // whose names are not for Upstream; nil has none

	MaxQuestions int           // under way; 0 means 256
	MaxConns     int           // TCP clients; 0 means 64
	Timeout      time.Duration // for an answer in all; 0 means 8 s
	Log          *slog.Logger  // nil discards
}

func (c Config) withDefaults() Config {
	c.MaxQuestions = cmp.Or(c.MaxQuestions, 256)
	c.MaxConns = cmp.Or(c.MaxConns, 64)
	c.Timeout = cmp.Or(c.Timeout, 8*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// attemptTimeout is how long one name server has, TCP included, before the next is asked.
const attemptTimeout = 2500 * time.Millisecond

// A Server answers on one port.
type Server struct {
	cfg     Config
	packets *binding.UDPConn
	ln      net.Listener

	slots    chan struct{} // a token for each question under way
	counters counters

	mu       sync.Mutex // guards what follows
	underWay map[string]*exchange
}

// Open binds the port for UDP and TCP. The caller serves, and closes.
func Open(ctx context.Context, cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, slots: make(chan struct{}, cfg.MaxQuestions), underWay: make(map[string]*exchange)}
	for tries := 0; ; tries++ {
		var err error
		if s.packets, err = binding.ListenUDP(ctx, cfg.Listen.String()); err != nil {
			return nil, fmt.Errorf("answer DNS on %v: %w", cfg.Listen, binding.Explain(err))
		}
		at := s.packets.LocalAddr().String()
		ln, err := new(net.ListenConfig).Listen(ctx, binding.Network("tcp", at), at)
		if err == nil {
			s.ln = binding.NewPatient(ln, s.paused)
			return s, nil
		}
		s.packets.Close()
		if cfg.Listen.Port() != 0 || tries == 10 { // else the kernel chose one that TCP has not free
			return nil, fmt.Errorf("answer DNS on %v: %w", cfg.Listen, binding.Explain(err))
		}
	}
}

func (s *Server) paused(d time.Duration, cause error) {
	s.cfg.Log.Warn("DNS client not accepted", "cause", cause, "pause", d)
}

// Addr returns what the server is bound to.
func (s *Server) Addr() netip.AddrPort { return s.packets.LocalAddr().(*net.UDPAddr).AddrPort() }

// Serve answers until ctx ends, which it reports as ctx.Err(), or Close, which it reports
// as net.ErrClosed.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	var g sync.WaitGroup
	g.Go(func() { s.serveUDP(ctx) })
	g.Go(func() { s.serveTCP(ctx) })
	g.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return net.ErrClosed
}

// Shutdown is Close: questions are short, and asked again.
func (s *Server) Shutdown(context.Context) error {
	s.Close()
	return nil
}

// Close closes the port.
func (s *Server) Close() {
	_ = s.packets.Close() // there is nothing to do about either
	_ = s.ln.Close()
}

// Stats is a snapshot of a Server's counters.
type Stats struct {
	OverUDP, OverTCP uint64 // questions
	Shared           uint64 // of these, that another's answer was good for
	Answered         uint64 // by a name server, whatever it said
	Refused          uint64 // by us
	Failed           uint64 // for want of an answer
	Beside           uint64 // answered by the resolver beside the tunnel, whatever it said
	Dropped          uint64 // malformed, or too many at a time
}

type counters struct {
	overUDP, overTCP, shared, answered, refused, failed, dropped, beside atomic.Uint64
}

// Stats returns the counters as they are now. It may be called at any time.
func (s *Server) Stats() Stats {
	c := &s.counters
	return Stats{
		OverUDP: c.overUDP.Load(), OverTCP: c.overTCP.Load(), Shared: c.shared.Load(), Answered: c.answered.Load(),
		Refused: c.refused.Load(), Failed: c.failed.Load(), Dropped: c.dropped.Load(),
		Beside: c.beside.Load(),
	}
}

var (
	errNoServer = errors.New("there is no name server to ask: the lease named none; -dns names one")
	errNoTunnel = errors.New("the tunnel has no address yet")
)
