package udpaccel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/frame"
	"softether-go/pkg/wire"
)

// The protocol's times, for both sides alike. (Cedar/UdpAccel.h)
const (
	// window is how old a datagram or an echo may be.
	window = 30 * time.Second
	// stableAfter is how long a path must be alive without a break before a peer trusts
	// it with data. (UDP_ACCELERATION_REQUIRE_CONTINUOUS)
	stableAfter = 10 * time.Second
)

// beat is how often keep-alives are sent, and after what silence the path is dead.
type beat struct{ min, max, silence time.Duration }

var (
	slowBeat = beat{time.Second, 3 * time.Second, 9 * time.Second}
	fastBeat = beat{500 * time.Millisecond, time.Second, 2100 * time.Millisecond}
)

// budget is the longest IP packet that is sent, if the kernel knows of no narrower
// path: what PPPoE leaves and a little less, as in the reference implementation, so
// that nothing is cut to pieces on the way. (Cedar/Cedar.h, MTU_FOR_PPPOE)
const budget = 1454

const (
	headersV4 = 20 + 8
	headersV6 = 40 + 8
)

// Config says how to talk to a peer. All but Compress and Log are required.
type Config struct {
	Version Version
	Fast    bool // the shorter times
	// SendKey protects what we send, ReceiveKey what the peer does: KeyLenV1 or KeyLenV2
	// bytes; none if plain. They are secrets.
	SendKey, ReceiveKey []byte
	// SendCookie is the peer's, which we put into each datagram, ReceiveCookie our own.
	SendCookie, ReceiveCookie uint32
	// Peers are where the peer may be, the likeliest first.
	Peers []netip.AddrPort
	// Wanted is what Want says at first.
	Wanted   bool
	Compress bool
	Log      *slog.Logger // nil discards
}

// A Path is one side of the acceleration of one session, and a frame.Endpoint. Its
// methods may be called from several goroutines, except that there is one Run at a time.
type Path struct {
	cfg   Config
	sock  socket
	beat  beat
	start time.Time

	peer     atomic.Pointer[netip.AddrPort]
	maxFrame atomic.Int32 // longest that fits

	mu     sync.Mutex // guards what follows: who writes
	sealer *sealer
	packer *wire.Packer // nil unless compressed
	slab   []byte
	runs   []run

	wanted   atomic.Bool
	told     atomic.Int64 // when the peer was last told its tick, so that it may think the path good
	hurry    atomic.Int64 // until when to probe
	changed  chan struct{}
	in       receiver
	life     life
	counters counters
}

// New makes a Path on conn, which is then its own.
func New(conn net.PacketConn, c Config) (*Path, error) {
	if len(c.Peers) == 0 {
		return nil, errors.New("UDP acceleration: there is no address of the peer")
	}
	sealer, err := newSealer(c.Version, c.SendKey, c.SendCookie)
	if err != nil {
		return nil, fmt.Errorf("UDP acceleration: our key: %w", err)
	}
	opener, err := newOpener(c.Version, c.ReceiveKey, c.ReceiveCookie)
	if err != nil {
		return nil, fmt.Errorf("UDP acceleration: the peer's key: %w", err)
	}
	sock, err := newSocket(conn)
	if err != nil {
		return nil, fmt.Errorf("UDP acceleration: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p := &Path{cfg: c, sock: sock, sealer: sealer, beat: slowBeat, start: time.Now(), changed: make(chan struct{}, 1),
		slab: make([]byte, 0, slabLen+2*maxDatagram), runs: make([]run, 0, maxRuns)}
	if c.Fast {
		p.beat = fastBeat
	}
	p.in = receiver{opener: opener, inbox: newInbox(), seen: new(nonces)}
	if c.Compress {
		p.packer, p.in.unpacker = wire.NewPacker(), wire.NewUnpacker()
	}
	p.wanted.Store(c.Wanted)
	p.follow(c.Peers[0])
	return p, nil
}

// Close ends the Path. Run returns net.ErrClosed.
func (p *Path) Close() error { return p.sock.close() }

// now is our clock in milliseconds, as datagrams tell it: never 0.
func (p *Path) now() int64 { return time.Since(p.start).Milliseconds() + 1 }

// Run receives frames and keeps the path alive; see frame.Endpoint.
func (p *Path) Run(ctx context.Context, dst frame.Writer) error {
	p.sock.setReadDeadline(time.Time{})
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { p.sock.setReadDeadline(time.Unix(1, 0)) })
	defer stop()
	g.Go(func() error { return p.receive(ctx, dst) })
	g.Go(func() error { return p.keepAlive(ctx) })
	return g.Wait()
}

// Want says whether the peer should use the path. While it is not wanted the peer is not
// told that we hear it, and so does not trust the path with data; what it sends all the
// same is received. A peer that has trusted it stops within a few seconds.
func (p *Path) Want(yes bool) {
	if p.wanted.Swap(yes) != yes {
		p.kick()
	}
}

// Probe sends keep-alives every 10 ms for d, so that the peer's next ones tell the round
// trip as exactly.
func (p *Path) Probe(d time.Duration) {
	p.hurry.Store(p.now() + d.Milliseconds())
	p.kick()
}

const probeEvery = 10 * time.Millisecond

func (p *Path) kick() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// keepAlive sends at random intervals, so that paths of many sessions do not beat as one.
func (p *Path) keepAlive(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	remeasure := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.changed:
		case <-timer.C:
			if p.retreating() && p.now()-p.told.Load() < p.beat.quiet().Milliseconds() {
				break
			}
			p.sendKeepAlive()
			if time.Since(remeasure) >= window {
				remeasure = time.Now()
				p.measure(*p.peer.Load())
			}
		}
		timer.Reset(p.nextBeat())
	}
}

