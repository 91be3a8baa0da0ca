package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

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
// others stay. Each call announces the addresses to the network.
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
	if c = s.withoutIPv6IfNarrow(c); c.Address.IsValid() && !c.Address.Addr().Unmap().Is4() {
		return fmt.Errorf("netstack: apply: %s is not an IPv4 address", c.Address)
	}
	had, wanted := addressesOf(old), addressesOf(c)
	for addr, p := range had {
		if _, ok := wanted[addr]; !ok {
			s.removeAddress(p)
		}
	}
	if err := s.setMTU(c.EffectiveMTU()); err != nil {
		return err
	}
	if len(c.IPv6.Addresses) > 0 {
		s.link.ip6.Store(true) // before there is something to announce
	}
	if err := s.addAddresses(had, c); err != nil {
		return err
	}
	if len(c.IPv6.Addresses) == 0 {
		s.link.ip6.Store(false)
	}
	s.ns.SetRouteTable(routeTable(c))
	s.dns.SetServers(c.DNS.Servers, c.DNS.Search)

	s.mu.Lock()
	s.cfg = c
	s.mu.Unlock()
	if !old.Equal(c) {
		s.log.Debug("network configured", "address", c.Address, "gateway", c.Gateway,
			"routes", len(c.Routes), "ipv6", c.IPv6.Addresses, "gateways6", c.IPv6.Gateways,
			"routes6", len(c.IPv6.Routes), "dns", c.DNS.Servers, "mtu", s.link.MTU())
	}
	return s.announce(c)
}

// withoutIPv6IfNarrow leaves out IPv6 where packets of the size that each of its links
// takes would not fit (RFC 8200 section 5).
func (s *Stack) withoutIPv6IfNarrow(c netcfg.Config) netcfg.Config {
	if len(c.IPv6.Addresses) > 0 && c.EffectiveMTU() < header.IPv6MinimumMTU {
		s.log.Warn("no IPv6 in the tunnel: the lease's MTU is too small for it", "mtu", c.EffectiveMTU(), "least", header.IPv6MinimumMTU)
		c.IPv6 = netcfg.IPv6{}
	}
	return c
}

// addressesOf returns all addresses of c, with their prefixes as gVisor takes them.
func addressesOf(c netcfg.Config) map[netip.Addr]netip.Prefix {
	all := make(map[netip.Addr]netip.Prefix, 1+len(c.IPv6.Addresses))
	if c.Address.IsValid() {
		a := c.Address.Addr().Unmap()
		all[a] = netip.PrefixFrom(a, c.Address.Bits())
	}
	for _, a := range c.IPv6.Addresses {
		all[a.Addr] = netip.PrefixFrom(a.Addr, 64)
	}
	return all
}

// Announce tells the network where our addresses are and forgets where others were.
// To be called when the tunnel is back: the server may have lost its tables, and
// the gateway may be another machine with the same address.
func (s *Stack) Announce() error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	c, err := s.config()
	if err != nil {
		return fmt.Errorf("netstack: announce: %w", err)
	}
	s.forgetNeighbors(header.IPv4ProtocolNumber)
	s.forgetNeighbors(header.IPv6ProtocolNumber)
	return s.announce(c)
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
// still go out.
func (s *Stack) removeAddress(p netip.Prefix) {
	addr := toAddress(p.Addr())
	s.mu.Lock()
	// From here on nothing new counts on the address.
	s.cfg = without(s.cfg, p.Addr())
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
	if len(bound) > 0 {
		s.log.Info("connections ended with their address", "address", p.Addr(), "count", len(bound))
	}
}

