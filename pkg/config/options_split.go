package config

import "softether-go/pkg/split"

var splitOptions = []option{
	{splitting, "direct", "TARGET", "",
		"let proxy clients reach this by this machine's own network and resolver: a network such as 192.0.2.0/24, a domain with " +
			"all below it, or default, which is all that is not in -via-vpn. The most specific of all wins",
		many(split.ParseTarget, func(d *draft) *[]split.Target { return &d.Split.Direct })},
	{splitting, "via-vpn", "TARGET", "",
		"send this by the VPN, as everything is that -direct does not speak of; for exceptions to it",
		many(split.ParseTarget, func(d *draft) *[]split.Target { return &d.Split.ViaVPN })},
}
