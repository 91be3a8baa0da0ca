package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"time"
)

// A group is a heading of the usage text, in the order of the table.
type group string

const (
	connection     group = "Connection"
	tcpLinks       group = "TCP connections of the session"
	authentication group = "Authentication"
	serverTrust    group = "Server trust"
	wayToServer    group = "The way to the server"
	addressing     group = "Addressing inside the tunnel"
	proxies        group = "Proxies"
	tapMode        group = "TAP mode"
	runMode        group = "Running a command (softether-go run)"
	reconnecting   group = "Reconnecting"
	logging        group = "Logging"
)

// An option is one row of the table.
type option struct {
	group group
	name  string
	arg   string // what the value is called in the usage; empty for a switch
	def   string // as the user would write it
	help  string
	value value
}

// A value ties an option's text to the field it fills.
type value struct {
	set    func(d *draft, word string) error
	show   func(d *draft) string // empty if the field is zero
	list   bool                  // set adds an item; words are split at commas
	whole  bool                  // words of the list are not split
	secret bool
}

// draft is a Config in the making: with what the user said that a Config holds
// in another form.
type draft struct {
	Config

	hosts                   []hostForm
	port                    uint16
	plain, anonymous        bool
	configFile              string
	passFile, proxyPassFile string
	passHash                Secret
	passHashFile            string
	keyPasswordFile         string
	accountFile             string
	firstUse                bool
	knownServers            string

	proxy            ProxyURL
	proxyURLPass     Secret
	proxyURLPassFile string
}

// one fills a field with a single value.
func one[T any](parse func(string) (T, error), at func(*draft) *T) value {
	return value{
		set: func(d *draft, word string) error {
			v, err := parse(word)
			if err == nil {
				*at(d) = v
			}
			return err
		},
		show: func(d *draft) string {
			if v := reflect.ValueOf(at(d)).Elem(); v.IsZero() {
				return ""
			}
			return fmt.Sprint(*at(d))
		},
	}
}

// many fills a field with a list.
func many[T any](parse func(string) (T, error), at func(*draft) *[]T) value {
	return value{
		list: true,
		set: func(d *draft, word string) error {
			v, err := parse(word)
			if err == nil {
				*at(d) = append(*at(d), v)
			}
			return err
		},
		show: func(d *draft) string {
			var items []string
			for _, v := range *at(d) {
				items = append(items, fmt.Sprint(v))
			}
			return strings.Join(items, ",")
		},
	}
}

// hidden fills a field with a secret.
func hidden(at func(*draft) *Secret) value {
	v := one(ParseSecret, at)
	v.secret = true
	return v
}

// headers fills a field with lines that may hold commas and secrets.
func headers(at func(*draft) *[]Header) value {
	v := many(parseHeader, at)
	v.whole, v.secret = true, true
	v.show = func(d *draft) string {
		if len(*at(d)) == 0 {
			return ""
		}
		return redacted
	}
	return v
}

// order fills a switch that is written as a word.
func order(fastest func(*draft) *bool) value {
	v := one(parseOrder, fastest)
	v.show = func(d *draft) string {
		if *fastest(d) {
			return "fastest"
		}
		return ""
	}
	return v
}

