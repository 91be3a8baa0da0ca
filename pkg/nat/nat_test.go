package nat

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/inet"
	"softether-go/pkg/leaktest"
	"softether-go/pkg/netcfg"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

var (
	outsideMAC = net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 1}
	insideMAC  = net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 2}
	gatewayMAC = net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 3}
	stationA   = net.HardwareAddr{0x5e, 0, 0x53, 0, 1, 1}
	stationB   = net.HardwareAddr{0x5e, 0, 0x53, 0, 1, 2}

	own     = ip("10.0.0.5")
	gateway = ip("10.0.0.1")
	server  = ip("192.0.2.9")
	addrA   = ip("100.64.0.2")
	addrB   = ip("100.64.0.3")

	lease = netcfg.Config{Address: netip.PrefixFrom(netip.AddrFrom4(own), 24), Gateway: netip.AddrFrom4(gateway),
		DNS: netcfg.DNS{Servers: []netip.Addr{netip.AddrFrom4(gateway)}, Search: []string{"corp"}}, MTU: 1400}
)

func ip(s string) [4]byte { return netip.MustParseAddr(s).As4() }

// transport makes a TCP segment, a datagram or an ICMP message.
func transport(proto byte, src, dst uint16, data string) []byte {
	switch proto {
	case protoTCP:
		b := make([]byte, 20, 20+len(data))
		binary.BigEndian.PutUint16(b, src)
		binary.BigEndian.PutUint16(b[2:], dst)
		b[12], b[13] = 5<<4, 0x10
		return append(b, data...)
	case protoUDP:
		b := make([]byte, 8, 8+len(data))
		binary.BigEndian.PutUint16(b, src)
		binary.BigEndian.PutUint16(b[2:], dst)
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(data)))
		return append(b, data...)
	}
	b := make([]byte, 8, 8+len(data))
	b[0] = byte(dst)
	binary.BigEndian.PutUint16(b[4:], src)
	return append(b, data...)
}

// pseudo is what the checksums of TCP and UDP cover beside them.
func pseudo(p ipPacket) []byte {
	b := append(append([]byte{}, p[srcAt:20]...), 0, p[protoAt])
	return binary.BigEndian.AppendUint16(b, uint16(len(p.payload())))
}

// whole makes a frame with valid checksums.
func whole(dst, src net.HardwareAddr, proto byte, from, to [4]byte, payload []byte) []byte {
	p := make(ipPacket, 20, 20+len(payload))
	p[0], p[ttlAt], p[protoAt] = 0x45, 64, proto
	copy(p[srcAt:], from[:])
	copy(p[dstAt:], to[:])
	p = append(p, payload...)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[sumAt:], inet.Checksum(p[:20]))
	b := p.payload()
	switch proto {
	case protoICMP:
		binary.BigEndian.PutUint16(b[2:], inet.Checksum(b))
	case protoTCP:
		binary.BigEndian.PutUint16(b[16:], inet.Checksum(append(pseudo(p), b...)))
	case protoUDP:
		binary.BigEndian.PutUint16(b[6:], inet.Checksum(append(pseudo(p), b...)))
	}
	return frametest.Frame(dst, src, frame.TypeIPv4, p)
}

// valid reports whether all checksums of a frame fit.
func valid(f []byte) bool {
	p, ok := parse(f)
	if !ok || inet.Checksum(p[:20]) != 0 {
		return false
	}
	switch p[protoAt] {
	case protoICMP:
		return inet.Checksum(p.payload()) == 0
	case protoTCP, protoUDP:
		return inet.Checksum(append(pseudo(p), p.payload()...)) == 0
	}
	return true
}

