package netstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"softether-go/pkg/frame"
	"softether-go/pkg/offload"
)

// delivered is what gVisor was handed, as one byte string per packet.
type delivered struct {
	stack.NetworkDispatcher
	link    *link
	packets [][]byte
	checked []bool
}

func (d *delivered) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	b := pkt.ToBuffer()
	defer b.Release()
	d.packets = append(d.packets, b.Flatten())
	d.checked = append(d.checked, d.link.Capabilities()&stack.CapabilityRXChecksumOffload != 0)
}

// segments returns n frames of one flow, as a sender with this stack makes them.
func segments(t *testing.T, n, size int) [][]byte {
	t.Helper()
	payload := bytes.Repeat([]byte("0123456789abcdef"), n*size/16+1)[:n*size]
	header := make([]byte, 54)
	frame.PutHeader(header, macA, macB, frame.TypeIPv4)
	ip := header[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	copy(ip[12:], []byte{10, 0, 0, 2, 10, 0, 0, 1})
	tcp := ip[20:]
	tcp[12], tcp[13] = 5<<4, 0x10
	_, frames, err := offload.Split(nil, nil, offload.Super{Header: header, Payload: [][]byte{payload},
		Meta: offload.Meta{GSO: offload.TCPv4, Size: size}})
	if err != nil {
		t.Fatal(err)
	}
	return frames
}

func TestSegmentsInARowAreOnePacket(t *testing.T) {
	l := newLink(net.HardwareAddr(macA))
	d := &delivered{link: l}
	l.Attach(d)
	frames := segments(t, 40, 1460)
	if err := l.deliver(frames); err != nil {
		t.Fatal(err)
	}
	if len(d.packets) != 1 {
		t.Fatalf("%d packets of 40 segments, want 1", len(d.packets))
	}
	if !d.checked[0] {
		t.Error("gVisor would verify again what has been verified")
	}
	var want bytes.Buffer
	for _, f := range frames {
		want.Write(f[54:])
	}
	if got := d.packets[0][54:]; !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the payload of %d bytes is not the %d bytes of the segments", len(got), want.Len())
	}
}

func TestWhatIsWrongIsLeftForGVisorToReject(t *testing.T) {
	l := newLink(net.HardwareAddr(macA))
	d := &delivered{link: l}
	l.Attach(d)
	frames := segments(t, 3, 1000)
	frames[1][60] ^= 1 // its checksum is wrong now
	if err := l.deliver(frames); err != nil {
		t.Fatal(err)
	}
	if len(d.packets) != 3 {
		t.Fatalf("%d packets, want 3: the wrong one between two others", len(d.packets))
	}
	for i, checked := range d.checked {
		if !bytes.Equal(d.packets[i], frames[i]) {
			t.Errorf("packet %d was changed", i)
		}
		if i == 1 && checked {
			t.Error("the wrong one counts as verified")
		}
	}
}

// tapped shows the frames that an endpoint is given.
type tapped struct {
	*Stack
	see func([][]byte)
}

func (w tapped) WriteFrames(frames [][]byte) error {
	w.see(frames)
	return w.Stack.WriteFrames(frames)
}

// Super-segments leave as frames that any receiver takes.
func TestOutboundFramesAreWholeAndVerify(t *testing.T) {
	a, b := newStack(t, macA), newStack(t, macB)
	apply(t, a, prefix("10.0.0.1/24"))
	apply(t, b, prefix("10.0.0.2/24"))
	var frames, longest, wrong int
	cut := join(t, a, tapped{b, func(fs [][]byte) {
		for _, f := range fs {
			frames++
			longest = max(longest, len(f))
			if frame.EtherType(f) == frame.TypeIPv4 && offload.Verify(f) != offload.Correct {
				wrong++
			}
		}
	}})
	client, server := connected(t, a, b)
	done := make(chan string, 1)
	go func() { done <- sum(t, server) }()
	if _, err := io.Copy(client, noise(7, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if err := client.(closeWriter).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, want := <-done, sum(t, noise(7, 4<<20)); got != want {
		t.Errorf("SHA-256 %s, want %s", got, want)
	}
	cut()
	if frames < 2000 || longest < 1400 || longest > 1514 || wrong != 0 {
		t.Errorf("%d frames, the longest of %d bytes, %d with wrong checksums", frames, longest, wrong)
	}
	if st := b.Stats(); st.InboundPackets*2 > st.InboundFrames {
		t.Errorf("%d frames became %d packets: hardly any were glued", st.InboundFrames, st.InboundPackets)
	}
}

func TestAcknowledgementsInARowAreOnePacket(t *testing.T) {
	l := newLink(net.HardwareAddr(macA))
	d := &delivered{link: l}
	l.Attach(d)
	var acks [][]byte
	for i := range byte(5) {
		f := bytes.Clone(segments(t, 1, 16)[0][:54])
		f[14+3], f[14+20+11], f[14+20+16], f[14+20+17] = 40, i, 0, 0 // length, acknowledgement
		clear(f[14+10 : 14+12])
		binary.BigEndian.PutUint16(f[14+10:], ^checksum.Checksum(f[14:34], 0))
		pseudo := append(bytes.Clone(f[26:34]), 0, 6, 0, 20)
		binary.BigEndian.PutUint16(f[34+16:], ^checksum.Checksum(append(pseudo, f[34:]...), 0))
		acks = append(acks, f)
	}
	if err := l.deliver(acks); err != nil {
		t.Fatal(err)
	}
	if len(d.packets) != 1 || !bytes.Equal(d.packets[0], acks[4]) || l.in.thinned.Load() != 4 {
		t.Errorf("%d packets of 5 acknowledgements, %d left out: want the last", len(d.packets), l.in.thinned.Load())
	}
}
