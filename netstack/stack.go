package netstack

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

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/raw"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"softether-go/netstack/resolver"
	"softether-go/pkg/fairqueue"
	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

// nicID names the one interface.
const nicID tcpip.NICID = 1

// Config is what a Stack is made from.
type Config struct {
	MAC net.HardwareAddr // our Ethernet address, unicast; required
	Log *slog.Logger     // nil discards

	// Way is what is known of the way that Run's Writer sends by, for as little as
	// possible to wait where nothing can be overtaken. May be nil.
	Way fairqueue.Path
}

// Stack is a TCP/IP host on one Ethernet interface. It is a frame.Endpoint.
//
// All methods may be called from several goroutines at once.
type Stack struct {
	log  *slog.Logger
	ns   *stack.Stack
	link *link
	out  *outqueue
	dns  *resolver.Resolver

	slow slowness // of families, when dialing

	unread unread

	dialsFailed atomic.Uint64
	patience    patience // with silent peers; another in tests

	applyMu sync.Mutex // serialises Apply and Announce

	mu      sync.Mutex // guards the fields below
	cfg     netcfg.Config
	closed  bool
	tracked map[tracked]struct{} // open connections and listeners
}

// tracked is something that ends when its address or the stack goes away.
type tracked interface {
	boundTo(addr tcpip.Address) bool // false for what is bound to every address
	abort(cause error)
}

var _ frame.Endpoint = (*Stack)(nil)

// New starts a stack without an address. The caller closes it.
func New(cfg Config) (*Stack, error) {
	if len(cfg.MAC) != 6 || frame.IsGroup(cfg.MAC) || isZero(cfg.MAC) {
		return nil, fmt.Errorf("netstack: %q is not a unicast Ethernet address", cfg.MAC)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := newLink(cfg.MAC)
	s := &Stack{
		log:     cfg.Log,
		link:    l,
		out:     newOutqueue(l, cfg.Way),
		tracked: make(map[tracked]struct{}),

		patience: usualPatience,
	}
	s.unread.init(s)
	s.ns = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			arp.NewProtocol, ipv4.NewProtocol,
			// Switches that listen to MLD pass neighbour solicitations on to those only who
			// have said what they want to hear. Routers' advertisements are not for gVisor:
			// whoever calls Apply has heard them.
			ipv6.NewProtocolWithOptions(ipv6.Options{MLD: ipv6.MLDOptions{Enabled: true}}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		RawFactory:  raw.EndpointFactory{},
		HandleLocal: true,
	})
	if err := s.setUp(); err != nil {
		s.ns.Destroy()
		return nil, err
	}
	s.dns = resolver.New(resolver.Config{Dial: s.dialLiteral})
	return s, nil
}

func isZero(mac net.HardwareAddr) bool {
	for _, b := range mac {
		if b != 0 {
			return false
		}
	}
	return true
}

// setUp creates the interface and sets the protocol options.
func (s *Stack) setUp() error {
	for _, o := range tcpOptions() {
		if err := s.ns.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("netstack: set TCP option %T: %s", o, err)
		}
	}
	// A burst of datagrams waits in the socket while its reader is scheduled.
	const udpBuffer = 1 << 20
	for _, o := range []any{
		tcpip.SendBufferSizeOption{Min: 4 << 10, Default: 256 << 10, Max: 4 * udpBuffer},
		tcpip.ReceiveBufferSizeOption{Min: 4 << 10, Default: udpBuffer, Max: 4 * udpBuffer},
	} {
		if err := s.ns.SetOption(o); err != nil {
			return fmt.Errorf("netstack: set option %T: %s", o, err)
		}
	}
	if err := s.ns.CreateNICWithOptions(nicID, s.link, stack.NICOptions{Name: "vpn", QDisc: s.out}); err != nil {
		return fmt.Errorf("netstack: create interface: %s", err)
	}
	return nil
}

