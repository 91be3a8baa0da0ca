package config

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// hashHex is the SHA-256 of nothing, in the form of openssl without colons.
const hashHex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func hash(t testing.TB) Pin {
	t.Helper()
	p, err := parsePin("sha256:" + hashHex)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPinIsTakenInEveryFormThatToolsPrint(t *testing.T) {
	want := hash(t)
	var pairs []string
	for i := 0; i < len(hashHex); i += 2 {
		pairs = append(pairs, hashHex[i:i+2])
	}
	colons := strings.Join(pairs, ":")
	for name, text := range map[string]string{
		"hex":                         "sha256:" + hashHex,
		"upper-case hex":              "SHA256:" + strings.ToUpper(hashHex),
		"openssl, hex with colons":    "sha256:" + strings.ToUpper(colons),
		"base64":                      "sha256:" + base64.StdEncoding.EncodeToString(want[:]),
		"ssh, base64 without padding": "SHA256:" + base64.RawStdEncoding.EncodeToString(want[:]),
		"URL base64":                  "sha256:" + base64.URLEncoding.EncodeToString(want[:]),
		"URL base64 without padding":  "sha256:" + base64.RawURLEncoding.EncodeToString(want[:]),
		"what String returns":         want.String(),
	} {
		if got, err := parsePin(text); err != nil || got != want {
			t.Errorf("%s: parsePin(%q): got %v, %v, want %v", name, text, got, err, want)
		}
	}
}

func TestAPinThatIsNone(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "does not begin with sha256"},
		{"no kind", hashHex, "does not begin with sha256"},
		{"another hash", "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", "does not begin with sha256"},
		{"kind alone", "sha256:", "is not a SHA-256"},
		{"a digit short", "sha256:" + hashHex[1:], "is not a SHA-256"},
		{"a byte more", "sha256:" + hashHex + "00", "is not a SHA-256"},
		{"no hex digit", "sha256:g" + hashHex[1:], "is not a SHA-256"},
		{"a colon amid a byte", "sha256:e:3b" + hashHex[3:], "is not a SHA-256"},
		{"colon at the end", "sha256:" + hashHex + ":", "is not a SHA-256"},
		{"base64 of 31 bytes", "sha256:" + base64.StdEncoding.EncodeToString(make([]byte, 31)), "is not a SHA-256"},
		{"base64 with a line break", "sha256:" + b64[:20] + "\n" + b64[20:], "is not a SHA-256"},
		{"base64 with loose bits at the end", "sha256:" + b64[:42] + "B=", "is not a SHA-256"},
		{"base64 with too much padding", "sha256:" + b64 + "=", "is not a SHA-256"},
	} {
		if got, err := parsePin(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: parsePin(%q): got %v, %v, want an error with %q", tt.name, tt.text, got, err, tt.want)
		}
	}
}

