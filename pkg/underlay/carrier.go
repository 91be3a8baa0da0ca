package underlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"time"

	"softether-go/pkg/rudp"
)

// A Carrier is one way to carry a connection to the server.
type Carrier struct {
	// Network is "tcp", or the name of one of package rudp's carriers.
	Network string
	// Port stands in for that of the address to connect to; 0 leaves it.
	Port uint16
}

// rudpCarrier returns one of package rudp by its name, nil if it is none.
func rudpCarrier(network string) rudp.Carrier {
	for _, c := range []rudp.Carrier{rudp.Direct{}, rudp.DNS{}, rudp.NewICMP()} {
		if c.String() == network {
			return c
		}
	}
	return nil
}

// otherStart is the head start of one carrier over the next. What the next is slower for
// as long as the session lasts is not worth less patience: a lost SYN is repeated after
// 1 s (RFC 6298, 2.1).
const otherStart = 2 * time.Second

// A candidate is one attempt of a race.
type candidate struct {
	network string
	to      netip.AddrPort
	after   time.Duration // the head start of the one before it
}

// carriers returns what network may mean.
func (d *Dialer) carriers(network string) []Carrier {
	if network != "tcp" || len(d.Carriers) == 0 {
		return []Carrier{{Network: network}}
	}
	return d.Carriers
}

// candidates lists the attempts to reach a port of addresses. Servers take R-UDP over
// IPv4 alone. (Mayaqua/Network.c, NewRUDP)
func candidates(carriers []Carrier, host string, addrs []netip.Addr, port uint16) ([]candidate, error) {
	var all []candidate
	for _, c := range carriers {
		after := otherStart
		for _, a := range addrs {
			if strings.HasPrefix(c.Network, "rudp") && !a.Unmap().Is4() {
				continue
			}
			to := netip.AddrPortFrom(a, port)
			if c.Port != 0 {
				to = netip.AddrPortFrom(a, c.Port)
			}
			all = append(all, candidate{c.Network, to, after})
			after = headStart
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no IPv4 address, and servers take R-UDP over IPv4 alone", host)
	}
	return all, nil
}

// dialOne makes one attempt.
func (d *Dialer) dialOne(ctx context.Context, c candidate) (net.Conn, error) {
	if d.connect != nil {
		return d.connect(ctx, c.network, c.to.String())
	}
	over := rudpCarrier(c.network)
	if over == nil {
		conn, err := (&net.Dialer{Control: d.controlTCP, LocalAddr: d.Bind.local(c.network)}).DialContext(ctx, c.network, c.to.String())
		return conn, d.Bind.explain(err)
	}
	network, to := "udp", c.to.String()
	if _, raw := over.(*rudp.ICMP); raw {
		network, to = "ip4:icmp", c.to.Addr().String()
	}
	sock, err := (&net.Dialer{Control: d.control, LocalAddr: d.Bind.local(network)}).DialContext(ctx, network, to)
	switch {
	case errors.Is(err, fs.ErrPermission) && network != "udp":
		return nil, forbidden{fmt.Errorf("VPN over ICMP takes root or CAP_NET_RAW (%w)", err)}
	case err != nil:
		return nil, d.Bind.explain(err)
	}
	if buffered, ok := sock.(interface{ SetReadBuffer(int) error }); ok {
		_ = buffered.SetReadBuffer(readBuffer) // the system may allow less
	}
	return rudp.Client(ctx, sock, over, &d.rudp)
}

// RUDP counts what all connections by R-UDP have carried so far.
func (d *Dialer) RUDP() rudp.Stats { return d.rudp.Stats() }

// readBuffer keeps a burst of frames from a fast server: 10 ms at 1 Gbit/s are 1.2 MB, and
// the kernel counts its own overhead too.
const readBuffer = 2 << 20

// forbidden is an error that another attempt meets again.
type forbidden struct{ error }

// Permanent says that it is for good.
func (forbidden) Permanent() bool { return true }

func (e forbidden) Unwrap() error { return e.error }

// errProxied says that there is a proxy before the server, and no TCP to go by.
var errProxied = errors.New("R-UDP cannot go through a proxy")

// overTCP is what reaches a proxy.
var overTCP = []Carrier{{Network: "tcp"}}
