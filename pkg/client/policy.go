package client

import (
	"context"
	"fmt"
	"strings"
	"time"

	"softether-go/pkg/session"
	"softether-go/pkg/wire"
)

// The hub enforces a user's policy by dropping frames without a word. (Cedar/Hub.c,
// StorePacketFilterByPolicy) What follows says in words what is to be expected, at the
// start and where something fails that a policy explains. One item is left to the client,
// AutoDisconnect, and obeyed.

// meanings are what items of a policy do to this end. With %s the item is a number: a
// rate in bit/s or a count.
var meanings = []struct{ item, means string }{
	{"DHCPFilter", "no DHCP passes"},
	{"DHCPForce", "only addresses from a DHCP server behind the hub pass"},
	{"DHCPNoServer", "a DHCP server at this end is not heard"},
	{"DHCPv6Filter", "no DHCPv6 passes"},
	{"DHCPv6NoServer", "a DHCPv6 server at this end is not heard"},
	{"NoServer", "nobody can connect to this end by TCP over IPv4"},
	{"NoServerV6", "nobody can connect to this end by TCP over IPv6"},
	{"PrivacyFilter", "other users with this item are not reached"},
	{"ArpDhcpOnly", "no broadcasts pass but ARP, DHCP and neighbour discovery"},
	{"CheckMac", "a MAC address of another session is refused"},
	{"CheckIP", "an IPv4 address of another session is refused"},
	{"CheckIPv6", "an IPv6 address of another session is refused"},
	{"FilterIPv4", "no IPv4 passes"},
	{"FilterIPv6", "no IPv6 passes"},
	{"FilterNonIP", "nothing passes but IP and ARP"},
	{"RAFilter", "no router advertisements pass"},
	{"RSandRAFilter", "no router advertisements and solicitations pass"},
	{"NoIPv6DefaultRouterInRA", "no IPv6 router is offered"},
	{"MaxUpload", "at most %s to the hub"},
	{"MaxDownload", "at most %s from the hub"},
	{"AutoDisconnect", "the session ends after %s s, and for good"},
	{"NoQoS", "no frames are urgent"},
}

// explain returns what a policy means, item by item.
func explain(p wire.Policy) (all []string) {
	for _, m := range meanings {
		v := p.Value(m.item)
		if v == 0 {
			continue
		}
		means := m.means
		if strings.Contains(means, "%s") {
			number := fmt.Sprint(v)
			if strings.HasPrefix(m.item, "Max") {
				number = rate(v)
			}
			means = fmt.Sprintf(means, number)
		}
		all = append(all, m.item+": "+means)
	}
	return all
}

// rate writes bits per second as people do.
func rate(bits uint32) string {
	switch {
	case bits >= 1e9:
		return fmt.Sprintf("%.3g Gbit/s", float64(bits)/1e9)
	case bits >= 1e6:
		return fmt.Sprintf("%.3g Mbit/s", float64(bits)/1e6)
	case bits >= 1e3:
		return fmt.Sprintf("%.3g kbit/s", float64(bits)/1e3)
	}
	return fmt.Sprintf("%d bit/s", bits)
}

// expiring returns a ctx that ends with the session's time, if the user's policy gives it
// one: the hub leaves it to the client to obey. (Cedar/Session.c, SessionMain)
func expiring(ctx context.Context, s *session.Session) (context.Context, context.CancelFunc) {
	seconds := s.Welcome().Policy.Value("AutoDisconnect")
	if seconds == 0 {
		return context.WithCancel(ctx)
	}
	life := time.Duration(seconds) * time.Second
	return context.WithTimeoutCause(ctx, life, &session.Error{
		Op: session.OpCarry, Server: s.Server(), Err: fmt.Errorf("%v have passed: %w", life, wire.CodeAutoDisconnect),
	})
}

// noDHCP says why there can be no lease, or nothing: where the policy forbids DHCP, there
// is none to wait for.
func noDHCP(p wire.Policy) string {
	for _, item := range []string{"DHCPFilter", "FilterIPv4"} {
		if p.Value(item) != 0 {
			return fmt.Sprintf("the user's policy has %s, so the hub drops DHCP: ask its administrator, or use -no-dhcp with -address", item)
		}
	}
	return ""
}

// whyNoLease says what may explain that no DHCP server has answered.
func whyNoLease(w wire.Welcome) string {
	if w.VLAN != 0 {
		return fmt.Sprintf("the hub has put us into VLAN %d, where there may be none: ask its administrator, or use -no-dhcp with -address", w.VLAN)
	}
	return "if the hub has none, use -no-dhcp with -address"
}
