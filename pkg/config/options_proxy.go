package config

var proxyOptions = []option{
	{proxies, "socks5", "ADDRESS:PORT", "",
		"serve SOCKS5 here, such as 127.0.0.1:1080; :1080 is all interfaces",
		many(parseListen, func(d *draft) *[]string { return &d.Proxy.SOCKS5 })},
	{proxies, "http", "ADDRESS:PORT", "",
		"serve an HTTP proxy here, such as 127.0.0.1:8080",
		many(parseListen, func(d *draft) *[]string { return &d.Proxy.HTTP })},
	{proxies, "proxy-user", "NAME", "",
		"user name that the proxies' clients must give",
		one(parseProxyUser, func(d *draft) *string { return &d.Proxy.User })},
	{proxies, "proxy-pass", "PASSWORD", "",
		"its password; better from the file, the variable or the systemd credential softether-proxy-pass",
		hidden(func(d *draft) *Secret { return &d.Proxy.Password })},
	{proxies, "proxy-pass-file", "FILE", "",
		"read its password from FILE",
		one(parsePath, func(d *draft) *string { return &d.proxyPassFile })},
	{proxies, "proxy-open", "", "false",
		"listen beyond loopback without user and password: whoever reaches the port may use the VPN",
		one(parseBool, func(d *draft) *bool { return &d.Proxy.Open })},
}
