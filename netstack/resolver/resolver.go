// Package resolver is a small stub resolver: it asks given DNS servers over
// connections that somebody else opens.
//
// # Theory of operation
//
// A lookup turns the host into the list of full names to try (search domains for
// a name without a dot), and asks for A and AAAA of each name side by side. One
// question goes to the servers in their order, each started a second after the
// one before or as soon as that failed, and twice around; the first usable
// answer wins. A question goes over UDP and, if the answer was cut, again over
// TCP. Answers and denials are cached for their time to live within bounds.
//
// The host is never asked: there is no net.Resolver, no hosts file and no
// resolv.conf here, and names that mean this machine are refused.
//
// # Limits
//
// A lookup takes at most lookupTimeout per name, a message is at most 64 KiB (512
// bytes over UDP; EDNS is not offered, because the DNS relays of home routers and
// of SoftEther's SecureNAT are old), an answer yields at most maxAddrs addresses
// through at most maxChain aliases, and the cache holds maxEntries answers.
// Whatever a server sends beyond that is ignored.
//
// # Goroutines
//
// A lookup starts a goroutine for each question and each server tried. They have
// ended when it returns.
//
// # Errors
//
// Every failure is a *net.DNSError: IsNotFound if the name or the kind of address
// does not exist, IsTimeout if no server answered in time, IsTemporary if trying
// again may help.
package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// lookupTimeout bounds all attempts for one name: two rounds of two servers,
	// the last started after 3 s, with time to answer over TCP.
	lookupTimeout = 8 * time.Second

	// attemptTimeout bounds one question to one server, TCP included.
	attemptTimeout = 2500 * time.Millisecond

	// stagger is how long a server has before the next is asked as well.
	stagger = time.Second

	// rounds is how often the list of servers is gone through.
	rounds = 2

	// maxServers bounds how many servers are used: with a second between them the
	// last would not be asked within lookupTimeout anyway.
	maxServers = 3

	// familyDelay is how long a lookup that has addresses of one family waits for
	// the other (RFC 8305 section 3).
	familyDelay = 50 * time.Millisecond
)

var (
	errNoServer  = errors.New("no DNS server: the lease named none; set -dns to name one behind the tunnel")
	errLocalhost = errors.New("localhost is this machine, not a host behind the tunnel")
	errBadName   = errors.New("not a valid host name")
	errNoName    = errors.New("no such host")
	errNoRecord  = errors.New("the name exists but has no address of the kind asked for")
	errTimeout   = errors.New("no DNS server answered in time")
)

// Config is what a Resolver is made from.
type Config struct {
	// Dial opens a connection to a server; the network is "udp" or "tcp". It
	// returns soon after ctx ends. Required.
	Dial func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)
}

// Resolver resolves names. All methods may be called from several goroutines.
type Resolver struct {
	dial  func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)
	cache cache

	mu      sync.Mutex // guards the fields below; the slices are replaced, never changed
	servers []netip.AddrPort
	search  []string
}

// New returns a resolver that knows no server yet.
func New(cfg Config) *Resolver { return &Resolver{dial: cfg.Dial} }

// SetServers replaces the servers and search domains. If they changed, the cache
// is emptied: another network may have other answers.
func (r *Resolver) SetServers(servers []netip.Addr, search []string) {
	var ports []netip.AddrPort
	for _, a := range servers {
		if a.IsValid() && !a.IsUnspecified() && len(ports) < maxServers {
			ports = append(ports, netip.AddrPortFrom(a.Unmap(), 53))
		}
	}
	domains := searchDomains(search)
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(ports, r.servers) && slices.Equal(domains, r.search) {
		return
	}
	r.servers, r.search = ports, domains
	r.cache.clear()
}

func (r *Resolver) settings() (servers []netip.AddrPort, search []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.servers, r.search
}