// A bench is a Router with its gateway known, and what it has sent on each side.
type bench struct {
	t       *testing.T
	r       *Router
	out, in [][]byte
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, r: New(Config{Outside: outsideMAC, Inside: insideMAC})}
	keep := func(to *[][]byte) frame.Writer {
		return frame.WriterFunc(func(frames [][]byte) error {
			for _, f := range frames {
				*to = append(*to, bytes.Clone(f))
			}
			return nil
		})
	}
	out, in := keep(&b.out), keep(&b.in)
	b.r.outside.dst.Store(&out)
	b.r.inside.dst.Store(&in)
	if err := b.r.Apply(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	b.send(whole(insideMAC, stationA, protoUDP, addrA, server, transport(protoUDP, 9, 9, "")))
	b.hear(b.arpFromGateway())
	b.out, b.in = nil, nil
	return b
}

func (b *bench) arpFromGateway() []byte {
	return b.r.arp(inet.ARPReply, gatewayMAC, netip.AddrFrom4(gateway), mac(outsideMAC), netip.AddrFrom4(own))
}

func (b *bench) send(frames ...[]byte) { b.r.Inside().WriteFrames(frames) }
func (b *bench) hear(frames ...[]byte) { b.r.Outside().WriteFrames(frames) }

// take returns the only frame that was sent on a side.
func (b *bench) take(side *[][]byte) (f []byte, p ipPacket) {
	b.t.Helper()
	if len(*side) != 1 {
		b.t.Fatalf("got %d frames, want one; %+v", len(*side), b.r.Stats())
	}
	f = (*side)[0]
	*side = nil
	if !valid(f) {
		b.t.Fatalf("checksums do not fit: %x", f)
	}
	p, _ = parse(f)
	return f, p
}

func portOf(p ipPacket, at int) uint16 { return binary.BigEndian.Uint16(p.payload()[at:]) }

func TestConversationsOfEachKind(t *testing.T) {
	for name, row := range map[string]struct {
		proto   byte
		at      int    // where our port is outbound, and the server's inbound
		ask     uint16 // the target's port, or the type of ICMP
		answer  uint16
		replyAt int
	}{
		"TCP": {protoTCP, 0, 80, 80, 2}, "UDP": {protoUDP, 0, 53, 53, 2}, "echo": {protoICMP, 4, echo, echoReply, 4},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			used := map[uint16]bool{}
			for mac, addr := range map[*net.HardwareAddr][4]byte{&stationA: addrA, &stationB: addrB} { // both by the same port
				b.send(whole(insideMAC, *mac, row.proto, addr, server, transport(row.proto, 4321, row.ask, "odd")))
				f, p := b.take(&b.out)
				if p.src() != own || p.dst() != server || p[ttlAt] != 63 || !bytes.Equal(frame.Dst(f), gatewayMAC) || !bytes.Equal(frame.Src(f), outsideMAC) {
					t.Errorf("outbound: got %x", f)
				}
				port := portOf(p, row.at)
				if used[port] {
					t.Errorf("two stations share the port %d", port)
				}
				used[port] = true
				src, dst := row.answer, port
				if row.proto == protoICMP {
					src, dst = port, row.answer
				}
				b.hear(whole(outsideMAC, gatewayMAC, row.proto, server, own, transport(row.proto, src, dst, "answer")))
				f, p = b.take(&b.in)
				if p.src() != server || p.dst() != addr || portOf(p, row.replyAt) != 4321 || !bytes.Equal(frame.Dst(f), *mac) || !bytes.Equal(frame.Src(f), insideMAC) {
					t.Errorf("inbound: got %x", f)
				}
			}
			if !used[4321] {
				t.Errorf("the stations' own port is given to none: %v", used)
			}
		})
	}
}

// A station's port is one outside, whoever it talks to, and anybody may answer (RFC 4787).
func TestMappingsDoNotDependOnTheOtherEnd(t *testing.T) {
	b := newBench(t)
	another := ip("198.51.100.7")
	var ports []uint16
	for _, to := range [][4]byte{server, another} {
		b.send(whole(insideMAC, stationA, protoUDP, addrA, to, transport(protoUDP, 7000, 7000, "x")))
		_, p := b.take(&b.out)
		ports = append(ports, portOf(p, 0))
	}
	if ports[0] != ports[1] {
		t.Errorf("ports: got %v, want one", ports)
	}
	b.hear(whole(outsideMAC, gatewayMAC, protoUDP, ip("203.0.113.1"), own, transport(protoUDP, 1, ports[0], "x")))
	b.take(&b.in)
}

