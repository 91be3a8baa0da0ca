package autoconf

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/rfc1035label"

	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

var errBusy = errors.New("autoconf: Run or Release is already running")

// Config says for whom addresses are made.
type Config struct {
	MAC net.HardwareAddr // six bytes, the source of our frames; required
	// Key is what addresses are derived from. The same Key, MAC and prefix make the same
	// address; who knows Key can tell which. Empty means a random one.
	Key      []byte
	Hostname string // told to DHCPv6 servers; empty is not
	// Static, if valid, is the address to have, after a probe. Then no router is asked.
	Static  netip.Prefix
	Gateway netip.Addr   // with Static: the router for everything else; may be invalid
	Rand    io.Reader    // nil means crypto/rand
	Log     *slog.Logger // nil discards
}

// A Client configures IPv6, through any number of sessions. Run and Release exclude each
// other; everything else may be called at any time.
type Client struct {
	mac     mac
	key     []byte
	name    *rfc1035label.Labels // told to DHCPv6 servers; nil is not
	static  netip.Prefix
	gateway netip.Addr
	rand    io.Reader
	log     *slog.Logger
	misuse  error // what is wrong with the Config, told by Run

	busy     atomic.Bool
	inbox    chan heard                   // from Filter
	watched  atomic.Pointer[[]netip.Addr] // addresses whose owners are listened for
	answered atomic.Pointer[netip.Addr]   // our address on the link; nil is none
	yielded  atomic.Bool                  // somebody else answers questions about it
	awaited  atomic.Uint32                // of DHCPv6, see awaits

	ignored, overflow atomic.Uint64

	known state // of whoever is busy
}

// state is what is remembered from session to session.
type state struct {
	addresses []*address
	routers   []router
	onLink    []held[netip.Prefix]
	routes    []held[routeVia]
	servers   []held[netip.Addr]
	search    []held[string]
	mtu       int
	lease     lease
	abandoned []netip.Prefix // whose addresses were all taken
}

// Stats counts what came to nothing.
type Stats struct {
	Ignored  uint64 // malformed, unexpected or senseless
	Overflow uint64 // more than the queue holds, or than is kept
}

// New returns a Client that knows of no router yet. A Config that cannot work is
// reported by Run.
func New(cfg Config) *Client {
	c := &Client{
		key: cfg.Key, static: cfg.Static, gateway: cfg.Gateway, rand: cfg.Rand, log: cfg.Log,
		inbox: make(chan heard, inboxFrames),
	}
	if cfg.Hostname != "" && len(cfg.Hostname) <= 253 {
		c.name = &rfc1035label.Labels{Labels: []string{cfg.Hostname}}
	}
	copy(c.mac[:], cfg.MAC)
	if len(cfg.MAC) != len(c.mac) || c.mac == (mac{}) || frame.IsGroup(c.mac[:]) {
		c.misuse = fmt.Errorf("autoconf: %q is not the MAC address of a host", cfg.MAC)
	}
	if c.rand == nil {
		c.rand = rand.Reader
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if len(c.key) == 0 {
		c.key = make([]byte, 32)
		if _, err := io.ReadFull(c.rand, c.key); err != nil {
			c.misuse = fmt.Errorf("autoconf: random key: %w", err)
		}
	}
	return c
}

// Stats returns the counters so far.
func (c *Client) Stats() Stats {
	return Stats{Ignored: c.ignored.Load(), Overflow: c.overflow.Load()}
}

func (c *Client) enter() error {
	if c.misuse != nil {
		return c.misuse
	}
	if !c.busy.CompareAndSwap(false, true) {
		return errBusy
	}
	return nil
}

func (c *Client) leave() { c.busy.Store(false) }

// Yield says that from now on somebody behind Filter answers questions about our
// addresses, as Run does from a call of Filter until then.
func (c *Client) Yield() { c.yielded.Store(true) }

// Run configures IPv6 in one session until ctx ends or out fails; it always returns an
// error. What it has come to is told to changed, on this goroutine and at once if there is
// something remembered, and again whenever it changes. Only the IPv6, DNS and MTU of the
// Config say something.
func (c *Client) Run(ctx context.Context, out frame.Writer, changed func(netcfg.Config)) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	defer c.deafen()
	r := &running{Client: c, out: out}
	r.begin(time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	var told netcfg.Config
	for {
		if err := r.step(time.Now()); err != nil {
			return err
		}
		if now := r.config(time.Now()); !now.Equal(told) {
			told = now
			r.report(now)
			changed(now)
		}
		timer.Reset(max(time.Until(r.next(time.Now())), 0))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		case h := <-c.inbox:
			r.hear(h, time.Now())
		}
	}
}

