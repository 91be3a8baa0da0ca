package client

import (
	"fmt"

	"softether-go/pkg/wire"
)

// bridgeLimits says how many stations a policy lets a bridge have. (Cedar/Hub.c,
// StorePacket; Cedar/Cedar.h, MAC_MIN_LIMIT_COUNT, IP_MIN_LIMIT_COUNT and
// IP_LIMIT_WHEN_NO_ROUTING_V6)
func bridgeLimits(p wire.Policy) []string {
	var limits []string
	for _, l := range []struct {
		what      string
		forbidden string // the item that forbids having many, which leaves so many:
		few       uint32
		most      string // the item that is a number, which counts from:
		least     uint32
	}{
		{"MAC addresses", "NoBridge", 3, "MaxMac", 3},
		{"IPv4 addresses", "NoRouting", 4, "MaxIP", 4},
		{"IPv6 addresses", "NoRoutingV6", 15, "MaxIPv6", 5},
	} {
		n := p.Value(l.most)
		switch {
		case p.Value(l.forbidden) != 0 && (n == 0 || l.few <= n):
			limits = append(limits, fmt.Sprintf("%d %s (%s)", l.few, l.what, l.forbidden))
		case n != 0:
			limits = append(limits, fmt.Sprintf("%d %s (%s)", max(n, l.least), l.what, l.most))
		}
	}
	return limits
}
