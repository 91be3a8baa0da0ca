package dhcp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"softether-go/pkg/frame"
)

// What may become of a search for a lease and of a lease. Whichever of the last
// three Keep returns, the lease is forgotten, its address must not be used any
// more, and Acquire gets another one.
var (
	ErrNoServer = errors.New("no DHCP server answered on this hub")
	ErrExpired  = errors.New("lease expired")
	ErrRevoked  = errors.New("lease revoked by the server")
	ErrConflict = errors.New("address is used by somebody else")
)

var errBusy = errors.New("dhcp: Acquire, Keep or Release is already running")

// Config says for whom addresses are asked.
type Config struct {
	MAC      net.HardwareAddr // six bytes, the source of our frames; required
	Hostname string           // option 12, cut to 255 bytes; empty sends none
	ClientID []byte           // option 61; empty means type 1 and MAC
	Rand     io.Reader        // nil means crypto/rand
	Log      *slog.Logger     // nil discards
}

// A Client asks for one lease and keeps it, through any number of sessions.
//
// Acquire, Keep and Release exclude each other: a second call while one runs is
// an error. Everything else may be called at any time.
type Client struct {
	mac      mac
	clientID []byte
	hostname string
	rand     io.Reader
	log      *slog.Logger
	misuse   error // what is wrong with the Config, told by Acquire

	busy     atomic.Bool // Acquire, Keep or Release runs
	probeEnd time.Time   // until when late answers to the probe count; of whoever is busy

	replies   chan reply    // from Filter
	conflicts chan mac      // from Filter: who else has the address under probe
	awaited   atomic.Uint64 // see awaits
	probed    atomic.Uint32 // see ipKey

	ignored  atomic.Uint64
	overflow atomic.Uint64

	mu     sync.Mutex // guards lease and leased
	lease  Lease
	leased bool
}

// Stats counts the replies that came to nothing.
type Stats struct {
	Ignored  uint64 // unexpected, malformed or senseless
	Overflow uint64 // more than the queue holds
}

// New returns a Client without a lease. A Config that cannot work is reported by
// Acquire.
func New(cfg Config) *Client {
	c := &Client{
		clientID:  slices.Clone(cfg.ClientID),
		hostname:  cfg.Hostname[:min(len(cfg.Hostname), 255)],
		rand:      cfg.Rand,
		log:       cfg.Log,
		replies:   make(chan reply, replyQueue),
		conflicts: make(chan mac, 1),
	}
	copy(c.mac[:], cfg.MAC)
	if len(cfg.MAC) != len(c.mac) || c.mac == (mac{}) || frame.IsGroup(c.mac[:]) {
		c.misuse = fmt.Errorf("dhcp: %q is not the MAC address of a host", cfg.MAC)
	}
	if len(c.clientID) == 0 {
		c.clientID = append([]byte{1}, c.mac[:]...)
	}
	if c.rand == nil {
		c.rand = rand.Reader
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Lease returns the remembered lease, if there is one that has not run out. It is
// usable only while Keep runs, or between Acquire and Keep.
func (c *Client) Lease() (Lease, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leased || c.lease.expired(time.Now()) {
		return Lease{}, false
	}
	return c.lease, true
}

// Stats returns the counters so far.
func (c *Client) Stats() Stats {
	return Stats{Ignored: c.ignored.Load(), Overflow: c.overflow.Load()}
}

// releaseGrace bounds the wait of Release, as nobody has to answer it.
const releaseGrace = 300 * time.Millisecond

// Release gives the lease back with one message, and forgets it, sent or not.
// Without a lease it does nothing.
//
// It then waits, at most releaseGrace, for a sign that the network has taken the
// message: a VPN server that reads the end of our connection may throw away the
// frames it has not looked at. A RELEASE is not answered, but an ARP request behind
// it is. So Filter must still be fed when Release is called.
func (c *Client) Release(ctx context.Context, out frame.Writer) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	l, ok := c.Lease()
	c.forget()
	if !ok {
		return nil
	}
	if err := c.sendFinal(out, dhcpv4.MessageTypeRelease, l); err != nil {
		return err
	}
	c.log.Info("dhcp: lease released", "address", l.Address, "server", l.Server)
	select {
	case <-c.conflicts: // of an earlier probe
	default:
	}
	c.probed.Store(ipKey(l.Server))
	defer c.probed.Store(0)
	if err := out.WriteFrames([][]byte{arpProbe(c.mac, l.Server)}); err != nil {
		return fmt.Errorf("dhcp: ask for %v after the release: %w", l.Server, err)
	}
	_, err := c.claimed(ctx, releaseGrace)
	return err
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

func (c *Client) remember(l Lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lease, c.leased = l, true
}

func (c *Client) forget() {
	c.probed.Store(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lease, c.leased = Lease{}, false
}

// jitter spreads d by a quarter to either side, so that many clients that start
// together do not keep asking together (RFC 2131 §4.1).
func (c *Client) jitter(d time.Duration) time.Duration {
	var b [4]byte
	if _, err := io.ReadFull(c.rand, b[:]); err != nil {
		return d
	}
	part := int64(d/2) >> 16 * int64(binary.BigEndian.Uint32(b[:])>>16)
	return d - d/4 + time.Duration(part)
}