func TestErrorsAreAboutTheStationsPackets(t *testing.T) {
	b := newBench(t)
	b.send(whole(insideMAC, stationB, protoUDP, addrB, server, transport(protoUDP, 500, 33434, "trace"))) // not a port that can be kept
	f, p := b.take(&b.out)
	if portOf(p, 0) < firstPort {
		t.Errorf("port: got %d", portOf(p, 0))
	}
	quoted := bytes.Clone(frame.Payload(f))
	b.hear(whole(outsideMAC, gatewayMAC, protoICMP, ip("192.0.2.1"), own, append(transport(protoICMP, 0, timeExceeded, ""), quoted...)))
	f, p = b.take(&b.in)
	q, ok := p.quoted()
	if !ok || q.src() != addrB || portOf(q, 0) != 500 || p.dst() != addrB || !bytes.Equal(frame.Dst(f), stationB) || inet.Checksum(q[:20]) != 0 {
		t.Errorf("got %x", f)
	}
	// The other way: a station refuses what came in.
	b.hear(whole(outsideMAC, gatewayMAC, protoUDP, server, own, transport(protoUDP, 33434, portOf(ipPacket(quoted), 0), "late")))
	f, _ = b.take(&b.in)
	b.send(whole(insideMAC, stationB, protoICMP, addrB, server, append(transport(protoICMP, 0, unreachable, ""), frame.Payload(f)...)))
	f, p = b.take(&b.out)
	if q, ok := p.quoted(); !ok || q.dst() != own || portOf(q, 2) != portOf(ipPacket(quoted), 0) || p.src() != own {
		t.Errorf("got %x", f)
	}
}

func TestFragmentsFollowTheFirst(t *testing.T) {
	b := newBench(t)
	b.send(whole(insideMAC, stationA, protoUDP, addrA, server, transport(protoUDP, 6000, 6000, "x")))
	b.take(&b.out)
	fragment := func(offset uint16, payload []byte) []byte {
		f := whole(outsideMAC, gatewayMAC, 0, server, own, payload)
		p, _ := parse(f)
		p[protoAt] = protoUDP
		p[sumAt], p[sumAt+1] = 0, 0
		binary.BigEndian.PutUint16(p[4:], 77)
		binary.BigEndian.PutUint16(p[6:], offset)
		binary.BigEndian.PutUint16(p[sumAt:], inet.Checksum(p[:20]))
		return f
	}
	first := transport(protoUDP, 6000, 6000, "12345678") // without a checksum, as only the whole would have it
	b.hear(fragment(2, []byte("early")))
	if len(b.in) != 0 {
		t.Error("a fragment before the first went somewhere")
	}
	b.hear(fragment(0x2000, first), fragment(2, []byte("later")))
	if len(b.in) != 2 {
		t.Fatalf("got %d fragments, want two", len(b.in))
	}
	for _, f := range b.in {
		p, ok := parse(f)
		if !ok || p.dst() != addrA || inet.Checksum(p[:20]) != 0 || !bytes.Equal(frame.Dst(f), stationA) {
			t.Errorf("got %x", f)
		}
	}
}

