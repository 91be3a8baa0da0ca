package config

import (
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// login is what is needed at least without a proxy, so in TAP mode.
var login = []string{"-host", "h", "-user", "u", "-pass", "p"}

func loginWith(args ...string) []string { return append(append([]string{}, login...), args...) }

func TestModeFollowsFromWhatIsAskedFor(t *testing.T) {
	for _, tt := range []struct {
		args string
		want Mode
	}{
		{"-http :0 -proxy-open", ModeNetstack},
		{"-socks5 localhost:1", ModeNetstack},
		{"-listen localhost:1", ModeNetstack},
		{"-socks5 localhost:1 -mode auto", ModeNetstack},
		{"-mode netstack -http localhost:1", ModeNetstack},
		{"", ModeTAP},
		{"-tap vpn0", ModeTAP},
		{"-mode auto -accept-dns", ModeTAP},
		{"-mode tap", ModeTAP},
		{"-no-dhcp -address 10.0.0.5/24 -mac 5e:00:53:00:00:01 -dns 10.0.0.1 -accept-dns", ModeTAP},
	} {
		c := mustLoad(t, setup{}, loginWith(strings.Fields(tt.args)...)...)
		if c.Mode != tt.want {
			t.Errorf("%q: got %v, want %v", tt.args, c.Mode, tt.want)
		}
	}
}

const everythingTAP = `
host vpn.example.com:992
user ann
plain-password
insecure
mac 5e:00:53:00:00:01
mode tap
tap vpn0
accept-default-gateway
accept-static-routes
accept-dns
policy-route-table 200
connmark
block-ipv6
ipv6-autoconf
`

func wantEverythingTAP() Config {
	return Config{
		Server:  Server{Host: "vpn.example.com", Port: 992, Hub: "DEFAULT"},
		Auth:    Auth{Method: PlainPassword, User: "ann", Password: NewSecret("pw")},
		Trust:   Trust{Insecure: true},
		Address: Addressing{MAC: net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 1}},
		TAP: TAP{
			Name: "vpn0", AcceptDefaultGateway: true, AcceptStaticRoutes: true, AcceptDNS: true,
			PolicyTable: 200, ConnMark: true, BlockIPv6: true, SLAAC: true,
		},
		Links:   Links{Count: 1},
		Retry:   Retry{Delay: 5 * time.Second, MaxDelay: time.Minute},
		Service: Service{Drain: 2 * time.Second},
		Mode:    ModeTAP,
		Notes:   []string{"-insecure: any server is accepted, also one in between that reads everything; -pin is as easy and safe"},
	}
}

func TestEverySettingOfTAPMode(t *testing.T) {
	pass := map[string]string{"SOFTETHER_PASS": "pw"}
	fromFile := mustLoad(t, setup{file: everythingTAP, env: pass})
	env := maps.Clone(pass)
	var flags []string
	for _, line := range strings.Split(everythingTAP, "\n") {
		name, value, err := parseLine(line)
		if err == nil && name != "" {
			env[envName(name)] = value
			flags = append(flags, "-"+name+"="+value)
		}
	}
	for _, tt := range []struct {
		name string
		got  Config
	}{
		{"from a file", fromFile},
		{"from its lines", mustLoad(t, setup{file: fromFile.Lines(), env: pass})},
		{"from the environment", mustLoad(t, setup{env: env})},
		{"from flags", mustLoad(t, setup{env: pass}, flags...)},
	} {
		if diff := cmp.Diff(tt.got, wantEverythingTAP(), compareConfig); diff != "" {
			t.Errorf("%s: -got +want:\n%s", tt.name, diff)
		}
	}
}

