package vpn

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"softether-go/netstack"
	"softether-go/pkg/netcfg"
)

// A Tunnel is a host in the hub: a Line on a network stack in this process.
type Tunnel struct {
	*Line
	stack *stackEnd

	stop context.CancelFunc // of what Dial runs; nil after Open
	done chan struct{}      // closed when that has ended
	err  error              // why; read after done

	closing sync.Once
}

// stackEnd is the netstack with the address it was made with.
type stackEnd struct {
	*netstack.Stack
	mac net.HardwareAddr
}

func (e *stackEnd) MAC() net.HardwareAddr { return e.mac }

// HasQueue says that netstack has its own queue.
func (e *stackEnd) HasQueue() {}

// Open makes a Tunnel that Run brings to life, for who wants to open listeners first.
// The caller closes it after Run has returned.
func Open(cfg Config) (*Tunnel, error) {
	known := cfg.MAC != nil
	cfg = cfg.withDefaults()
	stack, err := netstack.New(netstack.Config{MAC: cfg.MAC, Log: cfg.Log, Way: cfg.Way})
	if err != nil {
		return nil, err
	}
	end := &stackEnd{stack, cfg.MAC}
	return &Tunnel{Line: assemble(cfg, end, cfg.Plan(cfg.MAC, known, cfg.Log)), stack: end, done: make(chan struct{})}, nil
}

// Dial joins the VPN. It blocks until the first session is up and has its address, an
// error that no retry can mend, or ctx ends; after that ctx does not matter any more. A
// session that is lost later comes back by itself. The caller closes the Tunnel.
func Dial(ctx context.Context, cfg Config) (*Tunnel, error) {
	t, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	t.stop = stop
	go func() { // awaited by Close
		defer close(t.done)
		t.err = t.Run(life)
		if errors.Is(t.err, context.Canceled) {
			t.err = net.ErrClosed
		}
		_ = t.stack.Close() // nothing there can fail
	}()
	select {
	case <-t.Up():
		return t, nil
	case <-t.done:
		return nil, t.err
	case <-ctx.Done():
		last := t.client.Cause()
		_ = t.Close()
		return nil, errors.Join(ctx.Err(), last)
	}
}

// Done is closed when a Tunnel that was dialed has ended: by Close, or for good.
func (t *Tunnel) Done() <-chan struct{} { return t.done }

// Err returns nil while Done is open, then why it was closed: net.ErrClosed after Close.
func (t *Tunnel) Err() error {
	select {
	case <-t.done:
		return t.err
	default:
		return nil
	}
}

// Close ends the Tunnel and all that was opened by it, and waits until nothing is left.
// See the package's documentation for the order. Later calls do nothing.
func (t *Tunnel) Close() error {
	t.closing.Do(func() {
		if t.stop == nil { // Run's caller has ended it
			_ = t.stack.Close()
			return
		}
		t.stack.CloseAll() // before its address goes, which they would take for the reason
		t.stop()
		<-t.done
	})
	return nil
}

// DialContext connects to address, "host:port", in the VPN. The network is tcp or udp,
// or one of these with 4 or 6 behind it. A name is looked up there too.
func (t *Tunnel) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return t.stack.DialContext(ctx, network, address)
}

// DialPermitted is DialContext, but for addresses, of a name or given as such, of which
// permit returns an error. If that is so of all, the first of those errors is the cause of
// the failure.
func (t *Tunnel) DialPermitted(ctx context.Context, network, address string, permit func(netip.AddrPort) error) (net.Conn, error) {
	return t.stack.DialPermitted(ctx, network, address, permit)
}

// Listen accepts TCP connections from the VPN at address, "host:port". Without a host
// it is whatever addresses the Tunnel has, also after they have changed: of IPv4 with the
// network tcp4, else of both families. Port 0 lets the stack choose.
func (t *Tunnel) Listen(network, address string) (net.Listener, error) {
	at, err := listenAddress("tcp", network, address)
	if err != nil {
		return nil, err
	}
	return t.stack.ListenTCP(at)
}

// ListenPacket receives UDP datagrams from the VPN at address, with the network udp,
// udp4 or udp6, as Listen does connections.
func (t *Tunnel) ListenPacket(network, address string) (net.PacketConn, error) {
	at, err := listenAddress("udp", network, address)
	if err != nil {
		return nil, err
	}
	return t.stack.ListenPacket(at)
}

// ListenICMP sends and receives ICMP in the VPN, of the network ip4 or ip6.
func (t *Tunnel) ListenICMP(network string) (*netstack.ICMPConn, error) {
	return t.stack.ListenICMP(network)
}

// listenAddress takes an address of ours apart. It is never looked up.
func listenAddress(transport, network, address string) (netip.AddrPort, error) {
	family, ok := strings.CutPrefix(network, transport)
	if !ok || family != "" && family != "4" && family != "6" {
		return netip.AddrPort{}, &net.OpError{Op: "listen", Net: network, Err: net.UnknownNetworkError(network)}
	}
	if strings.HasPrefix(address, ":") {
		host := "[::]"
		if family == "4" {
			host = "0.0.0.0"
		}
		address = host + address
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return at, &net.OpError{Op: "listen", Net: network, Err: &net.AddrError{Err: "not an address and a port", Addr: address}}
	}
	return at, nil
}

// LookupNetIP resolves host by the name servers of the VPN and its search domains. The
// network is ip, ip4 or ip6.
func (t *Tunnel) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return t.stack.LookupNetIP(ctx, network, host)
}

// Resolver returns a resolver that asks the name servers of the VPN, for what
// LookupNetIP does not have: MX, SRV, TXT, names of addresses. It is Go's own, so it
// takes what the machine's hosts file and search domains say for granted.
func (t *Tunnel) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var last error = &net.DNSError{Err: "the VPN has told of no name server"}
		for _, server := range t.Address().DNS.Servers {
			conn, err := t.stack.DialContext(ctx, network, netip.AddrPortFrom(server, 53).String())
			if err == nil {
				return conn, nil
			}
			last = err
		}
		return nil, last
	}}
}

// HTTPClient returns a client whose requests go by the VPN, and by no proxy. Each call
// makes one, with connections of its own to reuse.
func (t *Tunnel) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: t.DialContext, ForceAttemptHTTP2: true,
		MaxIdleConns: 100, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second, // as http.DefaultTransport
	}}
}

// Address returns the address, routes and name servers that the Tunnel has now. It is
// zero while it has none.
func (t *Tunnel) Address() netcfg.Config { return t.stack.Applied() }

// AwaitIPv6 waits for an IPv6 address that others than the neighbours can reach, until ctx
// ends. Dial does not: it comes later than that of IPv4, and in many VPNs never.
func (t *Tunnel) AwaitIPv6(ctx context.Context) error {
	const look = 50 * time.Millisecond // there is nobody to be told by
	for !t.Address().IPv6.Usable() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.done:
			return t.err
		case <-time.After(look):
		}
	}
	return nil
}

// Stats returns the counters of the stack.
func (t *Tunnel) Stats() netstack.Stats { return t.stack.Stats() }
