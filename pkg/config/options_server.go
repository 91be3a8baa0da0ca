package config

import (
	"net/netip"
	"time"
)

var connectionOptions = []option{
	{connection, "host", "NAME", "",
		"server's name or address; NAME:PORT is fine too. Of several, each is tried when those before fail. Required",
		many(parseHost, func(d *draft) *[]hostForm { return &d.hosts })},
	{connection, "port", "N", "443",
		"server's port; SoftEther servers also listen on 992, 1194 and 5555",
		one(parsePort, func(d *draft) *uint16 { return &d.port })},
	{connection, "hub", "NAME", "DEFAULT",
		"virtual hub to join",
		one(parseName, func(d *draft) *string { return &d.Server.Hub })},
	{connection, "mode", "MODE", "auto",
		"netstack: proxies on a network stack of our own, without privileges; tap: a network interface of " +
			"this machine, which takes root or CAP_NET_ADMIN; auto: netstack if a proxy or a forward is asked for, else tap",
		one(parseMode, func(d *draft) *Mode { return &d.Mode })},
	{connection, "config", "FILE", "",
		"read settings from FILE, a NAME VALUE per line, flags' names without the dash",
		one(parsePath, func(d *draft) *string { return &d.configFile })},
	{connection, "account", "FILE.vpn", "",
		"take server, user, secret and proxy from a file that the official client exported",
		one(parsePath, func(d *draft) *string { return &d.accountFile })},
}

var linkOptions = []option{
	{tcpLinks, "connections", "N", "1",
		"have up to this many at once, 32 at most, and spread flows over them; worth it for uploads of several flows where packets get lost",
		one(parseLinks, func(d *draft) *int { return &d.Links.Count })},
	{tcpLinks, "half-duplex", "", "false",
		"let each carry one direction, for paths that do badly with both; at least 2 connections",
		one(parseBool, func(d *draft) *bool { return &d.Links.HalfDuplex })},
	{tcpLinks, "connection-ttl", "TIME", "0s",
		"replace each at this age, such as 10m, before something in between does; 0s is never",
		one(parseTTL, func(d *draft) *time.Duration { return &d.Links.TTL })},
	{tcpLinks, "qos", "", "false",
		"keep one for frames marked as urgent (VoIP) and for ping; at least 2 connections",
		one(parseBool, func(d *draft) *bool { return &d.Links.QoS })},
	{tcpLinks, "compress", "", "false",
		"compress each frame, both ways; only for slow lines, and what is encrypted inside gains nothing",
		one(parseBool, func(d *draft) *bool { return &d.Links.Compress })},
	{tcpLinks, "insecure-no-encryption", "", "false",
		"after the login, send frames in the clear: everybody on the way can read and change them",
		one(parseBool, func(d *draft) *bool { return &d.Links.Cleartext })},
}

var udpOptions = []option{
	{udpAcceleration, "udp", "POLICY", "auto",
		"send frames by UDP beside the TCP connections: auto while that measures better, off never, require always, or fail",
		one(parseUDPPolicy, func(d *draft) *UDPPolicy { return &d.UDP.Policy })},
	{udpAcceleration, "udp-port", "N", "",
		"send from this UDP port, for a firewall that lets no other out",
		one(parsePort, func(d *draft) *uint16 { return &d.UDP.Port })},
}

var wayOptions = []option{
	{wayToServer, "proxy", "URL", "",
		"reach the server through this proxy: http://HOST:PORT or https:// by CONNECT, socks4://, socks4a://, " +
			"socks5:// or socks5h:// (the a and the h let the proxy look up names), with USER@ before HOST if it wants a login",
		one(parseProxyURL, func(d *draft) *ProxyURL { return &d.proxy })},
	{wayToServer, "proxy-url-pass", "PASSWORD", "",
		"password for the user in -proxy; better from the file, the variable or the systemd credential softether-proxy-url-pass",
		hidden(func(d *draft) *Secret { return &d.proxyURLPass })},
	{wayToServer, "proxy-url-pass-file", "FILE", "",
		"read that password from FILE",
		one(parsePath, func(d *draft) *string { return &d.proxyURLPassFile })},
	{wayToServer, "proxy-header", "HEADER", "",
		"send \"NAME: VALUE\" to the http:// or https:// proxy too; may be repeated",
		headers(func(d *draft) *[]Header { return &d.Way.Headers })},
	{wayToServer, "proxy-from-env", "", "false",
		"go through the proxy in HTTPS_PROXY, but not to servers in NO_PROXY",
		one(parseBool, func(d *draft) *bool { return &d.Way.FromEnv })},
	{wayToServer, "transport", "KIND", "tcp",
		"tcp; rudp: SoftEther's stream over UDP, to -rudp-port; dns: the same, looking like name look-ups, to port 53; icmp: the same in " +
			"ICMP messages, which takes root or CAP_NET_RAW; auto: tcp, and where that fails rudp and dns",
		one(parseTransport, func(d *draft) *Transport { return &d.Way.Transport })},
	{wayToServer, "rudp-port", "N", "",
		"the server's R-UDP port: every server has one of its own, on IPv4",
		one(parsePort, func(d *draft) *uint16 { return &d.Way.RUDPPort })},
	{wayToServer, "host-order", "ORDER", "listed",
		"of several hosts, begin with the first (listed), or with the one that connects first (fastest)",
		order(func(d *draft) *bool { return &d.Server.Fastest })},
	{wayToServer, "bind-address", "ADDRESS", "",
		"connect from this address of this machine",
		one(parseBindAddress, func(d *draft) *netip.Addr { return &d.Way.BindAddress })},
	{wayToServer, "bind-interface", "NAME", "",
		"connect by this interface, whatever the routes say; Linux",
		one(parseInterface, func(d *draft) *string { return &d.Way.BindInterface })},
	{wayToServer, "fwmark", "N", "",
		"mark the packets to the server with this number, for rules of routing and firewalls; Linux, takes root or CAP_NET_ADMIN",
		one(parseMark, func(d *draft) *uint32 { return &d.Way.Mark })},
}

var retryOptions = []option{
	{reconnecting, "reconnect-delay", "TIME", "5s",
		"base delay between attempts; it grows from there, with jitter",
		one(parseDelay, func(d *draft) *time.Duration { return &d.Retry.Delay })},
	{reconnecting, "reconnect-max-delay", "TIME", "1m0s",
		"what the delay may grow to",
		one(parseDelay, func(d *draft) *time.Duration { return &d.Retry.MaxDelay })},
}