func FuzzParsePin(f *testing.F) {
	f.Add("sha256:" + hashHex)
	f.Add("SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
	f.Add("sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU")
	f.Add("sha256:E3:B0:C4")
	f.Fuzz(func(t *testing.T, text string) {
		pin, err := parsePin(text)
		if err != nil {
			oneLine(t, err)
			return
		}
		if again, err := parsePin(pin.String()); err != nil || again != pin {
			t.Errorf("%q is %v, which is read as %v, %v", text, pin, again, err)
		}
	})
}

func oneLine(t *testing.T, err error) {
	t.Helper()
	if strings.ContainsAny(err.Error(), "\r\n") || len(err.Error()) > 600 {
		t.Errorf("an error is one line of bounded length: %q", err)
	}
}

func TestHostForms(t *testing.T) {
	for _, tt := range []struct {
		name, text, host string
		port             uint16
	}{
		{"a name", "vpn.example.com", "vpn.example.com", 0},
		{"a name with its root", "vpn.example.com.", "vpn.example.com.", 0},
		{"a short name", "vpn", "vpn", 0},
		{"an underscore, as some networks have", "my_vpn.corp", "my_vpn.corp", 0},
		{"an internationalised name", "xn--bcher-kva.example", "xn--bcher-kva.example", 0},
		{"a name and a port", "vpn.example.com:992", "vpn.example.com", 992},
		{"IPv4", "192.0.2.1", "192.0.2.1", 0},
		{"IPv4 and a port", "192.0.2.1:5555", "192.0.2.1", 5555},
		{"IPv6", "2001:db8::1", "2001:db8::1", 0},
		{"IPv6 that looks as if it had a port", "2001:db8::1:443", "2001:db8::1:443", 0},
		{"IPv6 in brackets", "[2001:db8::1]", "2001:db8::1", 0},
		{"IPv6 and a port", "[2001:db8::1]:443", "2001:db8::1", 443},
		{"IPv6 with a zone", "fe80::1%eth0.2", "fe80::1%eth0.2", 0},
		{"IPv4 in IPv6", "::ffff:192.0.2.1", "192.0.2.1", 0},
		{"SoftEther's hint for plain TCP", "vpn.example.com/tcp", "vpn.example.com", 0},
		{"the hint in another word and case", "vpn.example.com/Disabled", "vpn.example.com", 0},
		{"the port behind the hint, as vpncmd has it", "vpn.example.com/tcp:992", "vpn.example.com", 992},
		{"the port before the hint", "vpn.example.com:992/none", "vpn.example.com", 992},
		{"IPv6 with everything", "[2001:db8::1]:992/no", "2001:db8::1", 992},
	} {
		got, err := parseHost(tt.text)
		if want := (hostForm{tt.host, tt.port}); err != nil || got != want {
			t.Errorf("%s: parseHost(%q): got %+v, %v, want %+v", tt.name, tt.text, got, err, want)
		}
	}
}

func TestHostsThatAreNone(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "1 to 253 characters"},
		{"only a dot", ".", "1 to 253 characters"},
		{"a URL", "https://vpn.example.com:443/x", `is a URL: give only the name, "vpn.example.com:443"`},
		{"a login", "ann:pw@vpn.example.com", "holds an @"},
		{"a NAT-traversal hint", "vpn.example.com/relay", "asks for NAT traversal"},
		{"an empty hint", "vpn.example.com/", "asks for NAT traversal"},
		{"two ports", "vpn.example.com:443/tcp:992", "names two ports"},
		{"port 0", "vpn.example.com:0", `"0" is not a port`},
		{"no port after the colon", "vpn.example.com:", `"" is not a port`},
		{"a port too large", "vpn.example.com:65536", `"65536" is not a port`},
		{"a space", "vpn example", "letters a to z"},
		{"another script", "bücher.example", "xn-- form"},
		{"a part too long", strings.Repeat("a", 64) + ".example", "1 to 63 characters between dots"},
		{"two dots", "vpn..example", "1 to 63 characters between dots"},
		{"a dash in front", "-vpn.example", "begins or ends with a dash"},
		{"too long", strings.Repeat("a.", 127) + "aa", "1 to 253 characters"},
		{"an IPv4 address gone wrong", "192.0.2.256", "neither a name nor an IPv4 address"},
		{"an IPv4 address in part", "192.0.2", "neither a name nor an IPv4 address"},
		{"an IPv6 address gone wrong", "2001:db8:::1", "more than one colon"},
		{"brackets about IPv4", "[192.0.2.1]", "brackets are for IPv6"},
		{"a bracket not closed", "[2001:db8::1", "brackets are for IPv6"},
		{"something behind the bracket", "[2001:db8::1]443", "brackets are for IPv6"},
		{"all interfaces", "0.0.0.0", "no single machine"},
		{"multicast", "ff02::1", "no single machine"},
		{"a zone that is no name", "fe80::1%a b", "an interface's name"},
	} {
		if got, err := parseHost(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: parseHost(%q): got %+v, %v, want an error with %q", tt.name, tt.text, got, err, tt.want)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"vpn.example.com:992/tcp", "[fe80::1%eth0]:443", "2001:db8::1", "vpn/x", "1.2.3", "a://b", ":1", "[]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, err := parseHost(text)
		if err != nil {
			oneLine(t, err)
			return
		}
		if again, err := parseHost(host.name); err != nil || again != (hostForm{name: host.name}) {
			t.Errorf("%q is %+v, which is read as %+v, %v", text, host, again, err)
		}
	})
}

