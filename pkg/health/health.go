// Package health finds out whether a tunnel works, by asking somebody behind it, and
// tells those who want to know by HTTP.
//
// # Theory of operation
//
// A Monitor stands between the client and the local end of the tunnel, as an Endpoint
// and as a Configurer. So it knows the address that is in use, can send frames of its
// own beside those of the local end, and sees what comes back:
//
//	session ──► Monitor ──► local end
//	session ◄── Monitor ◄── local end
//	               ▲
//	               └── probe: ARP, NDP, ICMP or DNS, and the answer to it
//
// It needs no privilege and no socket, and works alike above a network stack of our own,
// a TAP, and a command's namespace. Nothing is sent unless somebody asks: each question
// for readiness is a probe, but for those that come within a second of the last.
//
// The probe goes to the gateway, by ARP, or where there is no IPv4 by neighbour discovery;
// to a target that is an address by an ICMP echo; or to the name servers, with a question
// for a target that is a name, to which every answer is a good one that was not made in
// despair (SERVFAIL, REFUSED). Without an address there is nothing to ask and nobody to be
// asked by; then a session is enough.
//
// # What is told
//
//	started  the tunnel has been up once
//	ready    it is up, an answer came by it, and nobody has asked to drain
//	live     a restart would not help
//
// The last is true as long as the program makes progress. A server that is away, or
// a gateway, is no reason to start it again: it reconnects by itself. It is when a
// single step of connecting takes longer than any of its time-outs, and when
// a session has been up for minutes while no probe was answered.
//
// # Concurrency
//
// All methods may be called at once. Probes wait for each other. Frames pass without
// a lock and without a look at them while no probe is under way.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

const (
	// probeTime bounds one probe; health checks wait for a few seconds.
	probeTime = 2 * time.Second
	// resendTime is after how long without an answer a question is sent again.
	resendTime = 500 * time.Millisecond
	// freshTime is how long an answer stands for others.
	freshTime = time.Second
	// deafTime is for how long a session may be up without an answer. The session itself
	// notices within its time-out, of 20 s or so, when the server is gone.
	deafTime = 3 * time.Minute
	// stuckTime is longer than all time-outs of a step of connecting together.
	stuckTime = 5 * time.Minute
)

// A Phase is where in its life a tunnel is.
type Phase int32

// The phases.
const (
	Connecting Phase = iota // to a server, or getting an address
	Up                      // frames flow
	Waiting                 // before another attempt, for however long
)

// A Configurer gives the local end its addresses; see addresses.Configurer.
type Configurer interface {
	Apply(context.Context, netcfg.Config) error
}

// Config says what a Monitor stands before.
type Config struct {
	Endpoint   frame.Endpoint
	Configurer Configurer // may be nil if no address is ever applied
	MAC        net.HardwareAddr
	Target     Target
	Log        *slog.Logger // nil discards
}

// A Target is whom to ask. The zero Target is the gateway.
type Target struct {
	Addr netip.Addr // to be asked for an echo
	Name string     // a name to ask the name servers for
}

// ParseTarget takes an address or a name.
func ParseTarget(s string) (Target, error) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err == nil && addr.Zone() != "":
		return Target{}, errors.New("the VPN is one link and has no zones: leave out what follows the %")
	case err == nil:
		return Target{Addr: addr.Unmap()}, nil
	}
	if _, err := appendName(nil, s); err != nil {
		return Target{}, err
	}
	return Target{Name: s}, nil
}

// String is what ParseTarget takes.
func (t Target) String() string {
	if t.Addr.IsValid() {
		return t.Addr.String()
	}
	return t.Name
}

// Stats are counters since the start.
type Stats struct {
	Up             int // 1 while the tunnel is
	Ready          int // 1 if the last one who asked was told so
	Connects       uint64
	Lost           uint64 // sessions that were up
	Probes         uint64
	ProbesFailed   uint64
	ProbeMicrosNow int64 // how long the last answer took
}

// A Monitor is what this package is about.
type Monitor struct {
	cfg  Config
	out  atomic.Pointer[frame.Writer] // the session; nil while frames do not flow
	wait atomic.Pointer[question]     // the one an answer is awaited to; nil without

	mu       sync.Mutex // guards all below
	address  netcfg.Config
	phase    Phase
	since    time.Time // of the phase
	started  bool
	draining bool
	deaf     time.Time // when the first of the probes in a row failed; zero after an answer
	stats    Stats

	probing sync.Mutex // held by the one probe; guards last
	last    outcome
}