// tcpOptions returns the settings that differ from, or must not drift with,
// gVisor's defaults.
func tcpOptions() []tcpip.SettableTransportProtocolOption {
	sack := tcpip.TCPSACKEnabled(true)
	// Not RACK: gVisor's takes segments for lost that are not, and after a time-out
	// sends one lost segment each time-out, since it counts all others as under way.
	recovery := tcpip.TCPRecovery(0)
	cc := tcpip.CongestionControlOption("cubic")
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	delay := tcpip.TCPDelayEnabled(false) // no Nagle: a proxy relays what it gets
	rx := receiveBuffers(firstBuffer)
	tx := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 8 << 20}
	timeWait := tcpip.TCPTimeWaitTimeoutOption(5 * time.Second) // a proxy opens many connections
	syn := tcpip.TCPSynRetriesOption(4)                         // 1+2+4+8+16 = 31 s, then ETIMEDOUT
	return []tcpip.SettableTransportProtocolOption{
		&sack, &recovery, &cc, &moderate, &delay, &rx, &tx, &timeWait, &syn,
	}
}

// WriteFrames takes inbound frames. It copies them, delivers them on the
// caller's goroutine and never waits for Run or for a connection. What the stack
// does not want is counted. The error is net.ErrClosed after Close.
func (s *Stack) WriteFrames(frames [][]byte) error {
	err := s.link.deliver(frames)
	s.unread.arrived(s.link.in.bytes.Load())
	return err
}

// Run lends outbound frames to dst in batches until ctx ends, the stack is
// closed or dst fails. While dst blocks, and while no Run is active, frames wait
// in the queue up to its bound and the oldest are dropped.
func (s *Stack) Run(ctx context.Context, dst frame.Writer) error { return s.out.run(ctx, dst) }

// Close ends every connection and listener, Run, and all goroutines of the
// stack, and waits for them. Later calls do nothing.
func (s *Stack) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()

	s.CloseAll()
	s.out.Close()
	s.ns.Close()
	s.ns.Wait()
	return nil
}

// CloseAll ends every connection and listener that there is with net.ErrClosed. The
// stack goes on, so that their peers can hear of it.
func (s *Stack) CloseAll() {
	s.mu.Lock()
	all := make([]tracked, 0, len(s.tracked))
	for t := range s.tracked {
		all = append(all, t)
	}
	s.mu.Unlock()
	for _, t := range all {
		t.abort(net.ErrClosed)
	}
}

// track notes t, or fails if the stack is closed or addr is no longer ours.
func (s *Stack) track(t tracked) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.tracked[t] = struct{}{}
	return nil
}

func (s *Stack) untrack(t tracked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tracked, t)
}

// Open returns how many connections, listeners and sockets are open.
func (s *Stack) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tracked)
}

// config returns what was applied last, or why nothing can be sent.
func (s *Stack) config() (netcfg.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return s.cfg, net.ErrClosed
	case !s.cfg.Address.IsValid() && len(s.cfg.IPv6.Addresses) == 0:
		return s.cfg, ErrNoAddress
	}
	return s.cfg, nil
}

// Applied returns what was applied last.
func (s *Stack) Applied() netcfg.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg
}

// LookupNetIP resolves host by the servers behind the tunnel. The network is
// "ip", "ip4" or "ip6". Addresses are returned as they are. Failures are
// *net.DNSError.
func (s *Stack) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if _, err := s.config(); err != nil {
		if _, parseErr := netip.ParseAddr(host); parseErr != nil {
			return nil, &net.DNSError{Err: err.Error(), Name: host, UnwrapErr: err, IsTemporary: errors.Is(err, ErrNoAddress)}
		}
	}
	return s.dns.LookupNetIP(ctx, network, host)
}