// Each switch fills its own field.
func TestEachSettingOfTAPModeAlone(t *testing.T) {
	for _, tt := range []struct {
		args string
		want TAP
	}{
		{"", TAP{}},
		{"-tap vpn0", TAP{Name: "vpn0"}},
		{"-tap=", TAP{}},
		{"-accept-default-gateway", TAP{AcceptDefaultGateway: true}},
		{"-accept-static-routes", TAP{AcceptStaticRoutes: true}},
		{"-accept-dns", TAP{AcceptDNS: true}},
		{"-policy-route-table 200", TAP{PolicyTable: 200}},
		{"-policy-route-table 0", TAP{}},
		{"-policy-route-table 200 -connmark", TAP{PolicyTable: 200, ConnMark: true}},
		{"-accept-default-gateway -block-ipv6", TAP{AcceptDefaultGateway: true, BlockIPv6: true}},
		{"-ipv6-autoconf", TAP{SLAAC: true}},
		{"-tap vpn0 -monitor", TAP{Name: "vpn0", Monitor: true}},
		{"-tap vpn0 -bridge br0 -mac 5e:00:53:00:00:01", TAP{Name: "vpn0", Bridge: "br0"}},
	} {
		got := mustLoad(t, setup{}, loginWith(strings.Fields(tt.args)...)...).TAP
		if diff := cmp.Diff(got, tt.want); diff != "" {
			t.Errorf("%q: -got +want:\n%s", tt.args, diff)
		}
	}
}

