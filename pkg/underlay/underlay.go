// Package underlay connects to the server beside the tunnel.
//
// # Theory of operation
//
// A Dialer resolves the server's name anew for each connection, because servers
// move. Then it says which addresses it is about to use, so that the routes of the
// tunnel itself can be kept away from them, and connects: to one address after the
// other, each with a head start over the next, and the first connection wins (RFC
// 8305, without its cache of outcomes).
//
// A Dialer may be told to leave by one address or interface of the machine, to mark
// its packets, and to go through a proxy. Then it is the proxy's addresses that it
// resolves, has protected and races; the server's name goes to the proxy, unless the
// proxy's scheme says to look it up here.
//
// Where TCP does not get through there is R-UDP (package rudp), which yields connections
// as good as TCP's, if slower. A Dialer may be told to use one of its carriers, or to go
// over to it when TCP fails or does not answer for a while.
//
// A connection holds back little that the network has not taken yet, so that what
// waits does so before the tunnel's encryption, where there is still a choice. How
// little follows the speed of the way, and whoever has more to send asks for it
// (Unsent) and waits (AwaitRoom).
//
// Watch follows the machine's network beside the connections. It tells by a
// connection's own address and the way that the kernel would choose now, so it needs
// no privilege and does not care which routes there are. It cuts connections rather
// than reporting them, because what follows from a broken connection is decided where
// it is used.
//
// A machine that uses the name servers of the VPN cannot ask them when the VPN is
// down. So a Dialer remembers the addresses of its last connection, and goes to them
// if no name server answers in time.
package underlay

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"softether-go/pkg/rudp"
)

const (
	// lookupTimeout bounds a lookup that the last addresses can replace. The usual
	// resolver asks its second server after 5 s; who has a choice does not wait so long.
	lookupTimeout = 4 * time.Second
	// headStart is the recommended delay between attempts (RFC 8305, 8).
	headStart = 250 * time.Millisecond
)

// A Dialer opens connections to one server. The zero value is ready. It may be
// used from several goroutines.
type Dialer struct {
	// Protect is told all addresses of the server, or of the proxy before it, ahead of
	// each attempt and keeps the way to them outside the tunnel; an error ends the
	// attempt. It may be nil.
	Protect func(context.Context, []netip.Addr) error
	// Via chooses the proxy to go through; nil, or if it returns nil, none.
	Via func(host string, port uint16) *Proxy
	// Carriers are what "tcp" may mean: each is tried when those before it have failed, or
	// have had their head start. None means TCP.
	Carriers []Carrier
	Bind     Bind
	// Beside reports whether what is sent goes beside the connections, by UDP, which does
	// not let it wait: then Unsent says so. It may be nil.
	Beside func() bool
	Log    *slog.Logger // nil discards

	lookup  func(ctx context.Context, network, host string) ([]netip.Addr, error) // nil means the system's resolver
	connect func(ctx context.Context, network, address string) (net.Conn, error)  // nil means a net.Dialer
	system  system
	tuner   tuner
	rudp    rudp.Counters

	mu   sync.Mutex              // guards the fields below
	last map[string][]netip.Addr // by name: the addresses a connection was made to
	state
}

// DialContext connects to host:port. It blocks until one address has answered, all
// have failed, or ctx has ended. What goes wrong at a proxy is a *ProxyError.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", service, err)
	}
	for {
		attempt, done := d.begin(ctx)
		conn, err := d.attempt(attempt, network, host, uint16(port))
		again := err != nil && context.Cause(attempt) == errMoved && ctx.Err() == nil
		done()
		if !again {
			return conn, err
		}
		d.logger().Info("the network has changed, connecting anew", "host", host)
	}
}

// attempt connects to host:port by a proxy, if there is to be one.
func (d *Dialer) attempt(ctx context.Context, network, host string, port uint16) (net.Conn, error) {
	if d.Via != nil {
		if p := d.Via(host, port); p != nil {
			if !slices.ContainsFunc(d.carriers(network), func(c Carrier) bool { return c.Network == "tcp" }) {
				return nil, forbidden{errProxied}
			}
			return d.through(ctx, p, host, port)
		}
	}
	return d.reach(ctx, d.carriers(network), host, port)
}

// reach connects to host:port with nothing between.
func (d *Dialer) reach(ctx context.Context, carriers []Carrier, host string, port uint16) (net.Conn, error) {
	addrs, err := d.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	if addrs, err = d.Bind.reachable(host, addrs); err != nil {
		return nil, err
	}
	if d.Protect != nil {
		if err := d.Protect(ctx, addrs); err != nil {
			return nil, err
		}
	}
	d.note(addrs)
	list, err := candidates(carriers, host, addrs, port)
	if err != nil {
		return nil, err
	}
	conn, err := d.race(ctx, list)
	if err == nil {
		d.remember(host, addrs)
		d.track(conn)
	}
	return conn, err
}

// resolve returns the addresses of host, each once.
func (d *Dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	last := d.recall(host)
	if last != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
	}
	lookup := d.lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupNetIP
	}
	addrs, err := lookup(ctx, "ip", host)
	if err != nil && last != nil {
		d.logger().Debug("name not resolved, going to the last addresses", "host", host, "addresses", last, "cause", err)
		return last, nil
	}
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "it has no address", Name: host, IsNotFound: true}
	}
	return unique(addrs), nil
}

func unique(addrs []netip.Addr) []netip.Addr {
	var once []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); !slices.Contains(once, a) {
			once = append(once, a)
		}
	}
	return once
}

func (d *Dialer) recall(host string) []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last[host]
}

func (d *Dialer) remember(host string, addrs []netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == nil {
		d.last = make(map[string][]netip.Addr)
	}
	d.last[host] = addrs
}

// race starts with the first candidate and goes on to the next when one fails or has
// had its head start. Those that lose are closed.
func (d *Dialer) race(ctx context.Context, list []candidate) (net.Conn, error) {
	ctx, stop := context.WithCancel(ctx)
	results := make(chan result)
	running, errs := 0, []error(nil)
	defer func() {
		stop()
		for range running { // the losers end at once, now that ctx has
			if r := <-results; r.err == nil {
				r.conn.Close()
			}
		}
	}()
	start := func() {
		c := list[0]
		list = list[1:]
		running++
		go func() {
			conn, err := d.dialOne(ctx, c)
			results <- result{conn, err}
		}()
	}
	for start(); running > 0; {
		var next <-chan time.Time
		if len(list) > 0 {
			next = time.After(list[0].after)
		}
		select {
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
			if len(list) > 0 && ctx.Err() == nil {
				start()
			}
		case <-next:
			start()
		}
	}
	return nil, errs[0] // that of the address the resolver likes best
}

type result struct {
	conn net.Conn
	err  error
}

func (d *Dialer) logger() *slog.Logger {
	if d.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Log
}
