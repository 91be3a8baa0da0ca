package dhcp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

func option(code uint8, value ...byte) dhcpv4.Option {
	return dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), value)
}

func route(dest, via string) netcfg.Route {
	r := netcfg.Route{Dest: netip.MustParsePrefix(dest)}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

// offer is an OFFER of 10.0.0.50 with nothing but the options given.
func offer(options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	s := newServer()
	s.options = options
	return s.reply("DISCOVER", &dhcpv4.DHCPv4{TransactionID: xid{1}, HWType: 1, ClientHWAddr: ourMAC[:]})
}

func judgeBytes(p []byte) (Lease, error) {
	x := &exchange{state: selecting, xid: xid{1}, began: time.Unix(0, 0)}
	a, err := judge(x, reply{from: serverMAC, src: serverIP, payload: p})
	return a.lease, err
}

func TestOptionsBecomeConfiguration(t *testing.T) {
	ip := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	for _, row := range []struct {
		name    string
		options []dhcpv4.Option
		want    netcfg.Config // the Address is 10.0.0.50/24 unless given
	}{
		{"none", nil, netcfg.Config{}},
		{"mask", []dhcpv4.Option{option(1, 255, 255, 240, 0)}, netcfg.Config{Address: netip.MustParsePrefix("10.0.0.50/20")}},
		{"mask of one host", []dhcpv4.Option{option(1, 255, 255, 255, 255)}, netcfg.Config{Address: netip.MustParsePrefix("10.0.0.50/32")}},
		{"mask with a hole", []dhcpv4.Option{option(1, 255, 0, 255, 0)}, netcfg.Config{}},
		{"mask of nothing", []dhcpv4.Option{option(1, 0, 0, 0, 0)}, netcfg.Config{}},
		{"mask cut short", []dhcpv4.Option{option(1, 255, 255)}, netcfg.Config{}},
		{"router", []dhcpv4.Option{option(3, 10, 0, 0, 1, 10, 0, 0, 2)}, netcfg.Config{Gateway: ip("10.0.0.1")}},
		{"routers that are none, then one", []dhcpv4.Option{option(3, 0, 0, 0, 0, 10, 0, 0, 50, 224, 0, 0, 1, 10, 0, 0, 2)},
			netcfg.Config{Gateway: ip("10.0.0.2")}},
		{"DNS, each once, without loopback", []dhcpv4.Option{option(6, 10, 0, 0, 1, 127, 0, 0, 1, 10, 0, 0, 1, 8, 8, 8, 8)},
			netcfg.Config{DNS: netcfg.DNS{Servers: []netip.Addr{ip("10.0.0.1"), ip("8.8.8.8")}}}},
		{"DNS cut short", []dhcpv4.Option{option(6, 10, 0, 0)}, netcfg.Config{}},
		{"NTP", []dhcpv4.Option{option(42, 10, 0, 0, 9)}, netcfg.Config{NTP: []netip.Addr{ip("10.0.0.9")}}},
		{"MTU", []dhcpv4.Option{option(26, 0x05, 0x78)}, netcfg.Config{MTU: 1400}},
		{"MTU too small to believe", []dhcpv4.Option{option(26, 0x02, 0x3f)}, netcfg.Config{}},
		{"MTU as small as it may be", []dhcpv4.Option{option(26, 0x02, 0x40)}, netcfg.Config{MTU: 576}},
		{"MTU the tunnel cannot carry", []dhcpv4.Option{option(26, 0x23, 0x28)}, netcfg.Config{MTU: frame.MaxMTU}},
		{"MTU of one byte", []dhcpv4.Option{option(26, 5)}, netcfg.Config{}},
		{"domain name", []dhcpv4.Option{dhcpv4.OptDomainName("corp.example.\x00")},
			netcfg.Config{DNS: netcfg.DNS{Search: []string{"corp.example"}}}},
		{"several in one domain name", []dhcpv4.Option{dhcpv4.OptDomainName("corp.example lab.example")},
			netcfg.Config{DNS: netcfg.DNS{Search: []string{"corp.example", "lab.example"}}}},
		{"domain name that would be configuration", []dhcpv4.Option{dhcpv4.OptDomainName("a\nnameserver\t6.6.6.6;b")},
			netcfg.Config{DNS: netcfg.DNS{Search: []string{"a", "nameserver"}}}},
		{"search list before domain name", []dhcpv4.Option{
			dhcpv4.OptDomainName("corp.example"),
			dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: []string{"a.example", "b.example"}}),
		}, netcfg.Config{DNS: netcfg.DNS{Search: []string{"a.example", "b.example"}}}},
		{"unreadable search list, domain name", []dhcpv4.Option{dhcpv4.OptDomainName("corp.example"), option(119, 9, 'a')},
			netcfg.Config{DNS: netcfg.DNS{Search: []string{"corp.example"}}}},
		{"classless routes", []dhcpv4.Option{option(121, 24, 192, 168, 7, 10, 0, 0, 2, 12, 172, 16, 0, 0, 0, 0)},
			netcfg.Config{Routes: []netcfg.Route{route("192.168.7.0/24", "10.0.0.2"), route("172.16.0.0/12", "")}}},
		{"default route among them wins over the router", []dhcpv4.Option{
			option(3, 10, 0, 0, 1), option(121, 0, 10, 0, 0, 2, 8, 10, 10, 0, 0, 3),
		}, netcfg.Config{Gateway: ip("10.0.0.2"), Routes: []netcfg.Route{route("10.0.0.0/8", "10.0.0.3")}}},
		{"none among them leaves the router", []dhcpv4.Option{option(3, 10, 0, 0, 1), option(121, 8, 10, 10, 0, 0, 3)},
			netcfg.Config{Gateway: ip("10.0.0.1"), Routes: []netcfg.Route{route("10.0.0.0/8", "10.0.0.3")}}},
		{"of two default routes the first", []dhcpv4.Option{option(121, 0, 10, 0, 0, 2, 0, 10, 0, 0, 3)}, netcfg.Config{Gateway: ip("10.0.0.2")}},
		{"default route onto the link is not taken", []dhcpv4.Option{option(121, 0, 0, 0, 0, 0)}, netcfg.Config{}},
		{"Microsoft's routes", []dhcpv4.Option{option(249, 8, 10, 10, 0, 0, 3)},
			netcfg.Config{Routes: []netcfg.Route{route("10.0.0.0/8", "10.0.0.3")}}},
		{"the standard's before Microsoft's", []dhcpv4.Option{option(249, 8, 11, 10, 0, 0, 3), option(121, 8, 10, 10, 0, 0, 3)},
			netcfg.Config{Routes: []netcfg.Route{route("10.0.0.0/8", "10.0.0.3")}}},
		{"Microsoft's when the standard's are broken", []dhcpv4.Option{option(249, 8, 11, 10, 0, 0, 3), option(121, 8, 10, 10)},
			netcfg.Config{Routes: []netcfg.Route{route("11.0.0.0/8", "10.0.0.3")}}},
		{"host bits in a route", []dhcpv4.Option{option(121, 9, 10, 255, 10, 0, 0, 3)},
			netcfg.Config{Routes: []netcfg.Route{route("10.128.0.0/9", "10.0.0.3")}}},
		{"routes for loopback, multicast, via nobody, via ourselves", []dhcpv4.Option{option(121,
			8, 127, 10, 0, 0, 3, 4, 224, 10, 0, 0, 3, 8, 9, 255, 255, 255, 255, 8, 9, 10, 0, 0, 50)}, netcfg.Config{}},
		{"route with 33 bits", []dhcpv4.Option{option(121, 33, 1, 2, 3, 4, 5, 10, 0, 0, 3)}, netcfg.Config{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			l, err := judgeBytes(offer(row.options...).ToBytes())
			if err != nil {
				t.Fatal(err)
			}
			if !row.want.Address.IsValid() {
				row.want.Address = netip.MustParsePrefix("10.0.0.50/24")
			}
			if d := cmp.Diff(row.want, l.Config, compareAddrs, comparePrefixes); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestOfferThatMakesNoSenseIsRefused(t *testing.T) {
	yours := func(a, b, c, d byte) func(*dhcpv4.DHCPv4) {
		return func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IP{a, b, c, d} }
	}
	for _, row := range []struct {
		name string
		edit func(m *dhcpv4.DHCPv4)
		want string
	}{
		{"no address", yours(0, 0, 0, 0), "0.0.0.0 is not an address for a host"},
		{"an address of this network", yours(0, 0, 0, 9), "0.0.0.9 is not an address for a host"},
		{"loopback", yours(127, 0, 0, 1), "127.0.0.1 is not an address for a host"},
		{"multicast", yours(224, 0, 0, 1), "224.0.0.1 is not an address for a host"},
		{"broadcast", yours(255, 255, 255, 255), "255.255.255.255 is not an address for a host"},
		{"the network's address", yours(10, 0, 0, 0), "10.0.0.0/24 is the network's own or its broadcast address"},
		{"the network's broadcast address", yours(10, 0, 0, 255), "10.0.0.255/24 is the network's own or its broadcast address"},
		{"the server's own address", yours(10, 0, 0, 1), "10.0.0.1 is not an address for a server"},
		{"no type", func(m *dhcpv4.DHCPv4) { m.DeleteOption(dhcpv4.OptionDHCPMessageType) }, "is no answer while selecting"},
		{"an ACK", func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeAck)) }, "ACK from 10.0.0.1 is no answer while selecting"},
		{"another transaction", func(m *dhcpv4.DHCPv4) { m.TransactionID = xid{2} }, "belongs to another transaction"},
		{"a server that is no host", func(m *dhcpv4.DHCPv4) { m.UpdateOption(option(54, 255, 255, 255, 255)) }, "255.255.255.255 is not an address for a server"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := offer(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)))
			row.edit(m)
			if l, err := judgeBytes(m.ToBytes()); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("lease %v, error %v, want one with %q", l.Address, err, row.want)
			}
		})
	}
}