func TestSettingsThatDoNotFitTheMode(t *testing.T) {
	const (
		noProxy = ": is for proxies, but none is asked for: add -listen, or drop it"
		saysTAP = ": is of netstack mode, but -mode says tap: drop one of the two"
		kernels = ": is not for a network interface, whose IPv6 the kernel configures as the VPN's router announces it, " +
			"if -ipv6-autoconf is given: drop it"
		noProxies = ": is for what proxies are asked to reach; with a network interface routes decide: " +
			"drop it, and take of the VPN's what you want by -accept-static-routes"
		bridged  = ": is about an address of this machine, and with -bridge the VPN gives it none: drop one of the two"
		hasSOCKS = ": is of TAP mode, but -socks5 is of netstack mode: drop one of the two"
	)
	for _, tt := range []struct {
		name, args, want string
	}{
		{"one of TAP beside a proxy", "-socks5 localhost:1 -tap vpn0", "-tap" + hasSOCKS},
		{"one of TAP beside an HTTP proxy", "-http localhost:1 -accept-dns",
			"-accept-dns: is of TAP mode, but -http is of netstack mode: drop one of the two"},
		{"all of TAP beside a proxy", "-socks5 localhost:1 -tap vpn0 -accept-default-gateway -accept-static-routes " +
			"-accept-dns -policy-route-table 200 -connmark -block-ipv6 -ipv6-autoconf", lines(
			"-tap"+hasSOCKS, "-accept-default-gateway"+hasSOCKS, "-accept-static-routes"+hasSOCKS, "-accept-dns"+hasSOCKS,
			"-policy-route-table"+hasSOCKS, "-connmark"+hasSOCKS, "-block-ipv6"+hasSOCKS, "-ipv6-autoconf"+hasSOCKS)},
		{"a switch that is off", "-socks5 localhost:1 -accept-dns=false -policy-route-table 0 -tap=", ""},
		{"one of TAP in a netstack without proxy", "-mode netstack -tap vpn0", lines(
			"-tap: is of TAP mode, but -mode says netstack: drop one of the two",
			"-mode: netstack has nothing to serve: give -listen 127.0.0.1:1080")},
		{"one of TAP beside an open proxy", "-socks5 :1 -tap vpn0", lines("-tap"+hasSOCKS,
			"-socks5: others can reach :1 and nobody has to log in: listen on 127.0.0.1, add -proxy-user and -proxy-pass-file or -proxy-users, or allow it with -proxy-open")},

		{"proxies in TAP mode", "-mode tap -socks5 localhost:1 -http :2", "-socks5" + saysTAP + "\n-http" + saysTAP},
		{"a proxy with its login in TAP mode", "-mode tap -http :2 -proxy-user u -proxy-pass x", "-http" + saysTAP + "\n-proxy-user" + saysTAP},
		{"a proxy's user without a proxy", "-proxy-user u", "-proxy-user" + noProxy},
		{"a proxy's password without a proxy", "-proxy-pass x", "-proxy-pass" + noProxy},
		{"an open proxy without a proxy", "-proxy-open", "-proxy-open" + noProxy},
		{"a bad mode decides nothing", "-mode x -tap vpn0 -proxy-open", `-mode: "x" is not a mode: give auto, netstack or tap`},
		{"a bad proxy decides nothing", "-socks5 x -tap vpn0", `-socks5: "x" is not an address and a port: give one like 127.0.0.1:1080`},

		{"static IPv6", "-socks5 localhost:1 -address6 2001:db8::5/64 -gateway6 fe80::1 -dns 2001:db8::1", ""},
		{"IPv6 alone", "-socks5 localhost:1 -no-dhcp -address6 2001:db8::5/64 -gateway6 2001:db8::1", ""},
		{"no IPv6", "-socks5 localhost:1 -no-ipv6", ""},
		{"no IPv6, and some", "-socks5 localhost:1 -no-ipv6 -address6 2001:db8::5/64", "-no-ipv6: contradicts -address6: drop one of the two"},
		{"a router of IPv6 alone", "-socks5 localhost:1 -gateway6 fe80::1", "-gateway6: is for static addressing: add -address6"},
		{"a router of IPv6 out of reach", "-socks5 localhost:1 -address6 2001:db8::5/64 -gateway6 2001:db8:1::1",
			"-gateway6: 2001:db8:1::1 is neither in 2001:db8::/64 nor of the link (fe80::), so it cannot be reached: correct it"},
		{"a router that is us", "-socks5 localhost:1 -address6 2001:db8::5/64 -gateway6 2001:db8::5", "-gateway6: is our own -address6: give the router's"},
		{"a router without an address", "-socks5 localhost:1 -no-dhcp -address6 2001:db8::5/64 -gateway 10.0.0.1",
			"-gateway: is for an -address, and there is none: add it, or give -gateway6"},
		{"IPv6 of ours with an interface", "-tap vpn0 -address6 2001:db8::5/64 -gateway6 fe80::1", lines("-address6"+kernels, "-gateway6"+kernels)},
		{"no IPv6 with an interface", "-no-ipv6", "-no-ipv6" + kernels},
		{"an IPv6 name server with an interface", "-tap vpn0 -accept-dns -dns 2001:db8::1",
			"-dns: 2001:db8::1 is IPv6, which here the kernel configures: give IPv4 addresses"},
		{"rules for proxies in TAP mode", "-direct example.com -connmark -policy-route-table 200", "-direct" + noProxies},
		{"rules for proxies that are not there", "-via-vpn corp.example", "-via-vpn: is for what proxies are asked to reach, and none is asked for: " +
			"add -listen 127.0.0.1:1080; if you mean a network interface, where routes decide, drop it"},
		{"rules for forwards", "-L 80:web:80 -direct example.com", "-direct: is for what proxies are asked to reach and -dns-listen is asked for; " +
			"-L and -R are always in the VPN: add -listen or -dns-listen, or drop it"},
		{"rules for names", "-L 80:web:80 -dns-listen 53 -direct example.com", ""},
		{"the same for exceptions", "-direct default -via-vpn corp.example -tap vpn0", lines("-direct"+noProxies, "-via-vpn"+noProxies)},
		{"exceptions from nothing", "-socks5 localhost:1 -via-vpn corp.example",
			"-via-vpn: everything goes by the VPN already: add -direct default to send the rest out by this machine's network"},
		{"one target both ways", "-socks5 localhost:1 -direct corp.example,10.0.0.0/8 -via-vpn 10.0.0.0/8",
			"-via-vpn: 10.0.0.0/8 is in -direct too: drop one of the two"},
		{"a target that is none", "-socks5 localhost:1 -direct *.corp.example",
			`-direct: "*.corp.example": a domain stands for all below it: give corp.example`},
		{"rules that fit", "-socks5 localhost:1 -direct default -via-vpn corp.example,10.0.0.0/8", ""},

		{"marks without a table", "-connmark", "-connmark: needs a table to route replies by: add -policy-route-table, such as 200"},
		{"marks with table 0", "-connmark -policy-route-table 0", "-connmark: needs a table to route replies by: add -policy-route-table, such as 200"},
		{"marks with a bad table", "-connmark -policy-route-table 254",
			"-policy-route-table: 254 is a table of the kernel's own: give another, such as 200"},
		{"a block of IPv6 alone", "-block-ipv6", "-block-ipv6: is for a VPN that takes everything: add -accept-default-gateway"},
		{"a block of IPv6 with a bad switch", "-block-ipv6 -accept-default-gateway=x",
			"-accept-default-gateway: is a switch: give it alone, or =true or =false"},
		{"a default route without a router", "-no-dhcp -address 10.0.0.5/24 -accept-default-gateway",
			"-accept-default-gateway: there is none without DHCP: add -gateway"},
		{"a default route with a bad router", "-no-dhcp -address 10.0.0.5/24 -accept-default-gateway -gateway x",
			`-gateway: "x" is not an IP address`},
		{"a bridge beside a proxy", "-socks5 localhost:1 -bridge br0", "-bridge" + hasSOCKS},
		{"a bridge with addresses of our own", "-bridge br0 -tap vpn0 -accept-dns -connmark -dns 10.0.0.1 -hostname x", lines(
			"-hostname"+bridged, "-dns"+bridged, "-accept-dns"+bridged, "-connmark"+bridged)},
		{"monitoring with an address of our own", "-monitor -accept-dns",
			"-accept-dns: is about an address of this machine, and with -monitor the VPN gives it none: drop one of the two"},
		{"monitoring by a bridge", "-monitor -bridge br0", "-bridge: sends what -monitor only looks at: drop one of the two"},
		{"a bridge that is the interface", "-bridge vpn0 -tap vpn0",
			`-bridge: "vpn0" is the name of the interface itself (-tap): give an existing bridge`},
		{"a bridge's bad name", "-bridge br/0",
			`-bridge: "br/0" has other characters than ASCII ones without space, slash, colon and percent sign: give a name like vpn0 or br0`},
		{"a default route by a static router", "-no-dhcp -address 10.0.0.5/24 -accept-default-gateway -gateway 10.0.0.1", ""},
	} {
		_, err := load(t, setup{}, loginWith(strings.Fields(tt.args)...)...)
		if diff := cmp.Diff(message(err), tt.want); diff != "" {
			t.Errorf("%s: -got +want:\n%s", tt.name, diff)
		}
	}
}

