package autoconf

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// duid tells servers who we are, by our address on the hub (RFC 8415 section 11.4).
func (c *Client) duid() dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: netMAC(c.mac)}
}

// message returns a message of the present exchange, about addrs if it is about any.
func (r *running) message(kind dhcpv6.MessageType, now time.Time, addrs []netip.Addr) []byte {
	l := &r.known.lease
	m := &dhcpv6.Message{MessageType: kind, TransactionID: l.xid}
	m.AddOption(dhcpv6.OptClientID(r.duid()))
	m.AddOption(dhcpv6.OptElapsedTime(min(now.Sub(l.began), 0xffff*10*time.Millisecond)))
	switch kind {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: l.server})
	case dhcpv6.MessageTypeSolicit:
		m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	}
	asked := []dhcpv6.OptionCode{dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList}
	switch kind {
	case dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		asked = nil
	case dhcpv6.MessageTypeInformationRequest:
		asked = append(asked, dhcpv6.OptionInformationRefreshTime)
	}
	if asked != nil {
		m.AddOption(dhcpv6.OptRequestedOption(asked...))
	}
	if r.name != nil && asked != nil && kind != dhcpv6.MessageTypeInformationRequest {
		m.AddOption(&dhcpv6.OptFQDN{DomainName: r.name}) // the server sees to the DNS, or not (RFC 4704)
	}
	if kind != dhcpv6.MessageTypeInformationRequest {
		ia := &dhcpv6.OptIANA{IaId: r.iaid()}
		for _, a := range addrs {
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice()})
		}
		m.AddOption(ia)
	}
	return m.ToBytes()
}

// iaid names the one set of addresses that we ask for.
func (c *Client) iaid() [4]byte { return [4]byte(c.mac[2:]) }

var (
	errNotOurs = errors.New("not for us")
	errNoOffer = errors.New("no address")
)

// An answer is a server's message, understood.
type answer struct {
	kind    dhcpv6.MessageType
	rapid   bool
	server  []byte
	status  iana.StatusCode // of the message, or else of the addresses
	why     string
	lent    []lentAddr
	t1, t2  time.Duration
	servers []netip.Addr
	search  []string
	refresh time.Duration
}

type lentAddr struct {
	addr             netip.Addr
	valid, preferred time.Duration
}

// understand reads a message that may be anything.
func (c *Client) understand(b []byte) (answer, error) {
	m, err := dhcpv6.MessageFromBytes(b)
	if err != nil {
		return answer{}, err
	}
	a := answer{kind: m.MessageType}
	id, server := m.Options.ClientID(), m.GetOneOption(dhcpv6.OptionServerID)
	if id == nil || !bytes.Equal(id.ToBytes(), c.duid().ToBytes()) || server == nil {
		return a, errNotOurs
	}
	if a.server = server.ToBytes(); len(a.server) < 2 || len(a.server) > 130 { // RFC 8415 section 11.1
		return a, errNotOurs
	}
	a.rapid = m.GetOneOption(dhcpv6.OptionRapidCommit) != nil
	if s := m.Options.Status(); s != nil {
		a.status, a.why = s.StatusCode, s.StatusMessage
	}
	for _, ip := range m.Options.DNS() {
		if addr, ok := netip.AddrFromSlice(ip); ok && usableServer(addr) && len(a.servers) < maxServers {
			a.servers = append(a.servers, addr)
		}
	}
	if o := m.GetOneOption(dhcpv6.OptionDomainSearchList); o != nil {
		a.search = domainNames(o.ToBytes())
	}
	a.refresh = max(m.Options.InformationRefreshTime(usualRefresh), minRefresh)
	for _, ia := range m.Options.IANA() {
		if ia.IaId == c.iaid() {
			a.takeIA(ia)
			break
		}
	}
	return a, nil
}

func (a *answer) takeIA(ia *dhcpv6.OptIANA) {
	a.t1, a.t2 = ia.T1, ia.T2
	if s := ia.Options.Status(); s != nil && a.status == iana.StatusSuccess {
		a.status, a.why = s.StatusCode, s.StatusMessage
	}
	for _, x := range ia.Options.Addresses() {
		addr, ok := netip.AddrFromSlice(x.IPv6Addr)
		if !ok || !routable(netip.PrefixFrom(addr, 128)) || x.PreferredLifetime > x.ValidLifetime || len(a.lent) >= maxLent {
			continue
		}
		a.lent = append(a.lent, lentAddr{addr, x.ValidLifetime, x.PreferredLifetime})
	}
}

// offers returns why a grants nothing, nil if it does.
func (a answer) offers() error {
	if a.status != iana.StatusSuccess {
		return fmt.Errorf("%w: %v %q", errNoOffer, a.status, a.why)
	}
	if !slices.ContainsFunc(a.lent, func(x lentAddr) bool { return x.valid > 0 }) {
		return errNoOffer
	}
	return nil
}