// An outcome is how a probe ended.
type outcome struct {
	at   time.Time
	said string // who answered, and how fast
	err  error
}

// New returns a Monitor of a tunnel that is connecting.
func New(cfg Config) *Monitor {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Monitor{cfg: cfg, since: time.Now()}
}

// Apply passes a configuration on, and notes whom there is to ask.
func (m *Monitor) Apply(ctx context.Context, c netcfg.Config) error {
	if err := m.cfg.Configurer.Apply(ctx, c); err != nil {
		return err
	}
	m.mu.Lock()
	m.address = c
	m.mu.Unlock()
	return nil
}

// Run passes frames of the local end on, and lends dst to probes meanwhile.
func (m *Monitor) Run(ctx context.Context, dst frame.Writer) error {
	m.out.Store(&dst)
	defer m.out.Store(nil)
	return m.cfg.Endpoint.Run(ctx, dst)
}

// Enter notes that another phase begins.
func (m *Monitor) Enter(p Phase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p == Up {
		m.started = true
		m.stats.Connects++
	} else if m.phase == Up {
		m.stats.Lost++
	}
	m.phase, m.since, m.deaf = p, time.Now(), time.Time{}
}

// Drain has Ready fail from now on, so that nobody sends new work.
func (m *Monitor) Drain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.draining = true
}

// Stats returns the counters.
func (m *Monitor) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	if m.phase == Up {
		s.Up = 1
	}
	return s
}

// Started says whether the tunnel has ever been up.
func (m *Monitor) Started() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.started {
		return errors.New("the tunnel has not been up yet")
	}
	return nil
}

// Ready says who answered by the tunnel, or why it is of no use now.
func (m *Monitor) Ready(ctx context.Context) (said string, err error) {
	said, err = m.ready(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.Ready = 0
	if err == nil {
		m.stats.Ready = 1
	}
	return said, err
}

func (m *Monitor) ready(ctx context.Context) (said string, err error) {
	m.mu.Lock()
	phase, draining := m.phase, m.draining
	m.mu.Unlock()
	switch {
	case draining:
		return "", errors.New("draining: about to stop")
	case phase == Connecting:
		return "", errors.New("the tunnel is not up: connecting")
	case phase == Waiting:
		return "", errors.New("the tunnel is not up: the last attempt failed, the next is to come")
	}
	return m.probe(ctx)
}

// Live says why a restart is in order, if it is.
func (m *Monitor) Live(ctx context.Context) error {
	m.mu.Lock()
	phase, since := m.phase, m.since
	m.mu.Unlock()
	switch phase {
	case Connecting:
		if stuck := time.Since(since); stuck > stuckTime {
			return fmt.Errorf("a step of connecting has taken %v", stuck.Round(time.Second))
		}
	case Up:
		_, err := m.probe(ctx)
		m.mu.Lock()
		deaf := m.deaf
		m.mu.Unlock()
		if err != nil && !deaf.IsZero() && time.Since(deaf) > deafTime {
			return fmt.Errorf("the session is up, but for %v nobody has answered: %w", time.Since(deaf).Round(time.Second), err)
		}
	}
	return nil
}

// probe asks, or repeats what was found a moment ago.
func (m *Monitor) probe(ctx context.Context) (said string, err error) {
	m.probing.Lock()
	defer m.probing.Unlock()
	if o := m.last; !o.at.IsZero() && time.Since(o.at) < freshTime && o.err == nil {
		return o.said, nil
	}
	m.mu.Lock()
	address := m.address
	m.mu.Unlock()
	if !address.Address.IsValid() && !address.IPv6.Usable() {
		return "the session is up, without an address to probe from", nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	begun := time.Now()
	who, err := m.ask(ctx, address)
	took := time.Since(begun)
	m.note(err, took)
	m.last = outcome{at: time.Now(), said: fmt.Sprintf("%s answered in %v", who, took.Round(10*time.Microsecond)), err: err}
	if err != nil {
		m.cfg.Log.Debug("probe not answered", "cause", err)
	}
	return m.last.said, err
}

// note counts a probe.
func (m *Monitor) note(err error, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.Probes++
	if err == nil {
		m.deaf, m.stats.ProbeMicrosNow = time.Time{}, took.Microseconds()
		return
	}
	m.stats.ProbesFailed++
	if m.deaf.IsZero() {
		m.deaf = time.Now()
	}
}
