package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/netcfg"
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// capture collects what s sends.
func capture(t testing.TB, s *Stack) *frametest.Pipe {
	t.Helper()
	p := new(frametest.Pipe)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx, p) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return p
}

func received(t testing.TB, p *frametest.Pipe, n int) [][]byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	f := p.Received(ctx, n)
	if len(f) < n {
		t.Fatalf("frames sent: got %d, want %d", len(f), n)
	}
	return f
}

func arpPayload(op uint16, sha net.HardwareAddr, spa string, tha net.HardwareAddr, tpa string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(b, sha...)
	b = append(b, netip.MustParseAddr(spa).AsSlice()...)
	b = append(b, tha...)
	return append(b, netip.MustParseAddr(tpa).AsSlice()...)
}

func arpRequest(from net.HardwareAddr, spa, tpa string) []byte {
	return frametest.Frame(broadcast, from, frame.TypeARP, arpPayload(1, from, spa, make([]byte, 6), tpa))
}

func send(t testing.TB, s *Stack, frames ...[]byte) {
	t.Helper()
	if err := s.WriteFrames(frames); err != nil {
		t.Fatal(err)
	}
}

func TestARPIsAnsweredForOurAddressOnly(t *testing.T) {
	for _, row := range []struct {
		name, sender, target string
		answered             bool
	}{
		{"a neighbour asks", "10.0.0.9", "10.0.0.1", true},
		{"the hub polls from a foreign subnet", "172.31.17.4", "10.0.0.1", true},
		{"an address probe has no sender", "0.0.0.0", "10.0.0.1", true},
		{"another host is asked for", "10.0.0.9", "10.0.0.7", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStack(t, macA)
			apply(t, s, prefix("10.0.0.1/24"))
			wire := capture(t, s)
			// The second question is always answered, so the first had its time.
			send(t, s, arpRequest(macB, row.sender, row.target), arpRequest(macC, "10.0.0.8", "10.0.0.1"))
			want := [][]byte{arpRequest(macA, "10.0.0.1", "10.0.0.1")} // from Apply
			if row.answered {
				want = append(want, frametest.Frame(macB, macA, frame.TypeARP, arpPayload(2, macA, row.target, macB, row.sender)))
			}
			want = append(want, frametest.Frame(macC, macA, frame.TypeARP, arpPayload(2, macA, "10.0.0.1", macC, "10.0.0.8")))
			got := received(t, wire, len(want))
			if len(got) != len(want) {
				t.Fatalf("frames: got %d, want %d", len(got), len(want))
			}
			for i := range want {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("frame %d: got %x, want %x", i, got[i], want[i])
				}
			}
		})
	}
}

func TestEveryApplyAndAnnounceTellsTheNetwork(t *testing.T) {
	s := newStack(t, macA)
	wire := capture(t, s)
	apply(t, s, prefix("10.0.0.1/24"))
	apply(t, s, prefix("10.0.0.1/24"))
	if err := s.Announce(); err != nil {
		t.Fatal(err)
	}
	apply(t, s, prefix("10.0.0.2/24"))
	want := []string{"10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2"}
	for i, f := range received(t, wire, len(want)) {
		if !bytes.Equal(f, arpRequest(macA, want[i], want[i])) {
			t.Errorf("frame %d: got %x, want an announcement of %s", i, f, want[i])
		}
	}
	apply(t, s, netcfg.Config{})
	if err := s.Announce(); err == nil {
		t.Error("Announce without an address succeeded")
	}
}

// echoRequest is a ping from 10.0.0.9 to 10.0.0.1.
func echoRequest(payload []byte) []byte {
	ip := make([]byte, 28, 28+len(payload))
	ip[0], ip[8], ip[9] = 0x45, 64, 1
	copy(ip[12:], []byte{10, 0, 0, 9, 10, 0, 0, 1})
	ip[20] = 8
	ip = append(ip, payload...)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip[:20], 0))
	binary.BigEndian.PutUint16(ip[22:], ^checksum.Checksum(ip[20:], 0))
	return frametest.Frame(macA, macB, frame.TypeIPv4, ip)
}

func TestPingIsAnswered(t *testing.T) {
	s := newStack(t, macA)
	apply(t, s, prefix("10.0.0.1/24"))
	wire := capture(t, s)
	// The question tells the stack where 10.0.0.9 is, so the reply needs no ARP.
	send(t, s, arpRequest(macB, "10.0.0.9", "10.0.0.1"), echoRequest([]byte("are you there?")))
	reply := received(t, wire, 3)[2]
	if got := frame.EtherType(reply); got != frame.TypeIPv4 {
		t.Fatalf("type: got %#x, want IPv4 (%x)", got, reply)
	}
	if icmp := reply[34:]; icmp[0] != 0 || string(icmp[8:]) != "are you there?" {
		t.Errorf("reply: got type %d, %q", icmp[0], icmp[8:])
	}
	if !bytes.Equal(frame.Dst(reply), macB) || !bytes.Equal(frame.Src(reply), macA) {
		t.Errorf("addresses: got %x", reply[:12])
	}
}

