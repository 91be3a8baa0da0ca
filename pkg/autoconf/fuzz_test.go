package autoconf

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
)

// FuzzAdvert holds what is read from an advertisement to what the rest counts on.
func FuzzAdvert(f *testing.F) {
	r := aRouter(mtuOption(1400), dnsOption(time.Hour, "2001:db8::1"), searchOption(time.Hour, "corp.example"), routeOption("2001:db8:9::/48", time.Hour))
	f.Add(advertMessage(r.header, r.options...)[4:])
	f.Add(advertMessage(r.header)[4:])
	f.Add(advertMessage(r.header, []byte{24, 1, 0, 0, 0, 0, 1, 0}, []byte{31, 2, 0, 0, 0, 0, 1, 0, 63, 'a', 0, 0, 0, 0, 0, 0})[4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAdvert(b)
		if err != nil {
			return
		}
		if a.mtu != 0 && (a.mtu < minMTU || a.mtu > maxMTU) {
			t.Errorf("MTU %d", a.mtu)
		}
		for _, p := range a.prefixes {
			if !routable(p.prefix) || p.prefix != p.prefix.Masked() || p.valid < 0 || p.preferred < 0 {
				t.Errorf("prefix %+v", p)
			}
		}
		for _, x := range a.routes {
			if !routable(x.prefix) || x.preference < -1 || x.preference > 1 {
				t.Errorf("route %+v", x)
			}
		}
		for _, x := range a.servers {
			if !usableServer(x.what) {
				t.Errorf("name server %v", x.what)
			}
		}
		for _, x := range a.search {
			if x.what == "" || len(x.what) > 253 {
				t.Errorf("domain %q", x.what)
			}
		}
	})
}

// FuzzSession leads a session through frames of somebody who means no good: pieces of
// input are bodies of neighbour discovery and DHCPv6 messages with everything right around
// them, and time passes between. Whatever they say, what is kept is bounded, there is always
// a next thing to do that is not before the present, and nothing follows at once for ever.
func FuzzSession(f *testing.F) {
	piece := func(kind byte, body []byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(body))), body...)
	}
	r := aRouter(dnsOption(time.Hour, "2001:db8::1"))
	r.header = routerHeader(time.Hour, "MO")
	advert := advertMessage(r.header, r.options...)
	own := New(Config{MAC: netMAC(ourMAC), Key: []byte("secret")}).opaque(linkLocal, 0).As16()
	owner := append([]byte{neighborAdvertisement, 0, 0, 0, 0x20, 0, 0, 0}, own[:]...)
	reply := func(kind dhcpv6.MessageType) []byte {
		m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeSolicit}
		m.AddOption(dhcpv6.OptClientID(New(Config{MAC: netMAC(ourMAC)}).duid()))
		m.AddOption(&dhcpv6.OptIANA{IaId: [4]byte(ourMAC[2:])})
		m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		a := aServer(lent).reply(f, "SOLICIT", m)
		a.MessageType = kind
		a.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		return a.ToBytes()
	}
	f.Add(piece(0, advert))
	f.Add(append(piece(0, advert), piece(1, reply(dhcpv6.MessageTypeReply))...))
	f.Add(append(append(piece(0, advert), piece(1, reply(dhcpv6.MessageTypeAdvertise))...), piece(1, reply(dhcpv6.MessageTypeReply))...))
	f.Add(append(piece(0, owner), piece(0, advert)...))
	f.Fuzz(func(t *testing.T, input []byte) {
		c := New(Config{MAC: netMAC(ourMAC), Key: []byte("secret"), Rand: rand.NewChaCha8([32]byte{1})})
		sent := 0
		s := &running{Client: c, out: frame.WriterFunc(func(frames [][]byte) error { sent += len(frames); return nil })}
		in := c.Filter(frame.WriterFunc(func([][]byte) error { return nil }))
		now := time.Now()
		s.begin(now)
		for len(input) >= 3 {
			n := min(int(binary.BigEndian.Uint16(input[1:])), len(input)-3, 1400)
			kind, body := input[0], append([]byte(nil), input[3:3+n]...)
			input = input[3+n:]
			s.lead(t, &now, time.Duration(kind>>2)*time.Second)
			if kind&1 == 0 && n >= icmpLen {
				_ = in.WriteFrames([][]byte{icmpFrame(routerMAC, inet.GroupMAC(allNodes), routerLL, allNodes, body)})
			} else if n >= 4 {
				copy(body[1:4], c.known.lease.xid[:])
				_ = in.WriteFrames([][]byte{serverFrame(netip.AddrFrom16(own), body)})
			}
			for len(c.inbox) > 0 {
				s.hear(<-c.inbox, now)
			}
		}
		s.lead(t, &now, time.Hour)
		k := &c.known
		if len(k.addresses) > 2+maxPrefixes+maxLent || len(k.routers) > maxRouters || len(k.onLink) > maxRoutes ||
			len(k.routes) > maxRoutes || len(k.servers) > maxServers || len(k.search) > maxSearch || len(k.abandoned) > maxAbandoned+1 {
			t.Errorf("kept too much: %+v", k)
		}
		if sent > 100_000 {
			t.Errorf("sent %d frames", sent)
		}
	})
}

// lead lets time pass.
func (r *running) lead(t *testing.T, now *time.Time, d time.Duration) {
	end := now.Add(d)
	for steps := 0; ; steps++ {
		if err := r.step(*now); err != nil {
			t.Fatal(err)
		}
		r.config(*now)
		next := r.next(*now)
		if next.After(end) {
			break
		}
		if next.After(*now) {
			*now = next
		} else if steps > 1000 {
			t.Fatal("never done")
		}
	}
	*now = end
}

// FuzzFrame offers a Filter frames of all kinds. What it copies is right in all that Run
// counts on, and it takes nothing but messages to the port of DHCPv6 clients.
func FuzzFrame(f *testing.F) {
	own := netip.MustParseAddr("fe80::5")
	f.Add(aRouter().advert())
	f.Add(defense(routerLL))
	f.Add(solicit(routerMAC, routerLL, own))
	f.Add(serverFrame(own, []byte{7, 1, 2, 3}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(Config{MAC: netMAC(ourMAC), Key: []byte("secret")})
		c.watched.Store(&[]netip.Addr{routerLL})
		c.answered.Store(&own)
		c.awaited.Store(awaits([]byte{1, 2, 3}))
		passed := false
		if err := c.Filter(frame.WriterFunc(func([][]byte) error { passed = true; return nil })).WriteFrames([][]byte{b}); err != nil {
			t.Fatal(err)
		}
		if !passed && (len(b) < 62 || b[20] != protoUDP || binary.BigEndian.Uint16(b[56:]) != clientPort) {
			t.Errorf("taken: % x", b)
		}
		for len(c.inbox) > 0 {
			h := <-c.inbox
			least := map[byte]int{0: 4, routerAdvertisement: 12, neighborSolicitation: 20, neighborAdvertisement: 20}[h.kind]
			if least == 0 || len(h.body) < least || h.from == ourMAC {
				t.Errorf("heard %+v", h)
			}
		}
	})
}