func TestListenAddresses(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		loopback   bool
	}{
		{"127.0.0.1:1080", "127.0.0.1:1080", true},
		{"127.8.9.10:01080", "127.8.9.10:1080", true},
		{"[::1]:1080", "[::1]:1080", true},
		{"[::ffff:127.0.0.1]:1080", "127.0.0.1:1080", true},
		{"LocalHost:0", "localhost:0", true},
		{":1080", ":1080", false},
		{"0.0.0.0:1080", "0.0.0.0:1080", false},
		{"[::]:1080", "[::]:1080", false},
		{"192.0.2.1:1080", "192.0.2.1:1080", false},
		{"[fe80::1%eth0]:1080", "[fe80::1%eth0]:1080", false},
		{"proxy.corp:1080", "proxy.corp:1080", false},
		{"localhost.evil.example:1080", "localhost.evil.example:1080", false},
	} {
		got, err := parseListen(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("parseListen(%q): got %q, %v, want %q", tt.text, got, err, tt.want)
		}
		if onLoopback(got) != tt.loopback {
			t.Errorf("onLoopback(%q): got %v, want %v", got, !tt.loopback, tt.loopback)
		}
	}
	for _, text := range []string{"", "1080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:socks", "127.0.0.1:65536", "127.0.0.1:-1",
		"::1:1080", "a b:1080", "224.0.0.1:1080", "socks5://127.0.0.1:1080", "*:1080"} {
		if got, err := parseListen(text); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1080") {
			t.Errorf("parseListen(%q): got %q, %v, want an error with an example", text, got, err)
		}
	}
}

func TestAPortAloneIsOfLoopback(t *testing.T) {
	for _, flag := range []string{"listen", "socks5", "http", "health", "dns-listen", "L"} {
		word := map[string]string{"L": "1099:web:80"}[flag]
		c, err := loadWords("-host", "h", "-user", "u", "-pass", "p", "-listen", "unix:/s", "-"+flag, cmp.Or(word, "1099"))
		got := slices.Concat(c.Proxy.listeners(), c.Service.Health)
		for _, d := range c.Forwards.DNS {
			got = append(got, d.String())
		}
		for _, l := range c.Forwards.Local {
			got = append(got, l.Listen)
		}
		if err != nil || !slices.Contains(got, "127.0.0.1:1099") {
			t.Errorf("-%s 1099: got %q, %v", flag, got, err)
		}
	}
}