func TestFramesThatAreNotOursAreCounted(t *testing.T) {
	payload := make([]byte, 46)
	for _, row := range []struct {
		name  string
		frame []byte
		count func(Stats) uint64
	}{
		{"empty frame", nil, func(s Stats) uint64 { return s.InboundMalformed }},
		{"header alone", make([]byte, 14), func(s Stats) uint64 { return s.InboundMalformed }},
		{"longer than a frame", frametest.Frame(macA, macB, frame.TypeIPv4, make([]byte, 1600)), func(s Stats) uint64 { return s.InboundMalformed }},
		{"for another station", frametest.Frame(macC, macB, frame.TypeIPv4, payload), func(s Stats) uint64 { return s.InboundNotForUs }},
		{"our own, come back", frametest.Frame(broadcast, macA, frame.TypeARP, payload), func(s Stats) uint64 { return s.InboundNotForUs }},
		{"with a VLAN tag", frametest.Frame(macA, macB, frame.TypeVLAN, payload), func(s Stats) uint64 { return s.InboundUnknownType }},
		{"IPv6 without an IPv6 address", frametest.Frame(macA, macB, frame.TypeIPv6, payload), func(s Stats) uint64 { return s.InboundUnknownType }},
		{"broadcast IPv4", frametest.Frame(broadcast, macB, frame.TypeIPv4, payload), func(s Stats) uint64 { return s.InboundFrames }},
		{"multicast IPv4", frametest.Frame(net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, macB, frame.TypeIPv4, payload), func(s Stats) uint64 { return s.InboundFrames }},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStack(t, macA)
			apply(t, s, prefix("10.0.0.1/24"))
			send(t, s, row.frame)
			st := s.Stats()
			if got := row.count(st); got != 1 {
				t.Errorf("counter: got %d, want 1 (%+v)", got, st)
			}
			if sum := st.InboundMalformed + st.InboundNotForUs + st.InboundUnknownType + st.InboundFrames; sum != 1 {
				t.Errorf("sum of counters: got %d, want 1 (%+v)", sum, st)
			}
		})
	}
}

func TestIPv6StaysOffTheWireUntilAnAddressAsksForIt(t *testing.T) {
	s := newStack(t, macA)
	wire := capture(t, s)
	apply(t, s, prefix("10.0.0.1/24"))
	apply(t, s, prefix("10.0.0.1/24"))
	for i, f := range received(t, wire, 2) {
		if frame.EtherType(f) != frame.TypeARP {
			t.Errorf("frame %d: got %x, want ARP only", i, f)
		}
	}
	apply(t, s, prefix6("fd00::1/64"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _, _ = s.DialContext(ctx, "tcp", "[fd00::2]:80") })
	if f := received(t, wire, 3)[2]; frame.EtherType(f) != frame.TypeIPv6 {
		t.Errorf("after an IPv6 address: got %x, want IPv6", f)
	}
}

func TestTwoHostsTalkIPv6(t *testing.T) {
	a, b := newStack(t, macA), newStack(t, macB)
	join(t, a, b)
	apply(t, a, prefix6("fd00::1/64"))
	apply(t, b, prefix6("fd00::2/64"))
	l := listen(t, b, "[::]:80")
	client := dial(t, a, "tcp", "[fd00::2]:80")
	transfer(t, accept(t, l), client, 1<<20)
}

// A session has one reader: were delivery to wait for Run's Writer, both
// directions would stop for good.
func TestInboundNeverWaitsForOutbound(t *testing.T) {
	s := newStack(t, macA)
	apply(t, s, prefix("10.0.0.1/24"))
	ctx, cancel := context.WithCancel(t.Context())
	stuck := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.Run(ctx, frame.WriterFunc(func([][]byte) error {
			once.Do(func() { close(stuck) })
			<-ctx.Done()
			return ctx.Err()
		}))
	})
	<-stuck
	questions := make([][]byte, 100)
	for i := range questions {
		questions[i] = arpRequest(macB, "172.31.0.2", "10.0.0.1")
	}
	for range 2 * queuePackets / len(questions) {
		send(t, s, questions...) // returns, although nothing gets out
	}
	if st := s.Stats(); st.OutboundDropped == 0 || st.OutboundQueued != queuePackets {
		t.Errorf("queue: got %d dropped, %d waiting; want some and %d", st.OutboundDropped, st.OutboundQueued, queuePackets)
	}
	cancel()
	wg.Wait()
}

func TestLinkPathsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops items at random under the race detector; run without -race")
	}
	s := newStack(t, macA)
	apply(t, s, prefix("10.0.0.1/24"))
	foreign := [][]byte{frametest.Frame(macC, macB, frame.TypeIPv4, make([]byte, 1500))}
	// An IPv4 packet to another host's address passes the link and ends in gVisor.
	stray := echoRequest(make([]byte, 1400))
	copy(stray[30:34], []byte{10, 0, 0, 77})
	binary.BigEndian.PutUint16(stray[24:], 0)
	binary.BigEndian.PutUint16(stray[24:], ^checksum.Checksum(stray[14:34], 0))
	ours := [][]byte{stray}
	sink := frame.WriterFunc(func([][]byte) error { return nil })
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: frame.HeaderLen, Payload: buffer.MakeWithData(make([]byte, 1500)),
	})
	defer pkt.DecRef()
	pkt.NetworkProtocolNumber = frame.TypeIPv4
	s.link.AddHeader(pkt)

	for _, row := range []struct {
		name string
		run  func()
	}{
		{"inbound frame for another station", func() { _ = s.WriteFrames(foreign) }},
		{"inbound packet copied and delivered", func() { _ = s.WriteFrames(ours) }},
		{"outbound queue, flatten and write", func() {
			for range batchPackets / 2 {
				_ = s.out.WritePacket(pkt)
			}
			_ = s.out.drain(context.Background(), sink)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := testing.AllocsPerRun(1000, row.run); got != 0 {
				t.Errorf("allocations: got %v, want 0", got)
			}
		})
	}
}
