package netstack

import (
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// An ICMPConn sends and receives ICMP messages: what ping and traceroute are made of. It
// gets all that come for the stack, and the stack goes on answering those that it should.
type ICMPConn struct {
	packetConn
	v6 bool

	lostMu sync.Mutex
	lost   []lostMessage // which Receive is to tell of
}

// ListenICMP opens an ICMPConn of the network "ip4" or "ip6".
func (s *Stack) ListenICMP(network string) (*ICMPConn, error) {
	c := &ICMPConn{v6: network == "ip6"}
	if !c.v6 && network != "ip4" {
		return nil, opError("listen", network, nil, nil, net.UnknownNetworkError(network))
	}
	transport, ip := icmp.ProtocolNumber4, header.IPv4ProtocolNumber
	if c.v6 {
		transport, ip = icmp.ProtocolNumber6, header.IPv6ProtocolNumber
	}
	wq := new(waiter.Queue)
	ep, terr := s.ns.NewRawEndpoint(transport, ip, wq, true)
	if terr != nil {
		return nil, opError("listen", network, nil, nil, stdError(terr))
	}
	c.open(s, ep, wq, network)
	if err := s.track(c); err != nil {
		ep.Close()
		return nil, opError("listen", network, nil, nil, err)
	}
	ep.SocketOptions().SetReceiveHopLimit(true)
	return c, nil
}

// Send sends a message, complete but for the checksum of ICMPv6, which the stack adds, in
// a packet of this many hops. One longer than the interface's MTU is refused with
// EMSGSIZE; whether routers may cut it is up to mayFragment.
func (c *ICMPConn) Send(msg []byte, to netip.Addr, hops int, mayFragment bool) error {
	to = to.Unmap()
	fail := func(err error) error {
		return opError("write", c.network, nil, &net.IPAddr{IP: to.AsSlice()}, err)
	}
	if err := usable(to); err != nil {
		return fail(err)
	}
	discover := tcpip.PMTUDiscoveryDo
	if mayFragment {
		discover = tcpip.PMTUDiscoveryDont
	}
	option := tcpip.IPv4TTLOption
	if c.v6 {
		option = tcpip.IPv6HopLimitOption
	}
	for name, value := range map[tcpip.SockOptInt]int{option: hops, tcpip.MTUDiscoverOption: int(discover)} {
		if terr := c.ep.SetSockOptInt(name, value); terr != nil {
			return fail(stdError(terr))
		}
	}
	if _, err := c.send(msg, netip.Addr{}, netip.AddrPortFrom(to, 0), true); err != nil {
		return fail(err)
	}
	c.watch(msg, to)
	return nil
}

// Receive waits for a message, and says who sent it and of how many hops were left. It may be
// our own stack, which says of a message that nobody was there to take it.
func (c *ICMPConn) Receive(b []byte) (n int, from netip.Addr, hops int, err error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	deadline := c.readBy.passed()
	for {
		if err := c.check(deadline); err != nil {
			return 0, from, 0, c.opError("read", err)
		}
		if n, from := c.takeLost(b); n > 0 {
			return n, from, ownHops, nil
		}
		c.dst = b
		res, terr := c.ep.Read(&c.dst, tcpip.ReadOptions{NeedRemoteAddr: true})
		c.dst = nil
		switch terr.(type) {
		case nil:
			n, hops = c.strip(b[:res.Count], int(res.ControlMessages.HopLimit))
			return n, fromFull(res.RemoteAddr).Addr(), hops, nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.readable, deadline); err != nil {
				return 0, from, 0, c.opError("read", err)
			}
		default:
			return 0, from, 0, c.opError("read", c.failure(terr))
		}
	}
}

// strip takes off the header that packets of IPv4 come with.
func (c *ICMPConn) strip(b []byte, hops int) (int, int) {
	if c.v6 || len(b) < header.IPv4MinimumSize {
		return len(b), hops
	}
	h := header.IPv4(b)
	hops = int(h.TTL())
	return copy(b, b[min(int(h.HeaderLength()), len(b)):]), hops
}

// Close ends it.
func (c *ICMPConn) Close() error {
	c.s.untrack(c)
	return c.close()
}