// LookupNetIP returns the addresses of host: both families for the network "ip",
// one for "ip4" or "ip6". An IP address is returned as it is.
func (r *Resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	types, err := recordTypes(network)
	if err != nil {
		return nil, dnsError(host, "", err)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return literal(a, types, host)
	}
	servers, search := r.settings()
	names, err := candidates(host, search)
	if err != nil {
		return nil, dnsError(host, "", err)
	}
	if len(servers) == 0 {
		return nil, dnsError(host, "", errNoServer)
	}
	var last error
	for _, name := range names {
		addrs, err := r.lookupName(ctx, servers, name, types)
		if err == nil {
			return addrs, nil
		}
		if !isDenial(err) {
			return nil, dnsError(host, servers[0].String(), err)
		}
		// That a name exists at all says more than that another does not.
		if last == nil || errors.Is(err, errNoRecord) {
			last = err
		}
	}
	return nil, dnsError(host, servers[0].String(), last)
}

func recordTypes(network string) ([]dnsmessage.Type, error) {
	switch network {
	case "ip":
		return []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA}, nil
	case "ip4":
		return []dnsmessage.Type{dnsmessage.TypeA}, nil
	case "ip6":
		return []dnsmessage.Type{dnsmessage.TypeAAAA}, nil
	}
	return nil, net.UnknownNetworkError(network)
}

// literal returns a if it is of a wanted family.
func literal(a netip.Addr, types []dnsmessage.Type, host string) ([]netip.Addr, error) {
	a = a.Unmap()
	want := dnsmessage.TypeA
	if a.Is6() {
		want = dnsmessage.TypeAAAA
	}
	if !slices.Contains(types, want) {
		return nil, dnsError(host, "", errNoRecord)
	}
	return []netip.Addr{a}, nil
}

// reply is the outcome of one question.
type reply struct {
	addrs []netip.Addr
	err   error
}

// lookupName asks for all types of name at once and merges the replies.
func (r *Resolver) lookupName(ctx context.Context, servers []netip.AddrPort, name dnsmessage.Name, types []dnsmessage.Type) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	replies := make(chan reply, len(types))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before waiting
	for _, t := range types {
		wg.Go(func() {
			addrs, err := r.ask(ctx, servers, question(name, t))
			replies <- reply{addrs, err}
		})
	}
	var addrs []netip.Addr
	var errs []error
	var enough <-chan time.Time // set once there is something to return
	for range types {
		select {
		case p := <-replies:
			addrs = append(addrs, p.addrs...)
			if p.err != nil {
				errs = append(errs, p.err)
			}
		case <-enough:
			return addrs, nil
		}
		if len(addrs) > 0 && enough == nil {
			enough = time.After(familyDelay)
		}
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	return nil, worst(errs)
}

// worst picks the error to report when no question was answered with an address:
// a failure before a denial, since the failed question might have had one.
func worst(errs []error) error {
	for _, err := range errs {
		if !isDenial(err) {
			return err
		}
	}
	for _, err := range errs {
		if errors.Is(err, errNoRecord) {
			return err
		}
	}
	return errNoName
}

func isDenial(err error) bool {
	return errors.Is(err, errNoName) || errors.Is(err, errNoRecord)
}

// ask answers one question from the cache or from the servers.
func (r *Resolver) ask(ctx context.Context, servers []netip.AddrPort, q dnsmessage.Question) ([]netip.Addr, error) {
	key := cacheKey{name: strings.ToLower(q.Name.String()), kind: q.Type}
	if a, ok := r.cache.get(key); ok {
		return a.addrs, a.err
	}
	a, err := r.exchangeAll(ctx, servers, q)
	if err != nil {
		return nil, err
	}
	if now, _ := r.settings(); slices.Equal(now, servers) {
		r.cache.put(key, a) // not the answer of a network we have left
	}
	return a.addrs, a.err
}

// dnsError makes the error that callers see.
func dnsError(host, server string, err error) error {
	e := &net.DNSError{Err: err.Error(), Name: host, Server: server, UnwrapErr: err}
	switch {
	case isDenial(err), errors.Is(err, errLocalhost), errors.Is(err, errBadName):
		e.IsNotFound = true
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded):
		e.IsTimeout, e.IsTemporary = true, true
	case errors.Is(err, errNoServer), errors.Is(err, context.Canceled):
	default:
		e.IsTemporary = true
	}
	return e
}