// deafen makes Filter copy nothing any more.
func (c *Client) deafen() {
	c.watched.Store(nil)
	c.answered.Store(nil)
	c.awaited.Store(0)
}

// A running is a Client during one session.
type running struct {
	*Client
	out   frame.Writer
	batch [][]byte // to be sent at the end of a step

	soliciting   bool // no router has answered yet
	solicited    int  // how often it was asked
	askRouters   time.Time
	spoken       time.Time // when the first router spoke in this session; zero is not yet
	staleDropped bool

	before         int  // routers known from earlier sessions
	managed, other bool // said by any router of this session
	mtuSaid        bool // by any of them
}

// patience is after how long what no router has repeated is dropped, once one has spoken:
// routers wait up to 3 s between advertisements (RFC 4861 section 10).
const patience = 4 * time.Second

const (
	firstSolicit = time.Second
	lastSolicit  = 10 * time.Minute // a router may appear at any time, and says so then
)

// begin makes everything remembered subject to confirmation.
func (r *running) begin(now time.Time) {
	for len(r.inbox) > 0 {
		<-r.inbox
	}
	k := &r.known
	k.abandoned = nil
	r.before = len(k.routers)
	for i := range k.routers {
		k.routers[i].confirmed, k.routers[i].before = false, true
	}
	unconfirm(k.onLink)
	unconfirm(k.routes)
	unconfirm(k.servers)
	unconfirm(k.search)
	if r.local() == nil {
		r.add(&address{origin: ofLink, addr: r.opaque(linkLocal, 0), prefix: linkLocal}, now)
	}
	if r.static.IsValid() && r.find(ofUser) == nil {
		r.add(&address{origin: ofUser, addr: r.static.Addr(), prefix: r.static.Masked()}, now)
	}
	for _, a := range k.addresses {
		a.confirmed = false
		a.probe(now)
	}
	own := r.local().addr
	r.answered.Store(&own)
	r.known.lease.resume(now)
	if !r.static.IsValid() {
		r.soliciting, r.askRouters = true, now
	}
	r.watch()
}

// step does what is due and sends what has gathered.
func (r *running) step(now time.Time) error {
	r.expire(now)
	for _, a := range r.known.addresses {
		r.stepAddress(a, now)
	}
	if r.soliciting && !now.Before(r.askRouters) {
		src := unspecified
		if a := r.local(); a != nil && a.usable {
			src = a.addr
		}
		r.send(solicitRouters(r.mac, src))
		r.askRouters = now.Add(r.jitter(min(firstSolicit<<min(r.solicited, 10), lastSolicit)))
		r.solicited++
	}
	r.stepLease(now)
	r.watch()
	if len(r.batch) == 0 {
		return nil
	}
	err := r.out.WriteFrames(r.batch)
	r.batch = r.batch[:0]
	if err != nil {
		return fmt.Errorf("autoconf: %w", err)
	}
	return nil
}

func (r *running) send(f []byte) { r.batch = append(r.batch, f) }

// next returns when there is something to do by the clock.
func (r *running) next(now time.Time) time.Time {
	k := &r.known
	t := time.Time{}
	for _, a := range k.addresses {
		t = earlier(earlier(t, a.due), a.validUntil)
		if a.preferredUntil.After(now) {
			t = earlier(t, a.preferredUntil)
		}
	}
	if r.soliciting {
		t = earlier(t, r.askRouters)
	}
	if !r.spoken.IsZero() && !r.staleDropped {
		t = earlier(t, r.spoken.Add(patience))
	}
	for _, x := range k.routers {
		t = earlier(t, x.until)
	}
	t = earliest(earliest(earliest(earliest(t, k.onLink), k.routes), k.servers), k.search)
	t = earlier(t, r.known.lease.due)
	if t.IsZero() {
		return now.Add(time.Hour)
	}
	return t
}

// earlier returns the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// jitter spreads d by a tenth to either side.
func (c *Client) jitter(d time.Duration) time.Duration {
	var b [2]byte
	if _, err := io.ReadFull(c.rand, b[:]); err != nil {
		return d
	}
	part := int64(d/5) >> 16 * (int64(b[0])<<8 | int64(b[1]))
	return d - d/10 + time.Duration(part)
}