func TestServerWithoutIdentifierIsItsAddress(t *testing.T) {
	m := offer()
	m.DeleteOption(dhcpv4.OptionServerIdentifier)
	if l, err := judgeBytes(m.ToBytes()); err != nil || l.Server != serverIP {
		t.Errorf("server %v, error %v", l.Server, err)
	}
}

func TestListsAreBounded(t *testing.T) {
	var routes, servers []byte
	var names []string
	for i := range 250 {
		routes = append(routes, 24, 10, 1, byte(i), 10, 0, 0, 3, 24, 10, 2, byte(i), 10, 0, 0, 3)
		servers = append(servers, 10, 0, 1, byte(i))
		names = append(names, fmt.Sprintf("n%d.example", i))
	}
	l, err := judgeBytes(offer(option(121, routes...), option(6, servers...), option(42, servers...),
		dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: names})).ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	got := []int{len(l.Routes), len(l.DNS.Servers), len(l.NTP), len(l.DNS.Search)}
	if want := []int{maxRoutes, maxServers, maxServers, maxSearch}; !slices.Equal(got, want) {
		t.Errorf("routes, DNS, NTP, search: got %v, want %v", got, want)
	}
}

func TestLongOptionIsJoined(t *testing.T) {
	var routes []byte
	for i := range 64 { // as many as SecureNAT pushes
		routes = append(routes, 24, 172, 16, byte(i), 10, 0, 0, 3)
	}
	for _, row := range []struct {
		name string
		next byte // the code of the second and third piece
	}{{"by the standard", 121}, {"by SoftEther", 250}} {
		t.Run(row.name, func(t *testing.T) {
			p := offer().ToBytes()
			p = p[:bytes.LastIndexByte(p, 255)]
			code := byte(121)
			for piece := range slices.Chunk(routes, 255) {
				p = append(append(p, code, byte(len(piece))), piece...)
				code = row.next
			}
			l, err := judgeBytes(append(p, 255))
			if err != nil || len(l.Routes) != 64 || l.Routes[63] != route("172.16.63.0/24", "10.0.0.3") {
				t.Errorf("%d routes, error %v", len(l.Routes), err)
			}
		})
	}
	t.Run("an option 250 of its own stays that", func(t *testing.T) {
		l, err := judgeBytes(offer(option(6, 10, 0, 0, 1), option(250, 10, 0, 0, 2)).ToBytes())
		if err != nil || len(l.DNS.Servers) != 1 {
			t.Errorf("DNS %v, error %v", l.DNS.Servers, err)
		}
	})
}

