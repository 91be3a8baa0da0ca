package main

import (
	"softether-go/pkg/config"
	"softether-go/pkg/split"
	"softether-go/pkg/underlay"
)

// splitDialer returns what proxies dial with: the tunnel, and where rules say so this
// machine's network, by the ways that connections to the server take too.
func splitDialer(c config.Split, tunnel split.Network, bind underlay.Bind) split.Network {
	rules, err := split.New(c.Direct, c.ViaVPN)
	if err != nil {
		panic(err) // config has checked them
	}
	if rules == nil {
		return tunnel
	}
	return &split.Switch{Rules: rules, VPN: tunnel, Direct: &split.Host{Rules: rules, Dial: bind.Dial}}
}
