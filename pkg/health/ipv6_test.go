package health

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/inet"
	"softether-go/pkg/netcfg"
)

var (
	link6   = netip.MustParseAddr("fe80::5")
	own6    = netip.MustParseAddr("2001:db8::5")
	router6 = netip.MustParseAddr("fe80::1")
	server6 = netip.MustParseAddr("2001:db8::53") // on the link
	on6     = []netcfg.Route{{Dest: netip.MustParsePrefix("2001:db8::/64")}}
	alone6  = netcfg.Config{
		IPv6: netcfg.IPv6{Addresses: []netcfg.Address6{{Addr: link6}, {Addr: own6}}, Gateways: []netip.Addr{router6}, Routes: on6},
		DNS:  netcfg.DNS{Servers: []netip.Addr{gateway, server6}},
	}
)

// answer6 answers for the router, which is all others too. p is the packet, a copy.
func (s *site) answer6(f, p []byte) []byte {
	body := p[40:]
	if int(binary.BigEndian.Uint16(p[4:])) != len(body) || !inet.Summed(body, p[8:40], p[6]) {
		return nil
	}
	src, dst := bytes.Clone(p[8:24]), bytes.Clone(p[24:40])
	reply := func(from, payload []byte) []byte {
		binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
		copy(p[8:], from)
		copy(p[24:], src)
		return frametest.Frame(ownMAC, gatewayMAC, frame.TypeIPv6, append(p[:40:40], payload...))
	}
	switch {
	case p[6] == icmp6.proto && body[0] == neighborSolicitation:
		group := dst
		target := body[8:24]
		toGroup := bytes.Equal(frame.Dst(f), append([]byte{0x33, 0x33}, group[12:]...)) && bytes.Equal(group[13:], target[13:])
		if own := netip.AddrFrom16([16]byte(src)); !toGroup || p[7] != linkHops || own != link6 && own != own6 || !bytes.Equal(body[26:32], ownMAC) {
			return nil
		}
		return reply(target, append(append([]byte{neighborAdvertisement, 0, 0, 0, 0x60, 0, 0, 0}, target...), append([]byte{targetStation, 1}, gatewayMAC...)...))
	case !bytes.Equal(frame.Dst(f), gatewayMAC):
		return nil
	case p[6] == icmp6.proto && body[0] == icmp6.request:
		body[0] = icmp6.reply
	case p[6] == inet.ProtoUDP:
		copy(body[2:], body[:2])
		binary.BigEndian.PutUint16(body, 53)
		body[10] |= 0x80
		body[11] = s.rcode
	}
	return reply(dst, body)
}

func TestReadyAsksByIPv6WhereThereIsNoIPv4(t *testing.T) {
	noRouter, noServer := alone6, alone6
	noRouter.IPv6.Gateways = nil
	noServer.IPv6.Gateways, noServer.DNS.Servers = nil, []netip.Addr{gateway, own6, netip.MustParseAddr("2001:db8:1::53")}
	both := alone6
	both.Address, both.Gateway = address.Address, address.Gateway
	for _, row := range []struct {
		name   string
		target string
		config netcfg.Config
		said   string
		asked  int
	}{
		{"the router", "", alone6, "gateway fe80::1 answered", 1},
		{"a name server of the link", "", noRouter, "name server 2001:db8::53 answered", 1},
		{"nobody else", "", noServer, "the server answered", 0},
		{"beyond the router", "2001:db8:9::9", alone6, "2001:db8:9::9 answered", 2},
		{"on the link", "2001:db8::9", alone6, "2001:db8::9 answered", 2},
		{"an address of the link alone", "fe80::9", alone6, "fe80::9 answered", 2},
		{"a name", "files.corp", alone6, "name server 2001:db8::53 answered", 2},
		{"IPv4 while there are both", "", both, "gateway 10.0.0.1 answered", 1},
		{"IPv6 if asked for while there are both", "2001:db8::9", both, "2001:db8::9 answered", 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSiteAt(t, targetOf(t, row.target), row.config)
				if said, err := s.m.Ready(t.Context()); err != nil || !strings.HasPrefix(said, row.said) || s.asked != row.asked {
					t.Errorf("got %q, %v after %d questions, want %q after %d", said, err, s.asked, row.said, row.asked)
				}
			})
		})
	}
}

func TestReadySaysWhyNotByIPv6(t *testing.T) {
	onlyLink := alone6
	onlyLink.IPv6.Addresses = alone6.IPv6.Addresses[:1]
	noRouter := alone6
	noRouter.IPv6.Gateways = nil
	for _, row := range []struct {
		name, target string
		config       netcfg.Config
		change       func(*site)
		want         string
	}{
		{"a router that is gone", "", alone6, func(s *site) { s.mute.Store(true) }, "fe80::1 does not answer to neighbour discovery"},
		{"a name server in trouble", "files.corp", alone6, func(s *site) { s.rcode = 2 }, "SERVFAIL"},
		{"ourselves", "2001:db8::5", alone6, func(*site) {}, "our own address"},
		{"IPv4 without an address of it", "192.0.2.9", alone6, func(*site) {}, "no way to 192.0.2.9"},
		{"IPv6 without an address of it", "2001:db8::9", address, func(*site) {}, "no way to 2001:db8::9"},
		{"beyond a link without a router", "2001:db8:9::9", noRouter, func(*site) {}, "the VPN has no gateway"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSiteAt(t, targetOf(t, row.target), row.config)
				row.change(s)
				if said, err := s.m.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %q, %v, want %q", said, err, row.want)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSiteAt(t, Target{}, onlyLink)
		if said, err := s.m.Ready(t.Context()); err != nil || !strings.Contains(said, "without an address") {
			t.Errorf("with an address of the link alone: %q, %v", said, err)
		}
	})
}