// envName is the variable that stands for a flag.
func envName(flag string) string {
	return "SOFTETHER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// options is the table.
var options = []option{
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
			"this machine, which takes root or CAP_NET_ADMIN; auto: netstack if a proxy is asked for, else tap",
		one(parseMode, func(d *draft) *Mode { return &d.Mode })},
	{connection, "config", "FILE", "",
		"read settings from FILE, a NAME VALUE per line, flags' names without the dash",
		one(parsePath, func(d *draft) *string { return &d.configFile })},
	{connection, "account", "FILE.vpn", "",
		"take server, user, secret and proxy from a file that the official client exported",
		one(parsePath, func(d *draft) *string { return &d.accountFile })},

	{tcpLinks, "connections", "N", "1",
		"have up to this many at once, 32 at most, and spread flows over them; worth it where one is slowed down by loss",
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

	{authentication, "user", "NAME", "",
		"user name. Required",
		one(parseName, func(d *draft) *string { return &d.Auth.User })},
	{authentication, "pass", "PASSWORD", "",
		"password; everyone on this machine can see it in the process list, so better one of: -pass-file, " +
			"the variable, the systemd credential softether-pass, or the prompt on a terminal",
		hidden(func(d *draft) *Secret { return &d.Auth.Password })},
	{authentication, "pass-file", "FILE", "",
		"read the password from FILE; a newline at its end is not part of it",
		one(parsePath, func(d *draft) *string { return &d.passFile })},
	{authentication, "pass-hash", "HASH", "",
		"the password's hash, as softether-go hash prints it, in place of the password; as secret, so better " +
			"from the file, the variable or the systemd credential softether-pass-hash",
		hidden(func(d *draft) *Secret { return &d.passHash })},
	{authentication, "pass-hash-file", "FILE", "",
		"read that hash from FILE",
		one(parsePath, func(d *draft) *string { return &d.passHashFile })},
	{authentication, "plain-password", "", "false",
		"send the password as it is, inside TLS: for RADIUS and other external users",
		one(parseBool, func(d *draft) *bool { return &d.plain })},
	{authentication, "anonymous", "", "false",
		"log in without a password; -user still names the account",
		one(parseBool, func(d *draft) *bool { return &d.anonymous })},
	{authentication, "cert", "FILE", "",
		"log in by this certificate (PEM or DER), made for an RSA key of 1024, 1536, 2048, 3072 or 4096 bits",
		one(parsePath, func(d *draft) *string { return &d.Auth.CertFile })},
	{authentication, "key", "FILE", "",
		"its private key (PEM), encrypted or not",
		one(parsePath, func(d *draft) *string { return &d.Auth.KeyFile })},
	{authentication, "p12", "FILE", "",
		"log in by the certificate and key in this PKCS#12 file (.p12, .pfx)",
		one(parsePath, func(d *draft) *string { return &d.Auth.PKCS12File })},
	{authentication, "key-password", "PASSWORD", "",
		"passphrase of -key or -p12; better from the file, the variable, the systemd credential " +
			"softether-key-password, or the prompt on a terminal",
		hidden(func(d *draft) *Secret { return &d.Auth.KeyPassword })},
	{authentication, "key-password-file", "FILE", "",
		"read that passphrase from FILE",
		one(parsePath, func(d *draft) *string { return &d.keyPasswordFile })},

	{serverTrust, "ca", "FILE", "",
		"trust the certificate authorities in FILE (PEM) in place of the system's",
		one(parsePath, func(d *draft) *string { return &d.Trust.CAFile })},
	{serverTrust, "pin", "sha256:HASH", "",
		"trust exactly the server with this SHA-256 of its certificate or public key, in hex or base64",
		many(parsePin, func(d *draft) *[]Pin { return &d.Trust.Pins })},
	{serverTrust, "trust-on-first-use", "", "false",
		"trust the key that the server has at first, and no other from then on, as ssh does",
		one(parseBool, func(d *draft) *bool { return &d.firstUse })},
	{serverTrust, "known-servers", "FILE", "",
		"remember those keys here, not in softether-go/known_servers in the user's directory of settings",
		one(parsePath, func(d *draft) *string { return &d.knownServers })},
	{serverTrust, "insecure", "", "false",
		"accept any server certificate, also that of someone in between",
		one(parseBool, func(d *draft) *bool { return &d.Trust.Insecure })},

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

	{addressing, "mac", "ADDRESS", "random",
		"MAC address; give one to get the same lease every time",
		one(parseMAC, func(d *draft) *net.HardwareAddr { return &d.Address.MAC })},
	{addressing, "hostname", "NAME", "",
		"name to tell the DHCP server",
		one(parseDomain, func(d *draft) *string { return &d.Address.Hostname })},
	{addressing, "client-id", "ID", "",
		"DHCP client identifier: text, or hex: and its bytes with the type first",
		one(parseClientID, func(d *draft) *ClientID { return &d.Address.ClientID })},
	{addressing, "dns", "ADDRESS", "",
		"name server inside the VPN, in place of the lease's",
		many(parseHostAddr, func(d *draft) *[]netip.Addr { return &d.Address.DNS })},
	{addressing, "search", "DOMAIN", "",
		"domain that completes short names, in place of the lease's",
		many(parseDomain, func(d *draft) *[]string { return &d.Address.Search })},
	{addressing, "no-dhcp", "", "false",
		"no built-in DHCP; needs -address",
		one(parseBool, func(d *draft) *bool { return &d.Address.NoDHCP })},
	{addressing, "address", "ADDRESS/BITS", "",
		"static address, such as 10.0.0.5/24; needs -no-dhcp",
		one(parsePrefix, func(d *draft) *netip.Prefix { return &d.Address.Address })},
	{addressing, "gateway", "ADDRESS", "",
		"router for everything beyond -address; needs -no-dhcp",
		one(parseHostAddr, func(d *draft) *netip.Addr { return &d.Address.Gateway })},

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

	{runMode, "publish", "[ADDR:]PORT:PORT", "",
		"lead a port of this machine to one inside, such as 8080:80: of 127.0.0.1 unless another address stands " +
			"before it, TCP unless udp/ does",
		many(parsePublish, func(d *draft) *[]Publish { return &d.Run.Publish })},
	{runMode, "share", "NAME", "",
		"one session for all commands that are run with this name, each with an address of its own; the first " +
			"connects, the last ends it",
		one(parseShare, func(d *draft) *string { return &d.Run.Share })},
	{runMode, "attach", "NAME", "",
		"use the session of a command that was run with -share NAME; needs no server and no login",
		one(parseShare, func(d *draft) *string { return &d.Run.Attach })},
	{runMode, "pid", "N", "0",
		"in place of running a command, give a network to that of process N, such as a container's; it takes " +
			"being root there; 0 is none",
		one(parsePID, func(d *draft) *int { return &d.Run.PID })},
	{runMode, "netns", "PATH", "",
		"the same for a network namespace by its path, such as /run/netns/NAME; takes root",
		one(parsePath, func(d *draft) *string { return &d.Run.NetNS })},
	{runMode, "proxy-env", "", "false",
		"where the system forbids networks of its own, tell the command of proxies by ALL_PROXY and its like instead: " +
			"what it does not send by those goes beside the VPN",
		one(parseBool, func(d *draft) *bool { return &d.Run.ProxyEnv })},
	{runMode, "capture", "", "false",
		"let the command capture the packets of its network, as tcpdump does",
		one(parseBool, func(d *draft) *bool { return &d.Run.Capture })},
	{runMode, "no-ipv6", "", "false",
		"no IPv6 for the command, though routers of the VPN offer it",
		one(parseBool, func(d *draft) *bool { return &d.Run.NoIPv6 })},

	{reconnecting, "reconnect-delay", "TIME", "5s",
		"base delay between attempts; it grows from there, with jitter",
		one(parseDelay, func(d *draft) *time.Duration { return &d.Retry.Delay })},
	{reconnecting, "reconnect-max-delay", "TIME", "1m0s",
		"what the delay may grow to",
		one(parseDelay, func(d *draft) *time.Duration { return &d.Retry.MaxDelay })},

	{logging, "log-level", "LEVEL", "info",
		"debug, info, warn or error",
		one(parseLevel, func(d *draft) *slog.Level { return &d.Log.Level })},
	{logging, "log-json", "", "false",
		"a JSON object per line instead of text",
		one(parseBool, func(d *draft) *bool { return &d.Log.JSON })},
	{logging, "stats", "TIME", "",
		"log the counters every so often, such as 10s; SIGUSR1 has all of them written as a table at any time",
		one(parseDelay, func(d *draft) *time.Duration { return &d.Log.Statistics })},
}

func findOption(name string) (option, bool) {
	for _, o := range options {
		if o.name == name {
			return o, true
		}
	}
	return option{}, false
}

// hint says what an unknown name may have meant. It does not repeat the name.
func hint(name string) string {
	if near := nearest(name); near != "" {
		return "did you mean -" + near + "?"
	}
	return "-h lists all"
}

// nearest returns the known name closest to an unknown one, or none if that would
// be a guess: when more than a third and one letter are wrong, or more than four,
// and it is no beginning of a name either.
func nearest(name string) string {
	best, bestDistance := "", min(len(name)/3+1, 4)+1
	for _, o := range options {
		d := distance(name, o.name)
		if d < bestDistance {
			best, bestDistance = o.name, d
		}
	}
	if best != "" || len(name) < 3 {
		return best
	}
	for _, o := range options {
		if strings.HasPrefix(o.name, name) {
			return o.name
		}
	}
	return ""
}

// distance counts the insertions, deletions and replacements from a to b
// (Levenshtein). Only a's first bytes count: no name is longer.
func distance(a, b string) int {
	const longest = 64
	a = a[:min(len(a), longest)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