// without returns c without one of its addresses.
func without(c netcfg.Config, addr netip.Addr) netcfg.Config {
	if c.Address.Addr().Unmap() == addr {
		c.Address = netip.Prefix{}
	}
	c.IPv6.Addresses = slices.DeleteFunc(slices.Clone(c.IPv6.Addresses), func(a netcfg.Address6) bool { return a.Addr == addr })
	return c
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

// addAddresses adds the addresses of c that are not among those we have. A new prefix
// length of the same address only matters to the routes.
func (s *Stack) addAddresses(had map[netip.Addr]netip.Prefix, c netcfg.Config) error {
	if p := c.Address; p.IsValid() {
		if err := s.addAddress(had, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()), stack.AddressLifetimes{}); err != nil {
			return err
		}
	}
	// The link's own first: what others make the stack say is said from it.
	for _, local := range []bool{true, false} {
		for _, a := range c.IPv6.Addresses {
			if a.Addr.IsLinkLocalUnicast() != local {
				continue
			}
			if err := s.addAddress(had, netip.PrefixFrom(a.Addr, 64), stack.AddressLifetimes{Deprecated: a.Deprecated}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Stack) addAddress(had map[netip.Addr]netip.Prefix, p netip.Prefix, lifetimes stack.AddressLifetimes) error {
	addr := p.Addr()
	if addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() || addr.Is4In6() || addr.Zone() != "" {
		return fmt.Errorf("netstack: apply: %s cannot be the address of a host", addr)
	}
	if _, ok := had[addr]; ok {
		if addr.Is4() {
			return nil
		}
		if err := s.ns.SetAddressLifetimes(nicID, toAddress(addr), lifetimes); err != nil {
			return fmt.Errorf("netstack: apply: use of address %s: %s", addr, err)
		}
		return nil
	}
	pa := tcpip.ProtocolAddress{
		Protocol:          protocolOf(addr),
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: toAddress(addr), PrefixLen: p.Bits()},
	}
	if err := s.ns.AddProtocolAddress(nicID, pa, stack.AddressProperties{Lifetimes: lifetimes}); err != nil {
		return fmt.Errorf("netstack: apply: add address %s: %s", p, err)
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
	var table []tcpip.Route
	if c.Address.IsValid() {
		table = append(table, tcpip.Route{Destination: toSubnet(c.Address), NIC: nicID})
		table = appendRoutes(table, c.Routes, netip.Addr.Is4)
		table = appendDefault(table, c.Gateway, header.IPv4EmptySubnet)
	}
	if c.IPv6.Usable() {
		table = appendRoutes(table, c.IPv6.Routes, netip.Addr.Is6)
		for _, gw := range c.IPv6.Gateways {
			table = appendDefault(table, gw, header.IPv6EmptySubnet)
		}
	}
	return table
}

func appendRoutes(table []tcpip.Route, routes []netcfg.Route, ofFamily func(netip.Addr) bool) []tcpip.Route {
	for _, r := range routes {
		if r.Dest.IsValid() && ofFamily(r.Dest.Addr().Unmap()) {
			table = append(table, tcpip.Route{Destination: toSubnet(r.Dest), Gateway: toAddress(r.Via), NIC: nicID})
		}
	}
	return table
}

func appendDefault(table []tcpip.Route, gw netip.Addr, all tcpip.Subnet) []tcpip.Route {
	if !gw.IsValid() || gw.IsUnspecified() {
		return table
	}
	return append(table, tcpip.Route{Destination: all, Gateway: toAddress(gw), NIC: nicID})
}

// announce tells everybody on the link where the addresses of c are.
func (s *Stack) announce(c netcfg.Config) error {
	if c.Address.IsValid() {
		if err := s.announce4(c.Address.Addr().Unmap()); err != nil {
			return err
		}
	}
	for _, a := range c.IPv6.Addresses {
		if err := s.announce6(a.Addr); err != nil {
			return err
		}
	}
	return s.announceGroups(c.IPv6.Addresses)
}

// announce4 broadcasts that addr is ours (RFC 5227 section 2.3).
func (s *Stack) announce4(address netip.Addr) error {
	addr := address.As4()
	b := make([]byte, header.ARPSize)
	h := header.ARP(b)
	h.SetIPv4OverEthernet()
	h.SetOp(header.ARPRequest)
	copy(h.HardwareAddressSender(), s.link.mac)
	copy(h.ProtocolAddressSender(), addr[:])
	copy(h.ProtocolAddressTarget(), addr[:])
	err := s.ns.WritePacketToRemote(nicID, header.EthernetBroadcastAddress, arp.ProtocolNumber, buffer.MakeWithData(b))
	if err != nil {
		return fmt.Errorf("netstack: announce %s: %s", address, err)
	}
	return nil
}

// announce6 tells all nodes that addr is ours (RFC 4861 section 7.2.6).
func (s *Stack) announce6(address netip.Addr) error {
	addr, all := toAddress(address), header.IPv6AllNodesMulticastAddress
	option := header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(s.link.mac)}
	b := make([]byte, header.IPv6MinimumSize+header.ICMPv6NeighborAdvertMinimumSize+option.Length())
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(len(b) - header.IPv6MinimumSize),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          header.NDPHopLimit,
		SrcAddr:           addr,
		DstAddr:           all,
	})
	icmp := header.ICMPv6(b[header.IPv6MinimumSize:])
	icmp.SetType(header.ICMPv6NeighborAdvert)
	na := header.NDPNeighborAdvert(icmp.MessageBody())
	na.SetTargetAddress(addr)
	na.SetOverrideFlag(true)
	na.Options().Serialize(option)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: addr, Dst: all}))
	err := s.ns.WritePacketToRemote(nicID, header.EthernetAddressFromMulticastIPv6Address(all), header.IPv6ProtocolNumber, buffer.MakeWithData(b))
	if err != nil {
		return fmt.Errorf("netstack: announce %s: %s", address, err)
	}
	return nil
}

