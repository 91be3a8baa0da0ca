package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

// minMTU is what every IPv4 host must take (RFC 791); a lease that names less is
// in error, and obeying it would only break things.
const minMTU = 576

// Apply makes c the configuration of the stack. It may be called with the same
// value any number of times; the zero Config takes everything away.
//
// Connections bound to an address that goes away end with ErrAddressChanged; all
// others stay. With an address, each call announces it to the network.
func (s *Stack) Apply(ctx context.Context, c netcfg.Config) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.applyMu.Lock()
	defer s.applyMu.Unlock()

	s.mu.Lock()
	old, closed := s.cfg, s.closed
	s.mu.Unlock()
	if closed {
		return fmt.Errorf("netstack: apply: %w", net.ErrClosed)
	}
	if old.Address.Addr() != c.Address.Addr() {
		s.removeAddress(old.Address)
	}
	if err := s.setMTU(c.EffectiveMTU()); err != nil {
		return err
	}
	if err := s.addAddress(old.Address, c.Address); err != nil {
		return err
	}
	s.ns.SetRouteTable(routeTable(c))
	s.dns.SetServers(c.DNS.Servers, c.DNS.Search)

	s.mu.Lock()
	s.cfg = c
	s.mu.Unlock()
	if !old.Equal(c) {
		s.log.Debug("network configured", "address", c.Address, "gateway", c.Gateway,
			"routes", len(c.Routes), "dns", c.DNS.Servers, "mtu", s.link.MTU())
	}
	return s.announce(c.Address)
}

// Announce tells the network where our address is and forgets where others were.
// To be called when the tunnel is back: the server may have lost its tables, and
// the gateway may be another machine with the same address.
func (s *Stack) Announce() error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	c, err := s.config()
	if err != nil {
		return fmt.Errorf("netstack: announce: %w", err)
	}
	s.forgetNeighbors(protocolOf(c.Address.Addr()))
	return s.announce(c.Address)
}

// forgetNeighbors drops learned addresses. Those being resolved right now stay:
// dropping them would fail the packets that wait for the answer.
func (s *Stack) forgetNeighbors(proto tcpip.NetworkProtocolNumber) {
	entries, err := s.ns.Neighbors(nicID, proto)
	if err != nil {
		return // closed meanwhile
	}
	for _, e := range entries {
		if e.State != stack.Incomplete && e.State != stack.Unknown {
			_ = s.ns.RemoveNeighbor(nicID, proto, e.Addr) // already gone is as good
		}
	}
}

// removeAddress ends what is bound to p and then removes it, so that the resets
// still go out. An invalid p is none.
func (s *Stack) removeAddress(p netip.Prefix) {
	if !p.IsValid() {
		return
	}
	addr := toAddress(p.Addr())
	s.mu.Lock()
	// From here on nothing new binds to the address: dials see no configuration.
	s.cfg = netcfg.Config{}
	var bound []tracked
	for t := range s.tracked {
		if t.boundTo(addr) {
			bound = append(bound, t)
		}
	}
	s.mu.Unlock()
	for _, t := range bound {
		t.abort(ErrAddressChanged)
	}
	s.abortEndpoints(addr)
	s.forgetNeighbors(protocolOf(p.Addr()))
	if err := s.ns.RemoveAddress(nicID, addr); err != nil {
		s.log.Warn("address not removed", "address", p, "err", err.String())
	}
	s.abortEndpoints(addr) // a dial may have found its route just before
	s.link.ip6.Store(false)
	if len(bound) > 0 {
		s.log.Info("connections ended with their address", "address", p.Addr(), "count", len(bound))
	}
}

// abortEndpoints ends what no connection of ours stands for any more: closed by
// the application, but still sending or lingering.
func (s *Stack) abortEndpoints(addr tcpip.Address) {
	for _, e := range s.ns.RegisteredEndpoints() {
		if ep, ok := e.(tcpip.Endpoint); ok && localAddress(ep) == addr {
			e.Abort()
		}
	}
}

func localAddress(ep tcpip.Endpoint) tcpip.Address {
	info, ok := ep.Info().(*stack.TransportEndpointInfo)
	if !ok {
		return tcpip.Address{}
	}
	return info.ID.LocalAddress
}

// addAddress adds next, unless it is the address that old already gave us. A new
// prefix length of the same address only matters to the routes.
func (s *Stack) addAddress(old, next netip.Prefix) error {
	if !next.IsValid() || old.Addr() == next.Addr() {
		return nil
	}
	addr := next.Addr().Unmap()
	if addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return fmt.Errorf("netstack: apply: %s cannot be the address of a host", addr)
	}
	s.link.ip6.Store(addr.Is6())
	pa := tcpip.ProtocolAddress{
		Protocol:          protocolOf(addr),
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: toAddress(addr), PrefixLen: next.Bits()},
	}
	if err := s.ns.AddProtocolAddress(nicID, pa, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("netstack: apply: add address %s: %s", next, err)
	}
	return nil
}

func (s *Stack) setMTU(mtu int) error {
	mtu = min(max(mtu, minMTU), frame.MaxMTU)
	if s.link.MTU() == uint32(mtu) {
		return nil
	}
	if err := s.ns.SetNICMTU(nicID, uint32(mtu)); err != nil {
		return fmt.Errorf("netstack: apply: set MTU %d: %s", mtu, err)
	}
	return nil
}

// routeTable returns the routes c calls for. gVisor prefers the longer prefix
// and, among equals, the earlier row: a default route in Routes beats Gateway
// (RFC 3442).
func routeTable(c netcfg.Config) []tcpip.Route {
	if !c.Address.IsValid() {
		return nil
	}
	table := []tcpip.Route{{Destination: toSubnet(c.Address), NIC: nicID}}
	for _, r := range c.Routes {
		if !r.Dest.IsValid() || r.Dest.Addr().Unmap().Is4() != c.Address.Addr().Unmap().Is4() {
			continue
		}
		table = append(table, tcpip.Route{
			Destination: toSubnet(r.Dest), Gateway: toAddress(r.Via), NIC: nicID,
		})
	}
	if gw := c.Gateway; gw.IsValid() && !gw.IsUnspecified() {
		all := header.IPv4EmptySubnet
		if gw.Unmap().Is6() {
			all = header.IPv6EmptySubnet
		}
		table = append(table, tcpip.Route{Destination: all, Gateway: toAddress(gw), NIC: nicID})
	}
	return table
}

// announce broadcasts that p is ours (RFC 5227 section 2.3). An invalid p, or
// IPv6, which has its own way, is not announced.
func (s *Stack) announce(p netip.Prefix) error {
	if !p.IsValid() || !p.Addr().Unmap().Is4() {
		return nil
	}
	addr := p.Addr().Unmap().As4()
	b := make([]byte, header.ARPSize)
	h := header.ARP(b)
	h.SetIPv4OverEthernet()
	h.SetOp(header.ARPRequest)
	copy(h.HardwareAddressSender(), s.link.mac)
	copy(h.ProtocolAddressSender(), addr[:])
	copy(h.ProtocolAddressTarget(), addr[:])
	err := s.ns.WritePacketToRemote(nicID, header.EthernetBroadcastAddress, arp.ProtocolNumber, buffer.MakeWithData(b))
	if err != nil {
		return fmt.Errorf("netstack: announce %s: %s", p.Addr(), err)
	}
	return nil
}
