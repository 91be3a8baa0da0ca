package config

var tapOptions = []option{
	{tapMode, "tap", "NAME", "",
		"what to call the interface, such as vpn0; without it the kernel chooses",
		one(parseInterface, func(d *draft) *string { return &d.TAP.Name })},
	{tapMode, "accept-default-gateway", "", "false",
		"route everything by the VPN's gateway, with metric 50; default routes of others stay",
		one(parseBool, func(d *draft) *bool { return &d.TAP.AcceptDefaultGateway })},
	{tapMode, "accept-static-routes", "", "false",
		"install the lease's classless static routes; a default route among them only with " +
			"-accept-default-gateway",
		one(parseBool, func(d *draft) *bool { return &d.TAP.AcceptStaticRoutes })},
	{tapMode, "accept-dns", "", "false",
		"let this machine use the lease's name servers and search domains, or -dns and -search; " +
			"put back at the end",
		one(parseBool, func(d *draft) *bool { return &d.TAP.AcceptDNS })},
	{tapMode, "policy-route-table", "N", "0",
		"route packets from our VPN address by this table, whose default route is the VPN's gateway; 0 is none",
		one(parseTable, func(d *draft) *int { return &d.TAP.PolicyTable })},
	{tapMode, "connmark", "", "false",
		"send replies in connections that came by the VPN back through it, also after DNAT to a namespace, " +
			"container or VM; needs -policy-route-table",
		one(parseBool, func(d *draft) *bool { return &d.TAP.ConnMark })},
	{tapMode, "block-ipv6", "", "false",
		"refuse IPv6 that would leave beside the tunnel, but to own subnets and in reply to others; " +
			"needs -accept-default-gateway",
		one(parseBool, func(d *draft) *bool { return &d.TAP.BlockIPv6 })},
	{tapMode, "ipv6-autoconf", "", "false",
		"let the kernel configure IPv6 on the interface by router advertisements from the VPN",
		one(parseBool, func(d *draft) *bool { return &d.TAP.SLAAC })},
	{tapMode, "bridge", "NAME", "",
		"make the interface a port of this Linux bridge, and ask the server for bridge mode: for site to site, " +
			"without an address of this machine's own",
		one(parseInterface, func(d *draft) *string { return &d.TAP.Bridge })},
	{tapMode, "monitor", "", "false",
		"ask the server for monitoring mode: the interface shows all frames of the hub, as for tcpdump, and sends none; " +
			"the user's policy has to allow it (MonitorPort)",
		one(parseBool, func(d *draft) *bool { return &d.TAP.Monitor })},
}
