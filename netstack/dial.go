package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"softether-go/pkg/netcfg"
)

const (
	// attemptDelay is how long an address may take before the next is tried
	// beside it (RFC 8305 section 5).
	attemptDelay = 250 * time.Millisecond

	// maxAttempts bounds how many addresses of a name one dial tries.
	maxAttempts = 16
)

var errLoopback = errors.New("a loopback or unspecified address is not behind the tunnel")

// DialContext connects to address, "host:port", through the tunnel. The network
// is tcp, tcp4, tcp6, udp, udp4 or udp6. A name is resolved through the tunnel
// for the address families the stack has; its addresses are tried one beside the
// other, each a little after the one before, and the first to answer wins.
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return s.DialPermitted(ctx, network, address, nil)
}

// DialPermitted is DialContext, but for addresses of which permit returns an error. If
// that is so of all addresses, the first of those errors is the cause of the failure. A
// nil permit permits all.
func (s *Stack) DialPermitted(ctx context.Context, network, address string, permit func(netip.AddrPort) error) (net.Conn, error) {
	conn, err := s.dial(ctx, network, address, permit)
	if err == nil {
		return conn, nil
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return nil, err
	}
	return nil, opError("dial", network, nil, nil, err)
}

func (s *Stack) dial(ctx context.Context, network, address string, permit func(netip.AddrPort) error) (net.Conn, error) {
	transport, family := strings.TrimRight(network, "46"), strings.TrimLeft(network, "tcudp")
	if (transport != "tcp" && transport != "udp") || len(family) > 1 {
		return nil, net.UnknownNetworkError(network)
	}
	host, port, err := splitHostPort(address)
	if err != nil {
		return nil, err
	}
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	if family == "" {
		family = families(cfg, host)
	}
	addrs, err := s.dns.LookupNetIP(ctx, "ip"+family, host)
	if err == nil && permit != nil {
		addrs, err = permitted(addrs, port, permit)
	}
	if err != nil {
		return nil, err
	}
	addrs = s.order(cfg, addrs)
	if transport == "udp" {
		return s.dialUDP(netip.AddrPortFrom(addrs[0], port))
	}
	return s.race(ctx, addrs[:min(len(addrs), maxAttempts)], port)
}

// families returns which addresses of host to ask for, "4", "6" or "" for both: those
// of a family that the stack has no address of could not be reached.
func families(cfg netcfg.Config, host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Unmap().Is6() {
			return "6"
		}
		return "4"
	}
	switch has4, has6 := cfg.Address.IsValid(), cfg.IPv6.Usable(); {
	case has4 && has6:
		return ""
	case has6:
		return "6"
	}
	return "4"
}

// permitted returns those of addrs that are, or if none is why.
func permitted(addrs []netip.Addr, port uint16, permit func(netip.AddrPort) error) ([]netip.Addr, error) {
	var why error
	good := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		err := permit(netip.AddrPortFrom(a.Unmap(), port))
		if why == nil {
			why = err
		}
		return err != nil
	})
	if len(good) == 0 {
		return nil, why
	}
	return good, nil
}

// splitHostPort splits without looking up service names, which are the host's.
func splitHostPort(address string) (string, uint16, error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, &net.AddrError{Err: "port is not a number from 0 to 65535", Addr: address}
	}
	return host, uint16(port), nil
}

// dialLiteral is DialContext for the resolver, which only dials addresses.
func (s *Stack) dialLiteral(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	if _, err := s.config(); err != nil {
		return nil, err
	}
	if network == "udp" {
		return s.dialUDP(server)
	}
	return s.connect(ctx, server)
}

// attempt is how one connection attempt of a race ended.
type attempt struct {
	to   netip.Addr
	conn net.Conn
	err  error
}

