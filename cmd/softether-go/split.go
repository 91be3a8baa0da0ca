package main

import (
	"context"
	"net"

	"softether-go/pkg/config"
	"softether-go/pkg/dnsproxy"
	"softether-go/pkg/split"
	"softether-go/pkg/underlay"
	"softether-go/proxy"
)

// splitBetween has proxies dial, look up and send by the tunnel, and where rules say so by
// this machine's network, by the ways that connections to the server take too. It returns
// what there is of names beside the tunnel, nil without rules.
func splitBetween(pc *proxy.Config, c config.Split, tunnel split.Network, bind underlay.Bind) dnsproxy.Beside {
	rules, err := split.New(c.Direct, c.ViaVPN)
	if err != nil {
		panic(err) // config has checked them
	}
	pc.Dialer, pc.Resolver = tunnel, tunnel
	if rules == nil {
		return nil
	}
	both := &split.Switch{Rules: rules, VPN: tunnel, Direct: &split.Host{Rules: rules, Dial: bind.Dial}}
	pc.Dialer, pc.Resolver = both, both
	pc.Beside = &proxy.Beside{Takes: both.Takes, Listener: besideSockets{bind}}
	return both
}

// besideSockets are the sockets for datagrams of this machine.
type besideSockets struct{ underlay.Bind }

// ListenPacket opens one on a port that the kernel chooses.
func (s besideSockets) ListenPacket(ctx context.Context, network, _ string) (net.PacketConn, error) {
	return s.Bind.ListenPacket(ctx, network)
}