// Stats is a snapshot of the counters since New. Each frame or packet that is
// dropped is counted once, by the reason.
type Stats struct {
	InboundFrames, InboundBytes uint64 // delivered to the stack
	InboundBatches              uint64 // calls of WriteFrames
	InboundPackets              uint64 // what the frames were coalesced to
	InboundSupers               uint64 // of these packets, made of several frames
	InboundSegments             uint64 // how many of the frames are in those
	InboundThinned              uint64 // acknowledgements left out, as a later one of the batch supersedes them
	InboundMalformed            uint64 // dropped: too short or too long
	InboundNotForUs             uint64 // dropped: for another station, or our own
	InboundUnknownType          uint64 // dropped: neither IPv4 nor ARP nor wanted IPv6
	InboundBadIP                uint64 // dropped: a malformed IP packet
	InboundNotOurIP             uint64 // dropped: for an IP address that is not ours
	InboundTruncated            uint64 // dropped: too short for TCP or UDP, or wrong and for a port of nobody
	InboundBadTCP               uint64 // dropped: a malformed segment or a wrong checksum
	InboundBadUDP               uint64 // dropped: a malformed datagram or a wrong checksum
	InboundNoUDPPort            uint64 // dropped: nobody receives at the port
	InboundUDPFull              uint64 // dropped: its reader is slow, and the socket's buffer full

	OutboundFrames, OutboundBytes uint64 // accepted by Run's Writer
	OutboundBatches               uint64
	OutboundAhead                 uint64 // of the frames, those that overtook a super-segment
	OutboundPackets               uint64 // IP packets made, super-segments as one
	OutboundDropped               uint64 // queue full, or longer than a frame
	OutboundFiltered              uint64 // IPv6 without an IPv6 address
	OutboundQueued                int    // waiting now

	TCPConnects    uint64 // dials begun
	TCPFailed      uint64 // of these, refused, not answered or given up
	TCPNoPort      uint64 // of these, as no local port was left
	TCPEstablished int64  // connections established now
	TCPTimedOut    uint64 // connections given up, as the peer answered no more
	TCPRetransmits uint64 // segments sent again
	TCPUnread      int64  // bytes received and not read by the programs, when looked at last; see unreadBudget
	TCPLimited     uint64 // times that a connection's receive buffer was made smaller, as much is unread in all
}

// Stats returns the counters.
func (s *Stack) Stats() Stats {
	st := Stats{
		InboundFrames:      s.link.in.frames.Load(),
		InboundBytes:       s.link.in.bytes.Load(),
		InboundBatches:     s.link.in.batches.Load(),
		InboundPackets:     s.link.in.packets.Load(),
		InboundSupers:      s.link.in.supers.Load(),
		InboundSegments:    s.link.in.segments.Load(),
		InboundThinned:     s.link.in.thinned.Load(),
		InboundMalformed:   s.link.in.malformed.Load(),
		InboundNotForUs:    s.link.in.notForUs.Load(),
		InboundUnknownType: s.link.in.unknownType.Load(),
		OutboundFrames:     s.out.frames.Load(),
		OutboundBytes:      s.out.bytes.Load(),
		OutboundBatches:    s.out.batches.Load(),
		OutboundAhead:      s.out.ahead.Load(),
		OutboundDropped:    s.out.dropped.Load(),
		OutboundFiltered:   s.out.filtered.Load(),
		OutboundQueued:     s.out.length(),
		TCPFailed:          s.dialsFailed.Load(),
		TCPUnread:          s.unread.sum.Load(),
		TCPLimited:         s.unread.limitedTimes.Load(),
	}
	st.addGVisor(s.ns.Stats())
	return st
}

// addGVisor fills in what gVisor counts.
func (st *Stats) addGVisor(g tcpip.Stats) {
	st.InboundBadIP = g.IP.MalformedPacketsReceived.Value()
	st.InboundNotOurIP = g.IP.InvalidDestinationAddressesReceived.Value()
	st.InboundTruncated = g.NICs.MalformedL4RcvdPackets.Value()
	st.InboundBadTCP = g.TCP.InvalidSegmentsReceived.Value() + g.TCP.ChecksumErrors.Value()
	st.InboundBadUDP = g.UDP.MalformedPacketsReceived.Value() + g.UDP.ChecksumErrors.Value()
	st.InboundNoUDPPort = g.UDP.UnknownPortErrors.Value()
	st.InboundUDPFull = g.UDP.ReceiveBufferErrors.Value()
	st.OutboundPackets = g.IP.PacketsSent.Value()
	st.TCPConnects = g.TCP.ActiveConnectionOpenings.Value()
	st.TCPNoPort = g.TCP.FailedPortReservations.Value()
	st.TCPEstablished = int64(g.TCP.CurrentEstablished.Value())
	st.TCPTimedOut = g.TCP.EstablishedTimedout.Value()
	st.TCPRetransmits = g.TCP.Retransmits.Value()
}