// announceGroups tells switches that listen to MLD by which groups our addresses are asked
// for (RFC 3810 section 5.2). gVisor does so when it joins them; behind another server is
// another switch, which else would let no question through until it asks.
func (s *Stack) announceGroups(addrs []netcfg.Address6) error {
	i := slices.IndexFunc(addrs, func(a netcfg.Address6) bool { return a.Addr.IsLinkLocalUnicast() })
	if i < 0 {
		return nil // a report from another address counts for nothing (section 5.2.13)
	}
	const (
		hopByHop   = 8 // a router alert (RFC 2711) and padding
		report     = header.IPv6MinimumSize + hopByHop
		recordSize = 4 + 16
	)
	src, routers := toAddress(addrs[i].Addr), tcpip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0x16})
	b := make([]byte, report+8+recordSize*len(addrs))
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(len(b) - header.IPv6MinimumSize),
		TransportProtocol: tcpip.TransportProtocolNumber(header.IPv6HopByHopOptionsExtHdrIdentifier),
		HopLimit:          1,
		SrcAddr:           src,
		DstAddr:           routers,
	})
	copy(b[header.IPv6MinimumSize:], []byte{byte(header.ICMPv6ProtocolNumber), 0, 5, 2, 0, 0, 1, 0})
	icmp := header.ICMPv6(b[report:])
	icmp.SetType(header.ICMPv6MulticastListenerV2Report)
	icmp[7] = byte(len(addrs)) // autoconfiguration makes a score at most
	for n, a := range addrs {
		const toExclude = 4 // nobody: all that is sent to the group is wanted
		r := icmp[8+recordSize*n:]
		r[0] = toExclude
		group := header.SolicitedNodeAddr(toAddress(a.Addr)).As16()
		copy(r[4:], group[:])
	}
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: src, Dst: routers}))
	err := s.ns.WritePacketToRemote(nicID, header.EthernetAddressFromMulticastIPv6Address(routers), header.IPv6ProtocolNumber, buffer.MakeWithData(b))
	if err != nil {
		return fmt.Errorf("netstack: announce groups: %s", err)
	}
	return nil
}
