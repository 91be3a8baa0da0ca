package dhcp

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"softether-go/pkg/frame"
)

// FuzzLife lets the input rewrite one reply after another. Whatever a server says,
// the client comes to an end on time and does not flood the hub.
func FuzzLife(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{2, 51, 0, 5, 58, 0, 5, 51, 1})                    // short leases
	f.Add([]byte{2, 3, 0, 6, 56, 65, 2, 6, 1, 6, 0, 0})            // refusals
	f.Add([]byte{2, 1, 9, 5, 1, 9, 5, 121, 8, 6, 0, 0})            // another network, then revoked
	f.Add([]byte{5, 54, 1, 2, 54, 9, 5, 54, 3, 2, 0, 0, 5, 54, 4}) // other servers
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) {
			s := newServer()
			s.edit = func(m *dhcpv4.DHCPv4) {
				if len(script) < 3 {
					return
				}
				m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageType(script[0])))
				m.UpdateOption(option(script[1], 0, 0, 0, script[2]))
				script = script[3:]
			}
			n := newLAN(t, s)
			start := time.Now()
			if _, err := n.acquire(time.Minute); err == nil {
				if _, err := n.keep(10 * time.Minute); err == nil {
					t.Error("Keep ended without a reason")
				}
			}
			if _, err := n.acquire(time.Minute); err != nil {
				t.Logf("second session: %v", err)
			}
			if err := n.client.Release(t.Context(), n); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took > 12*time.Minute {
				t.Errorf("took %v", took)
			}
			// A minute of searching is at most 15 rounds of up to 4 messages and
			// 4 probes, ten of keeping one message every five seconds.
			if got, limit := len(n.notes), 2*15*8+10*60/5; got > limit {
				t.Errorf("%d frames sent, want at most %d", got, limit)
			}
		})
	})
}

func FuzzJudge(f *testing.F) {
	for _, server := range []string{"dnsmasq", "dhcpd"} {
		for _, fr := range recorded(f, server) {
			d, _ := parseDatagram(fr)
			f.Add(uint8(selecting), d.payload)
			f.Add(uint8(rebinding), d.payload)
		}
	}
	f.Add(uint8(selecting), offer(option(52, 3), option(26, 5, 120)).ToBytes())
	f.Add(uint8(requesting), []byte{})
	f.Fuzz(func(t *testing.T, st uint8, p []byte) {
		if len(p) < headerEnd {
			p = append(p, make([]byte, headerEnd-len(p))...) // less does not get past the Filter
		}
		x := &exchange{state: state(st%5 + 1), xid: xid(p[4:8]), began: time.Unix(0, 0), server: serverIP}
		x.addr = netip.AddrFrom4([4]byte(p[16:20]))
		a, err := judge(x, reply{from: serverMAC, src: serverIP, payload: slices.Clone(p)})
		if err != nil || a.kind == dhcpv4.MessageTypeNak {
			return
		}
		l := a.lease
		if !usable(l.Address.Addr()) || l.Address.Bits() < 1 || !usable(l.Server) || l.Gateway.IsValid() && !usable(l.Gateway) {
			t.Errorf("address %v, server %v, gateway %v", l.Address, l.Server, l.Gateway)
		}
		if len(l.Routes) > maxRoutes || max(len(l.DNS.Servers), len(l.NTP)) > maxServers || len(l.DNS.Search) > maxSearch {
			t.Errorf("lists too long: %+v", l.Config)
		}
		if l.MTU != 0 && (l.MTU < minMTU || l.MTU > frame.MaxMTU) {
			t.Errorf("MTU %d", l.MTU)
		}
		endless := l.T1.IsZero() && l.T2.IsZero() && l.Expiry.IsZero()
		ordered := l.T1.Sub(l.Start) >= minRenew && !l.T1.After(l.T2) && l.T2.Before(l.Expiry)
		if !endless && !ordered {
			t.Errorf("start %v, T1 %v, T2 %v, expiry %v", l.Start, l.T1, l.T2, l.Expiry)
		}
		for _, n := range l.DNS.Search {
			if !isDomain(n) {
				t.Errorf("search domain %q", n)
			}
		}
	})
}

func FuzzSearchList(f *testing.F) {
	f.Add([]byte("\x01a\x00\x01b\xc0\x00\x01c\xc0\x03"))
	f.Add([]byte("\x01a\xc0\x00\xc0\x03"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, n := range searchList(b) {
			if len(n) > maxName+64 { // domains cuts the rest
				t.Errorf("name of %d bytes from %d", len(n), len(b))
			}
		}
	})
}