// quiet is a pause after which the peer has noticed that nothing comes: it looks when
// it sends a keep-alive itself.
func (b beat) quiet() time.Duration { return b.silence + b.max + 500*time.Millisecond }

// retreating reports whether the path is not wanted any more and the peer may still
// trust it: it has heard an echo in the window. Silence, and then gaps that are too long
// for it, end that trust.
func (p *Path) retreating() bool {
	told := p.told.Load()
	return !p.wanted.Load() && told != 0 && p.now()-told <= window.Milliseconds()+1000
}

func (p *Path) nextBeat() time.Duration {
	switch {
	case p.retreating():
		return p.beat.quiet()
	case p.now() < p.hurry.Load():
		return probeEvery
	}
	return p.beat.min + rand.N(p.beat.max-p.beat.min)
}

// sendKeepAlive sends one to the peer, and while it is not heard to wherever it may be.
func (p *Path) sendKeepAlive() {
	to := *p.peer.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	pad := rand.IntN(maxPad + 1)
	p.slab = p.sealer.append(p.slab[:0], p.header(), nil, pad)
	p.runs = append(p.runs[:0], run{0, len(p.slab), len(p.slab), 1})
	p.count(p.sock.write(p.slab, p.runs, to))
	p.counters.outKeepAlives.Add(1)
	if p.Alive() {
		return
	}
	for _, other := range p.cfg.Peers {
		if other != to {
			p.count(p.sock.write(p.slab, p.runs, other))
			p.counters.outProbes.Add(1)
		}
	}
}

// count counts the outcome of a write.
func (p *Path) count(runs int, err error) error {
	p.counters.outWrites.Add(1)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		p.counters.outFailed.Add(1)
	}
	return err
}

// header is what the next datagram says.
func (p *Path) header() header {
	h := header{myTick: uint64(p.now())}
	if p.wanted.Load() {
		if h.yourTick = p.life.theirs.Load(); h.yourTick != 0 {
			p.told.Store(int64(h.myTick))
		}
	}
	return h
}

// follow makes a the peer's address.
func (p *Path) follow(a netip.AddrPort) {
	p.peer.Store(&a)
	p.measure(a)
}

// measure notes what fits on the way to a.
func (p *Path) measure(a netip.AddrPort) {
	packet := budget
	if mtu := p.sock.mtu(a); mtu > 0 {
		packet = min(packet, mtu)
	}
	headers := headersV4
	if !a.Addr().Unmap().Is4() {
		headers = headersV6
	}
	p.maxFrame.Store(int32(max(packet-headers-p.cfg.Version.Overhead(), 0)))
}

// MaxFrame is the longest frame that goes by one packet. A longer one is not sent.
func (p *Path) MaxFrame() int { return int(p.maxFrame.Load()) }

// WriteFrames sends frames, a datagram each. It waits while the socket's buffer is full,
// which the machine itself empties. What is too long is dropped and counted. An error
// means that some did not go, not that later ones will not.
func (p *Path) WriteFrames(frames [][]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, to, longest := p.header(), *p.peer.Load(), p.MaxFrame()
	p.slab, p.runs = p.slab[:0], p.runs[:0]
	var sent, bytes, unfit uint64
	for _, f := range frames {
		if len(f) < frame.HeaderLen || len(f) > longest {
			unfit++
			continue
		}
		if len(p.slab) >= slabLen-maxDatagram || len(p.runs) == maxRuns {
			if err := p.flush(to); err != nil {
				return err
			}
		}
		sent++
		bytes += uint64(len(f))
		p.seal(h, f, longest)
	}
	err := p.flush(to)
	c := &p.counters
	c.outFrames.Add(sent)
	c.outBytes.Add(bytes)
	if unfit > 0 {
		c.outUnfit.Add(unfit)
	}
	return err
}

// seal appends a datagram to the slab, padded to the size of the run under way if that
// is possible: what is of one size leaves by one system call.
func (p *Path) seal(h header, f []byte, longest int) {
	if p.packer != nil {
		if packed := p.packer.Pack(f); len(packed) <= longest {
			h.flag, f = flagCompressed, packed
		}
	}
	pad, overhead := 0, p.cfg.Version.Overhead()
	var last *run
	if len(p.runs) > 0 {
		last = &p.runs[len(p.runs)-1]
		if missing := last.size - len(f) - overhead; missing > 0 && missing <= p.cfg.Version.maxPad() {
			pad = missing
		}
	}
	start := len(p.slab)
	p.slab = p.sealer.append(p.slab, h, f, pad)
	size := len(p.slab) - start
	if last == nil || !last.add(size, len(p.slab)) {
		p.runs = append(p.runs, run{start, len(p.slab), size, 1})
	}
}

// flush sends the slab.
func (p *Path) flush(to netip.AddrPort) error {
	if len(p.runs) == 0 {
		return nil
	}
	err := p.count(p.sock.write(p.slab, p.runs, to))
	p.slab, p.runs = p.slab[:0], p.runs[:0]
	return err
}

// LocalPort is the port we send from.
func (p *Path) LocalPort() uint16 { return p.sock.localPort() }

// Peer is where the peer is, as far as is known.
func (p *Path) Peer() netip.AddrPort { return *p.peer.Load() }

// Version is how datagrams are protected.
func (p *Path) Version() Version { return p.cfg.Version }

var _ frame.Endpoint = (*Path)(nil)
