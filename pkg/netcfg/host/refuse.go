package host

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrRefused is in every error about a configuration that would do harm or cannot
// work on this host. Nothing has been changed then.
var ErrRefused = errors.New("refused")

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// refuse says why a configuration cannot be on this host, nil if it can.
func refuse(v view, w wish) error {
	own := w.Config.Address
	switch addr := own.Addr(); {
	case !own.IsValid() || !addr.Is4() || !addr.IsGlobalUnicast() && !addr.IsLinkLocalUnicast():
		return refused("%v is not an address for an interface", own)
	case own.Bits() == 0:
		return refused("the address %v claims all of the Internet as its subnet", own)
	}
	if mtu := w.Config.EffectiveMTU(); mtu < minMTU || mtu > maxMTU {
		return refused("an MTU of %d: IPv4 needs %d to %d", mtu, minMTU, maxMTU)
	}
	if g := w.gateway(); g.IsValid() && (!g.Is4() || g == own.Addr()) {
		return refused("%v cannot be the gateway of %v", g, own)
	}
	for _, s := range w.Servers {
		if own.Contains(s) {
			return refused("the VPN's subnet %v contains the server's own address %v; connect by another address of it, "+
				"or leave the network that both are in", own.Masked(), s)
		}
	}
	for _, a := range v.Addresses {
		if a.Prefix.Addr() == own.Addr() && a.Dev != v.TAP.Index {
			return refused("the VPN gives us %v, which %s has already", own.Addr(), v.Links[a.Dev].Name)
		}
	}
	if err := refuseSubnet(v, own, "the VPN's subnet"); err != nil {
		return err
	}
	for _, r := range w.statics() {
		if err := refuseRoute(v, w, r.Dest); err != nil {
			return err
		}
	}
	if w.ConnMark && w.TunnelMark == 0 {
		return refused("no mark is free for -connmark: seven instances run already")
	}
	return refuseTable(v, w)
}

const (
	minMTU = 68 // RFC 791
	maxMTU = 65535
)

// refuseSubnet finds a subnet of this host that dest would take packets from: an
// equal or larger one. A smaller one keeps its own.
func refuseSubnet(v view, dest netip.Prefix, what string) error {
	for _, a := range v.Addresses {
		i := v.Links[a.Dev]
		if a.Dev == v.TAP.Index || i.Sibling || i.Loopback || !a.Prefix.Addr().Is4() {
			continue
		}
		if dest.Bits() >= a.Prefix.Bits() && a.Prefix.Contains(dest.Addr()) {
			return refused("%s %v would take packets from this host's own %v on %s; "+
				"one of the two networks has to be renumbered", what, dest.Masked(), a.Prefix.Masked(), i.Name)
		}
	}
	return nil
}

// refuseRoute: a route to the server alone would beat ours, one to a subnet of this
// host would shadow it. A wider one does neither.
func refuseRoute(v view, w wish, dest netip.Prefix) error {
	for _, s := range w.Servers {
		if dest.IsSingleIP() && dest.Addr() == s {
			return refused("the VPN's route to %v would lead the tunnel into itself; leave out -accept-static-routes", s)
		}
	}
	if dest.Addr().IsLoopback() || dest.Addr().IsMulticast() {
		return refused("the VPN's route to %v is not one to another network", dest)
	}
	return refuseSubnet(v, dest, "the VPN's route to")
}

// refuseTable: who has a default route of their own in the policy table decides
// about more than we could add to.
func refuseTable(v view, w wish) error {
	for _, r := range v.Routes {
		if r.Dest != default4 || r.ours(v.TAP.Index) {
			continue
		}
		if w.PolicyTable != 0 && r.Table == w.PolicyTable {
			return refused("table %d has a default route already, by %s; give another one with -policy-route-table",
				w.PolicyTable, v.Links[r.Dev].Name)
		}
		if w.takesDefault() && r.Table == tableMain && r.Protocol == protocol {
			return refused("another VPN of this program, on %s, has the default route; "+
				"only one can have -accept-default-gateway", v.Links[r.Dev].Name)
		}
	}
	return nil
}
