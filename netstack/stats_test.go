package netstack

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
)

// packetTo returns a frame with an IP packet from 10.0.0.2, with a right header.
func packetTo(to string, protocol byte, payload []byte) []byte {
	ip := make([]byte, 20, 20+len(payload))
	ip[0], ip[8], ip[9] = 0x45, 64, protocol
	copy(ip[12:], []byte{10, 0, 0, 2})
	copy(ip[16:], netip.MustParseAddr(to).AsSlice())
	ip = append(ip, payload...)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip[:20], 0))
	return frametest.Frame(macA, macB, frame.TypeIPv4, ip)
}

// udpTo returns a datagram to a port. A checksum of 0 is none, others are wrong.
func udpTo(port, checksum uint16, payload ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 9)
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(binary.BigEndian.AppendUint16(b, checksum), payload...)
}

// synTo returns a segment to a port, whose checksum is wrong and whose data begins
// at an offset in words.
func synTo(port uint16, words byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 9)
	binary.BigEndian.PutUint16(b[2:], port)
	b[12], b[13] = words<<4, 2
	return b
}

// Every reason for a drop in gVisor that can be caused from outside shows.
func TestPacketsThatGVisorDropsAreCounted(t *testing.T) {
	const ours, others, udp, tcp = "10.0.0.1", "10.0.0.77", 17, 6
	badIP := packetTo(ours, udp, udpTo(7, 0))
	badIP[24]++ // its checksum
	for _, row := range []struct {
		name  string
		frame []byte
		count func(Stats) uint64
	}{
		{"a header's checksum", badIP, func(s Stats) uint64 { return s.InboundBadIP }},
		{"another's address", packetTo(others, udp, udpTo(7, 0)), func(s Stats) uint64 { return s.InboundNotOurIP }},
		{"a datagram's checksum", packetTo(ours, udp, udpTo(7, 1)), func(s Stats) uint64 { return s.InboundBadUDP }},
		{"a short datagram", packetTo(ours, udp, make([]byte, 7)), func(s Stats) uint64 { return s.InboundTruncated }},
		{"a port of nobody", packetTo(ours, udp, udpTo(8, 0)), func(s Stats) uint64 { return s.InboundNoUDPPort }},
		{"a segment's checksum", packetTo(ours, tcp, synTo(7, 5)), func(s Stats) uint64 { return s.InboundBadTCP }},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStack(t, macA)
			apply(t, s, prefix(ours+"/24"))
			pc, err := s.ListenPacket(netip.MustParseAddrPort("0.0.0.0:7"))
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			listen(t, s, "0.0.0.0:7")
			send(t, s, row.frame)
			waitFor(t, "the drop", s, func(st Stats) bool { return row.count(st) == 1 })
			st := s.Stats()
			if all := st.InboundBadIP + st.InboundNotOurIP + st.InboundBadUDP + st.InboundNoUDPPort + st.InboundBadTCP + st.InboundTruncated; all != 1 {
				t.Errorf("%d drops counted, want 1 (%+v)", all, st)
			}
		})
	}
}

// waitFor waits for what gVisor's own goroutines count.
func waitFor(t *testing.T, what string, s *Stack, done func(Stats) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(s.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s is not counted: %+v", what, s.Stats())
		}
	}
}

func TestDatagramsThatNobodyReadsAreCounted(t *testing.T) {
	s := newStack(t, macA)
	apply(t, s, prefix("10.0.0.1/24"))
	pc, err := s.ListenPacket(netip.MustParseAddrPort("0.0.0.0:7"))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	f := packetTo("10.0.0.1", 17, udpTo(7, 0, make([]byte, 1400)...))
	const sent = 2000 // 2.8 MB; the buffer has one
	for range sent {
		send(t, s, f)
	}
	if got := s.Stats().InboundUDPFull; got == 0 || got >= sent {
		t.Errorf("got %d, want some of %d", got, sent)
	}
}

func TestConnectionsAreCounted(t *testing.T) {
	a, b := pair(t)
	connected(t, a, b)
	if _, err := a.DialContext(t.Context(), "tcp", "10.0.0.2:81"); err == nil {
		t.Fatal("somebody listens at port 81")
	}
	st := a.Stats()
	if st.TCPConnects != 2 || st.TCPFailed != 1 || st.TCPEstablished != 1 {
		t.Errorf("got %d dials, %d failed, %d established; want 2, 1, 1", st.TCPConnects, st.TCPFailed, st.TCPEstablished)
	}
}

func TestSupersAndBatchesAreCounted(t *testing.T) {
	s := newStack(t, macA)
	apply(t, s, prefix("10.0.0.1/24"))
	send(t, s, append(segments(t, 40, 1460), echoRequest([]byte("ping")))...)
	st := s.Stats()
	if st.InboundBatches != 1 || st.InboundFrames != 41 || st.InboundPackets != 2 || st.InboundSupers != 1 || st.InboundSegments != 40 {
		t.Errorf("got %+v, want 41 frames in 1 batch and 2 packets, one of them of 40 segments", st)
	}
	a, b := pair(t)
	client, server := connected(t, a, b)
	transfer(t, server, client, 8<<20)
	if st := a.Stats(); st.OutboundPackets == 0 || st.OutboundPackets*2 > st.OutboundFrames {
		t.Errorf("got %d packets for %d frames, want far fewer", st.OutboundPackets, st.OutboundFrames)
	}
}
