package vpn

import (
	"context"
	"crypto/rand"
	"net"
	"strconv"

	"softether-go/pkg/client"
	"softether-go/pkg/underlay"
)

// Servers returns how to choose among servers at each attempt: in their order, or the
// one that way connects to first before the others. Without any it is nil, which leaves
// a client its session's own.
func Servers(all []client.Server, fastest bool, way *underlay.Dialer) func(context.Context) []client.Server {
	switch {
	case len(all) == 0:
		return nil
	case !fastest:
		return func(context.Context) []client.Server { return all }
	}
	var names []string
	byName := make(map[string]client.Server)
	for _, s := range all {
		name := net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
		names, byName[name] = append(names, name), s
	}
	return func(ctx context.Context) []client.Server {
		var ordered []client.Server
		for _, name := range way.Fastest(ctx, names) {
			ordered = append(ordered, byName[name])
		}
		return ordered
	}
}

// RandomMAC returns a locally administered unicast address. 5E is what the
// official client's adapters begin with.
func RandomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = 0x5e
	return mac
}