// race connects to the first of addrs that answers. Attempts start one after
// another, attemptDelay apart or as soon as the one before failed. All have
// ended when it returns.
func (s *Stack) race(ctx context.Context, addrs []netip.Addr, port uint16) (net.Conn, error) {
	if len(addrs) == 1 {
		return s.connect(ctx, netip.AddrPortFrom(addrs[0], port))
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan attempt, len(addrs))
	var wg sync.WaitGroup
	started, ended := 0, 0
	start := func() {
		to := addrs[started]
		started++
		wg.Go(func() {
			conn, err := s.connect(ctx, netip.AddrPortFrom(to, port))
			results <- attempt{to, conn, err}
		})
	}
	next := time.NewTimer(attemptDelay)
	defer next.Stop()
	start()
	var winner net.Conn
	var firstErr error
	silent := addrs[0] // the first, while it has not answered
	for winner == nil && ended < len(addrs) {
		select {
		case <-next.C:
			if started < len(addrs) {
				start()
				next.Reset(attemptDelay)
			}
		case r := <-results:
			ended++
			if winner = r.conn; r.to == addrs[0] {
				silent = netip.Addr{}
			}
			if winner != nil {
				s.slow.note(r.to, silent)
			}
			if r.err != nil && firstErr == nil {
				firstErr = r.err
			}
			if winner == nil && started < len(addrs) && ctx.Err() == nil {
				start()
				next.Reset(attemptDelay)
			} else if winner == nil && ended == started {
				ended = len(addrs) // nothing left under way: ctx is over
			}
		}
	}
	cancel()
	wg.Wait()
	close(results)
	for r := range results { // those that were a moment too late
		if r.conn != nil {
			_ = r.conn.Close()
		}
	}
	if winner != nil {
		return winner, nil
	}
	return nil, firstErr
}

// usable refuses destinations that can only mean the host itself.
func usable(a netip.Addr) error {
	switch {
	case a.IsLoopback() || a.IsUnspecified():
		return fmt.Errorf("%w: %w", errLoopback, syscall.ENETUNREACH)
	case a.Zone() != "":
		return &net.AddrError{Err: "zones are not supported", Addr: a.String()}
	}
	return nil
}

// connect opens one TCP connection.
func (s *Stack) connect(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	fail := func(err error) (net.Conn, error) {
		return nil, opError("dial", "tcp", nil, net.TCPAddrFromAddrPort(to), err)
	}
	if err := usable(to.Addr()); err != nil {
		return fail(err)
	}
	if ctx.Err() != nil {
		return fail(contextError(ctx))
	}
	wq := new(waiter.Queue)
	ep, terr := s.ns.NewEndpoint(tcp.ProtocolNumber, protocolOf(to.Addr()), wq)
	if terr != nil {
		return fail(stdError(terr))
	}
	c, err := newConn(s, ep, wq)
	if err != nil {
		return fail(err)
	}
	if err := c.handshake(ctx, toFull(to)); err != nil {
		s.dialsFailed.Add(1)
		_ = c.Close()
		return fail(err)
	}
	c.established()
	return c, nil
}

// handshake connects and waits for the outcome.
func (c *conn) handshake(ctx context.Context, to tcpip.FullAddress) error {
	terr := c.ep.Connect(to)
	if _, started := terr.(*tcpip.ErrConnectStarted); !started {
		return c.dialFailure(terr)
	}
	for {
		select {
		case <-ctx.Done():
			return contextError(ctx)
		case <-c.done:
			return c.ended()
		case <-c.writable:
		}
		if terr := c.ep.LastError(); terr != nil {
			if why := c.refusedByRouter(to); why != 0 {
				return why
			}
			return c.dialFailure(terr)
		}
		switch tcp.EndpointState(c.ep.State()) {
		case tcp.StateConnecting, tcp.StateSynSent, tcp.StateSynRecv:
			continue
		case tcp.StateError, tcp.StateClose:
			return c.dialFailure(&tcpip.ErrConnectionAborted{})
		}
		return nil
	}
}

// refusedByRouter returns why a router on the way has said that it does not forward; zero is
// that none has.
func (c *conn) refusedByRouter(to tcpip.FullAddress) syscall.Errno {
	local, terr := c.ep.GetLocalAddress()
	if terr != nil {
		return 0
	}
	return c.s.link.refused.take(attemptKey{fromFull(to), local.Port})
}

func (c *conn) dialFailure(terr tcpip.Error) error {
	if err := c.ended(); err != nil {
		return err
	}
	return stdError(terr)
}

// dialUDP opens a UDP socket that talks to one peer.
func (s *Stack) dialUDP(to netip.AddrPort) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	fail := func(err error) (net.Conn, error) {
		return nil, opError("dial", "udp", nil, net.UDPAddrFromAddrPort(to), err)
	}
	if err := usable(to.Addr()); err != nil {
		return fail(err)
	}
	wq := new(waiter.Queue)
	ep, terr := s.ns.NewEndpoint(udp.ProtocolNumber, protocolOf(to.Addr()), wq)
	if terr != nil {
		return fail(stdError(terr))
	}
	c, err := newPacketConn(s, ep, wq)
	if err != nil {
		return fail(err)
	}
	if terr := ep.Connect(toFull(to)); terr != nil {
		_ = c.Close()
		return fail(stdError(terr))
	}
	c.remember()
	return c, nil
}
