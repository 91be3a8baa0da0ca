// Package nat is a router that lets any number of stations share one address, for a hub
// that allows a session few.
//
// # Theory of operation
//
// A Router has two ends that are Endpoints. The outside is one station in the VPN, with a
// MAC address and a lease of its own. Inside is a network that nobody else sees; its
// stations get addresses of a range that is for this (RFC 6598), in a subnet that
// nothing in the VPN's configuration overlaps.
//
//	stations ──► Inside ──► translate source ──► Outside ──► hub
//	stations ◄── Inside ◄── translate target ◄── Outside ◄── hub
//
// It works on frames, in this process, without a privilege of the kernel's. A frame is copied
// once, into an arena, and changed there; checksums are adjusted by what has changed
// (RFC 1624). Nothing is allocated but for a new mapping or neighbor.
//
// Mappings are those of RFC 4787 and RFC 5382: a station's port keeps one outside port,
// the same number if that is free, whoever it talks to, and whoever knows it may
// answer. ICMP echoes are mapped by their identifier, errors by the packet in them.
// Fragments follow the first of their packet.
//
// # Limits
//
// TCP, UDP and ICMP over IPv4. Connections are made from inside only. The stations see
// neither the VPN's broadcasts nor its multicasts, nor IPv6.
//
// # Concurrency
//
// All methods may be called at once. It has no goroutine and no timer: what has expired is
// removed when something new comes, and a question that was lost is asked again with the next
// packet. Nothing blocks but on the Writers that Run was given.
package nat

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

// Config says how a Router is known.
type Config struct {
	Outside net.HardwareAddr // in the VPN
	Inside  net.HardwareAddr // as the stations' gateway
	Log     *slog.Logger     // nil discards
}

// Stats are counters since the start.
type Stats struct {
	OutFrames, InFrames uint64 // translated
	DroppedNoMapping    uint64 // inbound, and nobody inside has asked for it
	DroppedProtocol     uint64 // neither TCP, UDP nor ICMP over IPv4, or malformed
	DroppedNoWay        uint64 // no address, no gateway, or a neighbor that does not answer
	DroppedFull         uint64 // no port or no room for another mapping
	DroppedTTL          uint64
	Mappings            int // now
}

// A Router translates between its two ends.
type Router struct {
	cfg             Config
	outside, inside side

	mu        sync.Mutex // guards all below; never held while writing
	config    netcfg.Config
	network   netip.Prefix  // inside
	changed   chan struct{} // closed and replaced at each Apply
	table     table
	neighbors map[netip.Addr]*neighbor
	stats     Stats
}

// A side is where frames go out.
type side struct {
	dst atomic.Pointer[frame.Writer] // nil while nobody runs it

	mu    sync.Mutex // guards the batch under construction, until it is written
	batch [][]byte
	arena []byte
}

// New returns a Router without an address.
func New(cfg Config) *Router {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Router{cfg: cfg, changed: make(chan struct{}), neighbors: map[netip.Addr]*neighbor{}}
	r.table.reset()
	return r
}

// Outside is the end in the VPN.
func (r *Router) Outside() frame.Endpoint { return end{&r.outside, r.fromOutside} }

// Inside is the end for the stations.
func (r *Router) Inside() frame.Endpoint { return end{&r.inside, r.fromInside} }

type end struct {
	side *side
	take func([][]byte) error
}

func (e end) WriteFrames(frames [][]byte) error { return e.take(frames) }

func (e end) Run(ctx context.Context, dst frame.Writer) error {
	e.side.dst.Store(&dst)
	defer e.side.dst.Store(nil)
	<-ctx.Done()
	return ctx.Err()
}

// Apply gives the outside its configuration. With another address all mappings end.
func (r *Router) Apply(_ context.Context, c netcfg.Config) error {
	network, err := freeNetwork(c)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.Equal(r.config) {
		return nil
	}
	if c.Address != r.config.Address {
		r.table.reset()
	}
	r.config, r.network = c, network
	clear(r.neighbors)
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

// firstStation is the last byte of the first station's address; the router's is 1.
const firstStation = 2

// Station returns the configuration of the n-th station, of which there are 253, and what
// is closed when it changes. It is zero while the outside has no address.
func (r *Router) Station(n int) (c netcfg.Config, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.config.Address.IsValid() {
		return netcfg.Config{}, r.changed
	}
	return netcfg.Config{Address: netip.PrefixFrom(inNetwork(r.network, byte(firstStation+n)), r.network.Bits()),
		Gateway: inNetwork(r.network, 1), DNS: r.config.DNS, MTU: r.config.MTU, NTP: r.config.NTP}, r.changed
}

// MAC returns the address outside.
func (r *Router) MAC() net.HardwareAddr { return r.cfg.Outside }

// Stats returns the counters.
func (r *Router) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Mappings = len(r.table.out)
	return s
}

func inNetwork(p netip.Prefix, host byte) netip.Addr {
	a := p.Addr().As4()
	a[3] = host
	return netip.AddrFrom4(a)
}

// freeNetwork returns a subnet for inside that nothing in the VPN has.
func freeNetwork(c netcfg.Config) (netip.Prefix, error) {
	for second := 64; second < 128; second++ { // 100.64.0.0/10, shared address space (RFC 6598)
		for third := range 256 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(second), byte(third), 0}), 24)
			if !taken(c, p) {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("nat: the VPN's routes leave no subnet of 100.64.0.0/10 for what is behind it")
}

func taken(c netcfg.Config, p netip.Prefix) bool {
	overlaps := func(q netip.Prefix) bool { return q.IsValid() && q.Bits() > 0 && q.Overlaps(p) }
	for _, route := range c.Routes {
		if overlaps(route.Dest) {
			return true
		}
	}
	for _, server := range c.DNS.Servers {
		if p.Contains(server) {
			return true
		}
	}
	return overlaps(c.Address.Masked()) || p.Contains(c.Gateway)
}

// begin starts a batch.
func (s *side) begin() {
	s.mu.Lock()
	s.batch, s.arena = s.batch[:0], s.arena[:0]
}

// add appends a copy of a frame to the batch and returns it. When the arena is full
// another begins; the old one lasts as long as the batch.
func (s *side) add(f []byte) []byte {
	const size = 64 << 10
	if len(f) > cap(s.arena)-len(s.arena) {
		s.arena = make([]byte, 0, max(size, len(f)))
	}
	at := len(s.arena)
	s.arena = append(s.arena, f...)
	own := s.arena[at:len(s.arena):len(s.arena)]
	s.batch = append(s.batch, own)
	return own
}

// undo takes the last frame back.
func (s *side) undo() { s.batch = s.batch[:len(s.batch)-1] }

// end writes the batch. That this may fail is the affair of who runs that side.
func (s *side) end() {
	defer s.mu.Unlock()
	if w := s.dst.Load(); w != nil && len(s.batch) > 0 {
		_ = (*w).WriteFrames(s.batch)
	}
}

// write writes frames of our own.
func (s *side) write(frames ...[]byte) {
	if w := s.dst.Load(); w != nil && len(frames) > 0 {
		_ = (*w).WriteFrames(frames)
	}
}
