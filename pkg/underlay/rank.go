package underlay

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// rankTimeout bounds a comparison of servers: a little more than the first two
// retransmissions of a lost SYN, after 1 and 3 s (RFC 6298).
const rankTimeout = 4 * time.Second

// Fastest orders servers, each host:port, for one attempt: the one that connects
// first, then the others as they are, those last that refused meanwhile. Names are
// looked up before the start, and all the ways protected, so that only connecting
// counts. It blocks until one has connected, all have failed, or ctx has ended.
func (d *Dialer) Fastest(ctx context.Context, servers []string) []string {
	if len(servers) < 2 {
		return servers
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout+rankTimeout)
	defer cancel()
	probe, err := d.prober(ctx, servers)
	if err != nil {
		d.logger().Debug("servers not compared", "cause", err)
		return servers
	}
	first, failed := probe.contest(ctx, servers)
	order := slices.Clone(servers)
	slices.SortStableFunc(order, func(a, b string) int { return place(a, first, failed) - place(b, first, failed) })
	d.logger().Debug("servers compared", "order", order)
	return order
}

func place(server, first string, failed []string) int {
	switch {
	case server == first:
		return 0
	case slices.Contains(failed, server):
		return 2
	}
	return 1
}

// contest connects to all servers at once until the first has answered. The
// connections are closed: which of them a session takes is its own affair.
func (d *Dialer) contest(ctx context.Context, servers []string) (first string, failed []string) {
	ctx, cancel := context.WithTimeout(ctx, rankTimeout)
	defer cancel()
	var mu sync.Mutex // guards first and failed
	var g sync.WaitGroup
	for _, server := range servers {
		g.Go(func() {
			conn, err := d.DialContext(ctx, "tcp", server)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && first == "":
				first = server
				cancel()
			case err != nil && ctx.Err() == nil:
				failed = append(failed, server)
			}
			if err == nil {
				conn.Close()
			}
		})
	}
	g.Wait()
	return first, failed
}

// prober returns a Dialer that knows all names already and leaves the ways as they are.
func (d *Dialer) prober(ctx context.Context, servers []string) (*Dialer, error) {
	ways, others := d.namesOf(servers)
	known := d.lookUp(ctx, append(others, ways...))
	if d.Protect != nil {
		var all []netip.Addr
		for _, host := range ways {
			all = append(all, known[host]...)
		}
		if err := d.Protect(ctx, unique(all)); err != nil {
			return nil, err
		}
	}
	return &Dialer{Via: d.Via, Carriers: d.Carriers, Bind: d.Bind, Log: d.Log, connect: d.connect,
		lookup: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			if addrs := known[host]; len(addrs) > 0 {
				return addrs, nil
			}
			return nil, &net.DNSError{Err: "not resolved in time", Name: host, IsTimeout: true}
		}}, nil
}

// namesOf returns the hosts to connect to, and those that only have to be looked up.
func (d *Dialer) namesOf(servers []string) (ways, others []string) {
	for _, server := range servers {
		host, service, _ := net.SplitHostPort(server)
		port, _ := strconv.ParseUint(service, 10, 16)
		if d.Via != nil {
			if p := d.Via(host, uint16(port)); p != nil {
				ways = append(ways, p.Host)
				if p.Scheme == "socks4" || p.Scheme == "socks5" {
					others = append(others, host)
				}
				continue
			}
		}
		ways = append(ways, host)
	}
	return ways, others
}

// lookUp resolves all hosts side by side. What fails is missing.
func (d *Dialer) lookUp(ctx context.Context, hosts []string) map[string][]netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	slices.Sort(hosts)
	var mu sync.Mutex // guards known
	known := make(map[string][]netip.Addr)
	var g sync.WaitGroup
	for _, host := range slices.Compact(hosts) {
		g.Go(func() {
			addrs, err := d.resolve(ctx, host)
			if err == nil {
				addrs, err = d.Bind.reachable(host, addrs)
			}
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			known[host] = addrs
		})
	}
	g.Wait()
	return known
}