func TestAStrayOfTheOtherModeIsNamedWithItsOrigin(t *testing.T) {
	s := setup{env: map[string]string{"SOFTETHER_TAP": "vpn0"}}
	_, err := load(t, s, whole...)
	want := "-tap: is of TAP mode, but -socks5 is of netstack mode: drop one of the two (from SOFTETHER_TAP)"
	if got := message(err); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestIdleSettingsOfTAPModeAreNoted(t *testing.T) {
	const static = "-no-dhcp -address 10.0.0.5/24 "
	for _, tt := range []struct{ name, args, want string }{
		{"nothing idle", "-accept-dns -dns 10.0.0.1 -accept-static-routes", ""},
		{"name servers nobody hears of", "-dns 10.0.0.1", "-dns and -search without -accept-dns: this machine's resolver will not hear of them"},
		{"domains nobody hears of", "-search corp.example", "-dns and -search without -accept-dns: this machine's resolver will not hear of them"},
		{"a static address", static, ""},
		{"no name servers to use", static + "-accept-dns", "-accept-dns with -no-dhcp: there are no name servers to use; -dns gives some"},
		{"name servers of our own", static + "-accept-dns -dns 10.0.0.1", ""},
		{"no routes to take", static + "-accept-static-routes", "-accept-static-routes with -no-dhcp: there is no lease to bring routes"},
	} {
		c := mustLoad(t, setup{}, loginWith(strings.Fields(tt.args)...)...)
		if got := strings.Join(c.Notes, "\n"); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