func TestOverloadedFieldsAreRead(t *testing.T) {
	file, sname := []byte{6, 4, 10, 0, 0, 7, 255}, []byte{42, 4, 10, 0, 0, 8, 255}
	for _, row := range []struct {
		overload byte
		dns, ntp int
	}{{0, 0, 0}, {1, 1, 0}, {2, 0, 1}, {3, 1, 1}} {
		t.Run(fmt.Sprint(row.overload), func(t *testing.T) {
			p := offer(option(52, row.overload)).ToBytes()
			copy(p[fileStart:], file)
			copy(p[snameStart:], sname)
			l, err := judgeBytes(p)
			if err != nil || len(l.DNS.Servers) != row.dns || len(l.NTP) != row.ntp {
				t.Errorf("DNS %v, NTP %v, error %v", l.DNS.Servers, l.NTP, err)
			}
		})
	}
	p := offer(option(52, 3)).ToBytes()
	p[fileStart+126], p[fileStart+127] = 6, 4 // an option beyond the field's end
	if _, err := judgeBytes(p); err == nil {
		t.Error("broken options in the file field are accepted")
	}
}

func TestEveryShortPrefixOfAnOfferIsSafe(t *testing.T) {
	whole := offer(dhcpv4.OptSubnetMask(net.CIDRMask(20, 32)), option(6, 10, 0, 0, 1)).ToBytes()
	for n := range whole {
		l, err := judgeBytes(slices.Clone(whole[:n]))
		if n <= headerEnd && err == nil {
			t.Errorf("%d bytes make a lease: %v", n, l)
		}
	}
	end := bytes.LastIndexByte(whole, 255)
	if _, err := judgeBytes(whole[:end]); err != nil {
		t.Errorf("without an end mark: %v", err)
	}
}

