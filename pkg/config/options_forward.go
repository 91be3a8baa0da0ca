package config

var forwardOptions = []option{
	{forwarding, "L", "[ADDR:]PORT:HOST:PORT", "",
		"lead a port of this machine into the VPN, such as 8080:web.corp:80: of 127.0.0.1 unless another address stands " +
			"before it, or a path in its place; udp/ before it for UDP, proxyv2/ to tell the host who the client is",
		many(parseLocalForward, func(d *draft) *[]LocalForward { return &d.Forwards.Local })},
	{forwarding, "R", "PORT:HOST:PORT", "",
		"lead a port of our address in the VPN to this machine or one that it reaches, such as 8080:localhost:80, or to " +
			"a path; udp/ and proxyv2/ as for -L",
		many(parseRemoteForward, func(d *draft) *[]RemoteForward { return &d.Forwards.Remote })},
	{forwarding, "dns-listen", "[ADDR:]PORT", "",
		"answer DNS questions here, over UDP and TCP, from the VPN's name servers, such as 127.0.0.1:5353",
		many(parseDNSListen, func(d *draft) *[]ListenAddress { return &d.Forwards.DNS })},
}
