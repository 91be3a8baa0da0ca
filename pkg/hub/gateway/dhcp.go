package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

// firstHost is where the pool begins, as in 10.77.0.10; it ends before the
// network's broadcast address.
const firstHost = 10

// pool is the addresses to give, and who has them. (RFC 2131, 4.3.1)
type pool struct {
	network netip.Prefix
	lease   time.Duration

	mu     sync.Mutex // guards the fields below
	holder map[netip.Addr]hold
}

// hold is one address in use: offered, leased, or declined by who found it taken.
type hold struct {
	mac   string // "" if declined
	until time.Time
}

func newPool(self netip.Prefix, lease time.Duration) pool {
	return pool{network: self, lease: lease, holder: make(map[netip.Addr]hold)}
}

// Holds of an address that is offered or declined.
const (
	offerTime   = 30 * time.Second
	declineTime = 10 * time.Minute
)

// offer returns the address mac has or last had, or a free one. It is false if
// the pool is empty.
func (p *pool) offer(mac string, now time.Time) (netip.Addr, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var free netip.Addr
	a := p.network.Masked().Addr()
	for range firstHost {
		a = a.Next()
	}
	for ; p.network.Contains(a.Next()); a = a.Next() { // not the broadcast address
		h, held := p.holder[a]
		if held && h.mac == mac {
			p.holder[a] = hold{mac, later(h.until, now.Add(offerTime))}
			return a, true
		}
		if !free.IsValid() && a != p.network.Addr() && (!held || now.After(h.until)) {
			free = a
		}
	}
	if free.IsValid() {
		p.holder[free] = hold{mac, now.Add(offerTime)}
	}
	return free, free.IsValid()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// claim leases a to mac, or reports that it cannot be.
func (p *pool) claim(a netip.Addr, mac string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, held := p.holder[a]
	switch {
	case !p.network.Contains(a) || a == p.network.Addr() || a == p.network.Masked().Addr() || !p.network.Contains(a.Next()):
		return false
	case held && h.mac != mac && now.Before(h.until):
		return false
	}
	p.holder[a] = hold{mac, now.Add(p.lease)}
	return true
}

// giveUp ends the hold of mac on a. A declined address is not offered for a while.
func (p *pool) giveUp(a netip.Addr, mac string, declined bool, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h, held := p.holder[a]; !held || h.mac != mac {
		return
	}
	if declined {
		p.holder[a] = hold{"", now.Add(declineTime)}
	} else {
		delete(p.holder, a)
	}
}

// leases returns how many addresses are held.
func (p *pool) leases() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.holder)
}

// Leases returns how many addresses are given away at the moment.
func (g *Gateway) Leases() int { return g.pool.leases() }

// serveDHCP answers requests until pc is closed.
func (g *Gateway) serveDHCP(pc net.PacketConn) error {
	buf := make([]byte, 1500)
	for {
		n, _, err := pc.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("DHCP: %w", err)
		}
		req, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || req.OpCode != dhcpv4.OpcodeBootRequest {
			continue
		}
		resp := g.answer(req, time.Now())
		if resp == nil {
			continue
		}
		// Who has an address yet can be reached there; others hear only broadcasts.
		to := &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}
		if ip := req.ClientIPAddr; !ip.IsUnspecified() && resp.MessageType() == dhcpv4.MessageTypeAck {
			to.IP = ip
		}
		if _, err := pc.WriteTo(resp.ToBytes(), to); err != nil {
			g.cfg.Log.Debug("DHCP answer not sent", "to", to, "cause", err)
		}
	}
}

// answer returns the reply to req, nil if there is none.
func (g *Gateway) answer(req *dhcpv4.DHCPv4, now time.Time) *dhcpv4.DHCPv4 {
	self, mac := g.cfg.Address.Addr(), req.ClientHWAddr.String()
	if id := req.ServerIdentifier(); id != nil && !id.Equal(self.AsSlice()) {
		return nil // meant for another server
	}
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if a, ok := g.pool.offer(mac, now); ok {
			return g.grant(req, dhcpv4.MessageTypeOffer, a)
		}
	case dhcpv4.MessageTypeRequest:
		a := wanted(req)
		if g.pool.claim(a, mac, now) {
			return g.grant(req, dhcpv4.MessageTypeAck, a)
		}
		return g.reply(req, dhcpv4.MessageTypeNak)
	case dhcpv4.MessageTypeRelease:
		g.pool.giveUp(wanted(req), mac, false, now)
	case dhcpv4.MessageTypeDecline:
		g.pool.giveUp(wanted(req), mac, true, now)
	}
	return nil
}

// wanted is the address a client asks for or speaks of.
func wanted(req *dhcpv4.DHCPv4) netip.Addr {
	ip := req.RequestedIPAddress()
	if ip == nil || ip.IsUnspecified() {
		ip = req.ClientIPAddr
	}
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

func (g *Gateway) reply(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	self := net.IP(g.cfg.Address.Addr().AsSlice())
	resp, err := dhcpv4.NewReplyFromRequest(req, append(more,
		dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self)))...)
	if err != nil {
		g.cfg.Log.Debug("DHCP answer not made", "cause", err)
		return nil
	}
	return resp
}

// grant gives a with everything a client should know.
func (g *Gateway) grant(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType, a netip.Addr) *dhcpv4.DHCPv4 {
	self := net.IP(g.cfg.Address.Addr().AsSlice())
	options := []dhcpv4.Modifier{
		dhcpv4.WithYourIP(a.AsSlice()),
		dhcpv4.WithNetmask(net.CIDRMask(g.cfg.Address.Bits(), 32)),
		dhcpv4.WithRouter(self),
		dhcpv4.WithDNS(self),
		dhcpv4.WithLeaseTime(uint32(g.cfg.Lease.Seconds())),
		dhcpv4.WithOption(dhcpv4.OptDomainName(g.cfg.Domain)),
		dhcpv4.WithOption(dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: []string{g.cfg.Domain}})),
	}
	if g.cfg.MTU != 0 {
		options = append(options, dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{byte(g.cfg.MTU >> 8), byte(g.cfg.MTU)}))
	}
	if len(g.cfg.Routes) > 0 {
		options = append(options, dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(g.routes()...)))
	}
	return g.reply(req, kind, options...)
}

func (g *Gateway) routes() []*dhcpv4.Route {
	var routes []*dhcpv4.Route
	for _, r := range g.cfg.Routes {
		via := net.IPv4zero
		if r.Via.IsValid() {
			via = r.Via.AsSlice()
		}
		routes = append(routes, &dhcpv4.Route{
			Dest: &net.IPNet{IP: r.Dest.Addr().AsSlice(), Mask: net.CIDRMask(r.Dest.Bits(), 32)}, Router: via,
		})
	}
	return routes
}