func TestWhatIsDroppedIsCounted(t *testing.T) {
	b := newBench(t)
	stranger := whole(outsideMAC, gatewayMAC, protoTCP, server, own, transport(protoTCP, 80, 5555, ""))
	other := whole(insideMAC, stationA, 47, addrA, server, []byte("GRE"))
	foreign := whole(insideMAC, stationA, protoUDP, ip("192.0.2.1"), server, transport(protoUDP, 1, 1, ""))
	group := whole(insideMAC, stationA, protoUDP, addrA, ip("224.0.0.251"), transport(protoUDP, 1, 1, ""))
	old := whole(insideMAC, stationA, protoUDP, addrA, server, transport(protoUDP, 1, 1, ""))
	old[frame.HeaderLen+ttlAt] = 1
	b.send(other, foreign, group, old, []byte{1}, frametest.Frame(insideMAC, stationA, frame.TypeIPv6, make([]byte, 40)))
	b.hear(stranger, []byte{1})
	s := b.r.Stats()
	if s.DroppedProtocol != 3 || s.DroppedNoWay != 1 || s.DroppedTTL != 1 || s.DroppedNoMapping != 1 || len(b.out)+len(b.in) != 0 {
		t.Errorf("got %+v, %d frames out, %d in", s, len(b.out), len(b.in))
	}
}

func TestNeighborsAreAskedForOnceAndKeepWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		near := ip("10.0.0.77")
		packet := func() []byte {
			return whole(insideMAC, stationA, protoUDP, addrA, near, transport(protoUDP, 5000, 5000, "x"))
		}
		b.send(packet(), packet())
		if len(b.out) != 1 || frame.EtherType(b.out[0]) != frame.TypeARP {
			t.Fatalf("got %d frames, want one question", len(b.out))
		}
		b.out = nil
		time.Sleep(askEvery)
		b.send(packet())
		if len(b.out) != 1 || frame.EtherType(b.out[0]) != frame.TypeARP {
			t.Fatalf("a second later: got %d frames, want the question again", len(b.out))
		}
		b.out = nil
		b.hear(b.r.arp(inet.ARPReply, stationB, netip.AddrFrom4(near), mac(outsideMAC), netip.AddrFrom4(own)))
		if len(b.out) != 3 || !bytes.Equal(frame.Dst(b.out[2]), stationB) {
			t.Errorf("got %d frames, want the three that waited", len(b.out))
		}
		b.out = nil
		b.hear(b.r.arp(inet.ARPRequest, gatewayMAC, netip.AddrFrom4(gateway), mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, netip.AddrFrom4(own)))
		if len(b.out) != 1 || frame.Payload(b.out[0])[7] != inet.ARPReply || !bytes.Equal(frame.Dst(b.out[0]), gatewayMAC) {
			t.Errorf("whoever looks for us is not answered: %x", b.out)
		}
		b.send(b.r.arp(inet.ARPRequest, stationA, netip.AddrFrom4(addrA), mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, netip.MustParseAddr("100.64.0.1")))
		if len(b.in) != 1 || !bytes.Equal(frame.Payload(b.in[0])[8:14], insideMAC) {
			t.Errorf("a station that looks for its gateway is not answered: %x", b.in)
		}
	})
}

func TestMappingsExpire(t *testing.T) {
	for name, row := range map[string]struct {
		proto byte
		life  time.Duration
		talk  bool // the other end answers
	}{
		"UDP": {protoUDP, udpTime, true}, "echo": {protoICMP, icmpTime, false},
		"TCP that nobody answers": {protoTCP, transitoryTime, false}, "TCP": {protoTCP, establishedTime, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				port := uint16(80)
				if row.proto == protoICMP {
					port = echo
				}
				b.send(whole(insideMAC, stationA, row.proto, addrA, server, transport(row.proto, 4000, port, "")))
				answer := whole(outsideMAC, gatewayMAC, row.proto, server, own, transport(row.proto, 80, 4000, ""))
				if row.proto == protoICMP {
					answer = whole(outsideMAC, gatewayMAC, row.proto, server, own, transport(row.proto, 4000, echoReply, ""))
				}
				if row.talk {
					b.hear(answer)
				}
				time.Sleep(row.life)
				b.in = nil
				b.hear(answer) // which begins it anew
				if len(b.in) != 1 {
					t.Errorf("forgotten before its time; %+v", b.r.Stats())
				}
				b.in = nil
				time.Sleep(max(row.life, establishedTime) + time.Second)
				b.hear(answer)
				if len(b.in) != 0 {
					t.Error("never forgotten")
				}
				b.send(whole(insideMAC, stationB, protoUDP, addrB, server, transport(protoUDP, 1, 1, "")))
				if n := b.r.Stats().Mappings; n != 1 {
					t.Errorf("got %d mappings, want only the new one", n)
				}
			})
		})
	}
}