func TestListenersOverlap(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:1080", "127.0.0.1:1080", true},
		{"127.0.0.1:1080", "127.0.0.1:1081", false},
		{"127.0.0.1:1080", "[::1]:1080", false},
		{"127.0.0.1:1080", ":1080", true},
		{"0.0.0.0:1080", "127.0.0.1:1080", true},
		{"0.0.0.0:1080", "[::1]:1080", false},
		{"0.0.0.0:1080", "localhost:1080", true},
		{"[::]:1080", "127.0.0.1:1080", true},
		{"[::]:1080", "0.0.0.0:1080", true},
		{"127.0.0.1:0", "127.0.0.1:0", false},
	} {
		if got := overlap(tt.a, tt.b); got != tt.want || overlap(tt.b, tt.a) != got {
			t.Errorf("overlap(%q, %q): got %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

// attempt runs a parser and shows what came of it.
func attempt[T any](parse func(string) (T, error), text string) string {
	v, err := parse(text)
	if err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprint(v)
}

func TestSingleValues(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, tt := range []struct{ name, got, want string }{
		{"a port", attempt(parsePort, "992"), "992"},
		{"a port with a sign", attempt(parsePort, "+992"), `error: "+992" is not a port: give 1 to 65535`},
		{"a port from a container's link", attempt(parsePort, "tcp://10.0.0.1:443"), `error: "tcp://10.0.0.1:443" is not a port: give 1 to 65535`},

		{"a user name of a domain", attempt(parseName, `CORP\ann`), `CORP\ann`},
		{"a name of 255 bytes", attempt(parseName, long[1:]), long[1:]},
		{"a name too long", attempt(parseName, long), `error: "` + long[:60] + `"… is longer than the 255 bytes a server takes`},
		{"a name with a NUL", attempt(parseName, "a\x00"), `error: "a\x00" holds a control character`},
		{"a name that is not UTF-8", attempt(parseName, "a\xff"), `error: "a\xff" is not UTF-8`},
		{"a proxy user with a colon", attempt(parseProxyUser, "a:b"), `error: "a:b" holds a colon, which HTTP proxy logins cannot carry`},
		{"a proxy user", attempt(parseProxyUser, "ann"), "ann"},

		{"an address", attempt(parsePrefix, "10.0.0.5/24"), "10.0.0.5/24"},
		{"an address of its own network", attempt(parsePrefix, "10.0.0.5/32"), "10.0.0.5/32"},
		{"the lower end of a point-to-point link", attempt(parsePrefix, "10.0.0.4/31"), "10.0.0.4/31"},
		{"an address without its prefix", attempt(parsePrefix, "10.0.0.5"), `error: "10.0.0.5" lacks its prefix length: give 10.0.0.5/24, or what your network has`},
		{"an address with a mask", attempt(parsePrefix, "10.0.0.5/255.255.255.0"), `error: "10.0.0.5/255.255.255.0" is not an address with its prefix length: give one like 10.0.0.5/24`},
		{"a network's address", attempt(parsePrefix, "10.0.0.0/24"), `error: "10.0.0.0/24" is not a host's address: give one like 10.0.0.5/24`},
		{"a broadcast address", attempt(parsePrefix, "10.0.15.255/20"), `error: "10.0.15.255/20" is not a host's address: give one like 10.0.0.5/24`},
		{"a multicast address", attempt(parsePrefix, "224.0.0.5/24"), `error: "224.0.0.5/24" is not a host's address: give one like 10.0.0.5/24`},
		{"a prefix of everything", attempt(parsePrefix, "10.0.0.5/0"), `error: "10.0.0.5/0" is not a host's address: give one like 10.0.0.5/24`},
		{"an IPv6 prefix", attempt(parsePrefix, "2001:db8::1/64"), `error: "2001:db8::1/64" is IPv6, for which there is -address6: give an IPv4 address`},

		{"a name server", attempt(parseHostAddr, "10.0.0.1"), "10.0.0.1"},
		{"the host's stub resolver", attempt(parseHostAddr, "127.0.0.53"), `error: "127.0.0.53" is this machine's own: give an address inside the VPN`},
		{"a name server with a port", attempt(parseHostAddr, "10.0.0.1:53"), `error: "10.0.0.1:53" is not an IP address`},
		{"an IPv6 router where there is to be one of IPv4", attempt(parseHostAddr, "2001:db8::1"), `error: "2001:db8::1" is not an IPv4 address of a host: give one like 10.0.0.1`},
		{"an IPv6 name server", attempt(parseServer, "2001:db8::1"), "2001:db8::1"},
		{"an IPv6 name server on the link", attempt(parseServer, "fe80::1"), "fe80::1"},
		{"an IPv4 name server", attempt(parseServer, "10.0.0.1"), "10.0.0.1"},
		{"an IPv6 name server that is a group", attempt(parseServer, "ff02::fb"), `error: "ff02::fb" is not an IPv4 address of a host: give one like 10.0.0.1`},
		{"an IPv6 address", attempt(parsePrefix6, "2001:db8::5/64"), "2001:db8::5/64"},
		{"an IPv6 address without its prefix", attempt(parsePrefix6, "2001:db8::5"), `error: "2001:db8::5" lacks its prefix length: give 2001:db8::5/64, or what your network has`},
		{"an IPv6 address of the link", attempt(parsePrefix6, "fe80::5/64"), `error: "fe80::5/64" is not an IPv6 address with its prefix length: give one like 2001:db8::5/64`},
		{"an IPv4 address for IPv6", attempt(parsePrefix6, "10.0.0.5/24"), `error: "10.0.0.5/24" is not an IPv6 address with its prefix length: give one like 2001:db8::5/64`},
		{"an IPv6 router", attempt(parseHostAddr6, "fe80::1"), "fe80::1"},
		{"an IPv6 router with a zone", attempt(parseHostAddr6, "fe80::1%eth0"), `error: "fe80::1%eth0" is not an IPv6 address of a host: give one like fe80::1, without a zone`},
		{"everyone", attempt(parseHostAddr, "255.255.255.255"), `error: "255.255.255.255" is not a host's address`},
		{"nobody", attempt(parseHostAddr, "0.0.0.0"), `error: "0.0.0.0" is not a host's address`},

		{"a search domain", attempt(parseDomain, "corp.example."), "corp.example"},
		{"a domain with a space", attempt(parseDomain, "corp example"), `error: "corp example" is not a domain name: letters a to z, digits, dash, underscore and dots only (write others in their xn-- form)`},

		{"a client id", attempt(parseClientID, "laptop 7"), "laptop 7"},
		{"a client id in hex", attempt(parseClientID, "hex:01:5e:00:53:00:00:01"), "hex:015e0053000001"},
		{"a client id that is text in hex", attempt(parseClientID, "hex:006162"), "ab"},
		{"a client id whose text looks like hex", attempt(parseClientID, "hex:006865783a"), "hex:006865783a"},
		{"an empty client id", attempt(parseClientID, ""), `error: "" is not an identifier: give 1 to 254 bytes of text, or hex: and its bytes`},
		{"a client id too short", attempt(parseClientID, "hex:01"), `error: "hex:01" is not an identifier: after hex: give 2 to 255 bytes, the type first`},
		{"a client id that is no hex", attempt(parseClientID, "hex:xyz1"), `error: "hex:xyz1" is not an identifier: after hex: give 2 to 255 bytes, the type first`},

		{"a MAC", attempt(parseMAC, "5E-00-53-00-00-01"), "5e:00:53:00:00:01"},
		{"a random MAC", attempt(parseMAC, "random"), ""},
		{"a MAC of eight bytes", attempt(parseMAC, "5e:00:53:00:00:01:02:03"), `error: "5e:00:53:00:00:01:02:03" is not a MAC address: give one like 5e:00:53:00:00:01, or random`},
		{"a group's MAC", attempt(parseMAC, "01:00:5e:00:00:01"), `error: "01:00:5e:00:00:01" is a group's address: the first byte of one machine's is even`},
		{"the zero MAC", attempt(parseMAC, "00:00:00:00:00:00"), `error: "00:00:00:00:00:00" is no machine's address: give another, or random`},

		{"an interface", attempt(parseInterface, "vpn-office.0_15"), "vpn-office.0_15"},
		{"an interface of the kernel's choice", attempt(parseInterface, ""), ""},
		{"a long interface", attempt(parseInterface, "vpn-of-office-16"), `error: "vpn-of-office-16" has more than 15 characters: give a name like vpn0 or br0`},
		{"an interface that is a directory", attempt(parseInterface, ".."), `error: ".." means something else to the kernel: give a name like vpn0 or br0`},
		{"an interface that is all of them", attempt(parseInterface, "all"), `error: "all" means something else to the kernel: give a name like vpn0 or br0`},
		{"a pattern of interfaces", attempt(parseInterface, "tap%d"), `error: "tap%d" has other characters than ASCII ones without space, slash, colon and percent sign: give a name like vpn0 or br0`},
		{"an interface with a space", attempt(parseInterface, "my vpn"), `error: "my vpn" has other characters than ASCII ones without space, slash, colon and percent sign: give a name like vpn0 or br0`},
		{"an interface with a letter of others", attempt(parseInterface, "vpnä"), `error: "vpnä" has other characters than ASCII ones without space, slash, colon and percent sign: give a name like vpn0 or br0`},

		{"a table", attempt(parseTable, "200"), "200"},
		{"no table", attempt(parseTable, "0"), "0"},
		{"the last table before the kernel's", attempt(parseTable, "252"), "252"},
		{"the kernel's first table", attempt(parseTable, "253"), "error: 253 is a table of the kernel's own: give another, such as 200"},
		{"the kernel's last table", attempt(parseTable, "255"), "error: 255 is a table of the kernel's own: give another, such as 200"},
		{"the first table after the kernel's", attempt(parseTable, "256"), "256"},
		{"the table before ours", attempt(parseTable, "1577058303"), "1577058303"},
		{"a table of ours", attempt(parseTable, "1577058304"), "error: 1577058304 is one of the tables we use for ourselves: give another, such as 200"},
		{"our last table", attempt(parseTable, "1593835519"), "error: 1593835519 is one of the tables we use for ourselves: give another, such as 200"},
		{"the highest table", attempt(parseTable, "2147483647"), "2147483647"},
		{"a table too high", attempt(parseTable, "2147483648"), `error: "2147483648" is not a routing table's number: give one like 200, or 0 for none`},
		{"a negative table", attempt(parseTable, "-1"), `error: "-1" is not a routing table's number: give one like 200, or 0 for none`},
		{"a table's name", attempt(parseTable, "main"), `error: "main" is not a routing table's number: give one like 200, or 0 for none`},

		{"a mode", attempt(parseMode, "tap"), "tap"},
		{"no mode", attempt(parseMode, "tun"), `error: "tun" is not a mode: give auto, netstack or tap`},
		{"a delay", attempt(parseDelay, "1m30s"), (90 * time.Second).String()},
		{"a delay without its unit", attempt(parseDelay, "5"), `error: "5" is not a positive duration: give one like 5s or 1m30s`},
		{"a negative delay", attempt(parseDelay, "-5s"), `error: "-5s" is not a positive duration: give one like 5s or 1m30s`},
		{"a level", attempt(parseLevel, "warn"), "WARN"},
		{"a level between others", attempt(parseLevel, "info+2"), `error: "info+2" is not a level: give debug, info, warn or error`},
		{"a switch", attempt(parseBool, "1"), "true"},
		{"a path with a NUL", attempt(parsePath, "a\x00b"), "error: holds a NUL byte; give a file's path"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, tt.got, tt.want)
		}
	}
}