func TestSearchList(t *testing.T) {
	for _, row := range []struct {
		name, bytes string
		want        []string
	}{
		{"empty", "", nil},
		{"two names", "\x01a\x02bc\x00\x01d\x00", []string{"a.bc", "d"}},
		{"a pointer", "\x01a\x00\x01b\xc0\x00", []string{"a", "b.a"}},
		{"a name after a pointer", "\x01a\x00\x01b\xc0\x00\x01c\x00", []string{"a", "b.a", "c"}},
		{"a pointer to a pointer", "\x01a\x00\x01b\xc0\x00\x01c\xc0\x03", []string{"a", "b.a", "c.b.a"}},
		{"a pointer into a name", "\x01a\x01b\x00\x01c\xc0\x02", []string{"a.b", "c.b"}},
		{"a pointer to itself", "\x01a\x00\xc0\x03", []string{"a"}},
		{"a pointer into its own name", "\x01a\xc0\x00", nil},
		{"a pointer forward", "\xc0\x02\x01a\x00", nil},
		{"a pointer out of the list", "\x01a\x00\x01b\xc0\xff", []string{"a"}},
		{"half a pointer", "\x01a\x00\x01b\xc0", []string{"a"}},
		{"a label cut short", "\x01a\x00\x09bcd", []string{"a"}},
		{"a name without end", "\x01a\x00\x01b", []string{"a"}},
		{"a label of an unknown kind", "\x01a\x00\x41b\x00", []string{"a"}},
		{"a root", "\x00\x01a\x00", []string{"", "a"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := searchList([]byte(row.bytes)); !slices.Equal(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestDomainNames(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, want := range map[string]bool{
		"example": true, "a.b-c.d_e.9": true, long + ".example": true,
		"": false, ".": false, "a..b": false, "a b": false, "a\nb": false, "bücher.example": false, "a.b\x00": false,
		"a" + long: false, strings.Repeat(long+".", 4): false,
	} {
		if got := isDomain(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

// TestRecordedReplies reads what real servers sent; see real_linux_test.go.
func TestRecordedReplies(t *testing.T) {
	for _, server := range []string{"dnsmasq", "dhcpd"} {
		t.Run(server, func(t *testing.T) {
			kinds := map[string]int{}
			for _, f := range recorded(t, server) {
				d, ok := parseDatagram(f)
				if !ok {
					t.Fatalf("not a datagram to us: %x", f)
				}
				p := slices.Clone(d.payload)
				m, err := decode(slices.Clone(p))
				if err != nil {
					t.Fatal(err)
				}
				kinds[m.MessageType().String()]++
				x := &exchange{state: rebinding, xid: m.TransactionID, addr: netip.MustParseAddr("10.77.0.50")}
				if m.MessageType() == dhcpv4.MessageTypeOffer {
					x.state = selecting
				}
				a, err := judge(x, reply{from: d.srcMAC, src: d.src, payload: p})
				if err != nil {
					t.Fatal(err)
				}
				if a.kind == dhcpv4.MessageTypeNak {
					continue
				}
				if d := cmp.Diff(realConfig(), a.lease.Config, compareAddrs, comparePrefixes); d != "" {
					t.Errorf("%v (-want +got):\n%s", a.kind, d)
				}
				if got := a.lease.T1.Sub(a.lease.Start); got != 5*time.Second {
					t.Errorf("%v: T1 after %v", a.kind, got)
				}
			}
			if kinds["NAK"] == 0 || kinds["OFFER"] == 0 || kinds["ACK"] == 0 {
				t.Errorf("kinds recorded: %v", kinds)
			}
		})
	}
}

func recorded(t testing.TB, server string) (frames [][]byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", server+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			frames = append(frames, unhex(t, strings.TrimSpace(line)))
		}
	}
	return frames
}

// realConfig is what both real servers were set up to hand out.
func realConfig() netcfg.Config {
	return netcfg.Config{
		Address: netip.MustParsePrefix("10.77.0.50/24"),
		Gateway: netip.MustParseAddr("10.77.0.254"),
		Routes:  []netcfg.Route{route("192.168.7.0/24", "10.77.0.2"), route("172.16.0.0/12", "10.77.0.3")},
		DNS: netcfg.DNS{
			Servers: []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2")},
			Search:  []string{"corp.example", "eng.corp.example", "lab.eng.corp.example"},
		},
		MTU: 1400,
		NTP: []netip.Addr{netip.MustParseAddr("10.77.0.9")},
	}
}