func TestTheTableIsBounded(t *testing.T) {
	b := newBench(t)
	for i := range maxMappings + 100 {
		b.send(whole(insideMAC, stationA, protoUDP, addrA, server, transport(protoUDP, uint16(1024+i), 1, "")))
	}
	if s := b.r.Stats(); s.Mappings != maxMappings || s.DroppedFull == 0 {
		t.Errorf("got %+v", s)
	}
}

func TestStationsFollowTheLease(t *testing.T) {
	b := newBench(t)
	c, changed := b.r.Station(1)
	if c.Address.String() != "100.64.0.3/24" || c.Gateway.String() != "100.64.0.1" || c.MTU != 1400 || c.DNS.Search[0] != "corp" {
		t.Errorf("got %+v", c)
	}
	next := lease
	next.Address = netip.MustParsePrefix("100.64.0.9/16") // the VPN uses that range itself
	if err := b.r.Apply(context.Background(), next); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody is told of the change")
	}
	if c, _ := b.r.Station(1); c.Address.String() != "100.65.0.3/24" {
		t.Errorf("got %v, want a subnet beside the VPN's", c.Address)
	}
	if err := b.r.Apply(context.Background(), netcfg.Config{}); err != nil {
		t.Fatal(err)
	}
	if c, _ := b.r.Station(1); !c.IsZero() {
		t.Errorf("without a lease: got %+v", c)
	}
}

func TestTranslatingAllocatesNothing(t *testing.T) {
	b := newBench(t)
	var nowhere frame.Writer = frame.WriterFunc(func([][]byte) error { return nil })
	b.r.outside.dst.Store(&nowhere)
	b.r.inside.dst.Store(&nowhere)
	out := [][]byte{whole(insideMAC, stationA, protoTCP, addrA, server, transport(protoTCP, 4321, 80, "x"))}
	in := [][]byte{whole(outsideMAC, gatewayMAC, protoTCP, server, own, transport(protoTCP, 80, 4321, "x"))}
	if n := testing.AllocsPerRun(100, func() {
		b.send(out...)
		b.hear(in...)
	}); n != 0 {
		t.Errorf("got %v allocations", n)
	}
}

// Whatever comes, nothing breaks, and what leaves has valid headers.
func FuzzTranslate(f *testing.F) {
	f.Add(whole(insideMAC, stationA, protoTCP, addrA, server, transport(protoTCP, 4321, 80, "x")), true)
	f.Add(whole(outsideMAC, gatewayMAC, protoUDP, server, own, transport(protoUDP, 9, 9, "x")), false)
	inner := whole(outsideMAC, gatewayMAC, protoUDP, own, server, transport(protoUDP, 9, 9, "x"))
	f.Add(whole(outsideMAC, gatewayMAC, protoICMP, server, own, append(transport(protoICMP, 0, unreachable, ""), inner[14:]...)), false)
	f.Fuzz(func(t *testing.T, in []byte, outbound bool) {
		b := newBench(t)
		if outbound {
			b.send(in)
		} else {
			b.hear(in)
		}
		for _, f := range append(b.out, b.in...) {
			if p, ok := parse(f); ok && len(in) > 34 && inet.Checksum(in[14:34]) == 0 && in[14] == 0x45 && inet.Checksum(p[:20]) != 0 {
				t.Errorf("a header's checksum was right and is not any more: %x", f)
			}
		}
	})
}
