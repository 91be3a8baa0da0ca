package netstack

import (
	"context"
	"encoding/binary"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"softether-go/pkg/frame"
)

// segment is a TCP packet as gVisor hands it down: of a port, with a sequence number,
// and with more than one segment's payload a super-segment.
func segment(t testing.TB, l *link, port uint16, seq uint32, payload int) *stack.PacketBuffer {
	t.Helper()
	const mss = 1460
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: frame.HeaderLen + 40, Payload: buffer.MakeWithData(make([]byte, payload)),
	})
	t.Cleanup(pkt.DecRef)
	tcp := pkt.TransportHeader().Push(20)
	binary.BigEndian.PutUint16(tcp[0:], port)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12], tcp[13] = 5<<4, 0x10 // no options, ACK
	ip := pkt.NetworkHeader().Push(20)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(40+payload))
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	pkt.NetworkProtocolNumber = frame.TypeIPv4
	l.AddHeader(pkt)
	if payload > mss {
		pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: 16, MSS: mss, L3HdrLen: 20}
	}
	return pkt
}

func portOf(f []byte) uint16 { return binary.BigEndian.Uint16(f[34:]) }
func seqOf(f []byte) uint32  { return binary.BigEndian.Uint32(f[38:]) }

// narrow is a way that always has room for a few frames.
type narrow struct{ room int }

func (n narrow) Unsent() (bytes, room int) { return 0, n.room }
func (narrow) AwaitRoom()                  {}

// newQueue returns one whose hash does not depend on luck.
func newQueue(room int) *outqueue {
	q := newOutqueue(newLink(macA), narrow{room})
	q.hasher.Seed = 42
	return q
}

func TestASmallPacketNeedNotWaitForASuperSegment(t *testing.T) {
	q := newQueue(8 << 10)
	write := func(pkt *stack.PacketBuffer) {
		if err := q.WritePacket(pkt); err != nil {
			t.Fatal(err)
		}
	}
	write(segment(t, q.link, 1, 0, 60000))
	var batches [][]uint16
	var seqs []uint32
	err := q.drain(t.Context(), frame.WriterFunc(func(frames [][]byte) error {
		var ports []uint16
		size := 0
		for _, f := range frames {
			ports = append(ports, portOf(f))
			if portOf(f) == 1 {
				seqs = append(seqs, seqOf(f))
			}
			size += len(f)
		}
		if size > 8<<10+2*quantum {
			t.Errorf("batch %d has %d bytes", len(batches), size)
		}
		if batches = append(batches, ports); len(batches) == 2 {
			write(segment(t, q.link, 1, 60000, 10)) // of the same flow: it stays behind
			write(segment(t, q.link, 2, 0, 60000))  // as large
			write(segment(t, q.link, 3, 0, 10))
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if len(batches) < 5 || batches[2][0] != 3 {
		t.Errorf("a small packet that came while the second batch was written is not the first of the third: %v", batches)
	}
	if !slices.IsSorted(seqs) || len(seqs) != 43 || seqs[42] != 60000 {
		t.Errorf("sequence numbers of the first flow: %v", seqs)
	}
	if got := q.ahead.Load(); got != 1 {
		t.Errorf("%d frames went ahead, want 1", got)
	}
	for i, ports := range batches[:7] {
		if slices.Contains(ports, 2) {
			t.Errorf("batch %d of %v has a super-segment's part before the other is through", i, batches)
		}
	}
}

func TestAWayThatIsFastTakesWholeSuperSegments(t *testing.T) {
	for _, room := range []int{128 << 10, 0} {
		q := newQueue(room)
		for i := range uint16(2) {
			if err := q.WritePacket(segment(t, q.link, i, 0, 60000)); err != nil {
				t.Fatal(err)
			}
		}
		batches := 0
		_ = q.drain(t.Context(), frame.WriterFunc(func([][]byte) error { batches++; return nil }))
		if batches != 1 || q.frames.Load() != 84 {
			t.Errorf("with room for %d: %d frames in %d batches, want 84 in one", room, q.frames.Load(), batches)
		}
	}
}

func TestTheFlowThatHasMostLosesItsOldest(t *testing.T) {
	q := newQueue(8 << 10)
	first := segment(t, q.link, 1, 0, 10)
	if err := q.WritePacket(first); err != nil {
		t.Fatal(err)
	}
	bulk := segment(t, q.link, 2, 0, 1000)
	for range queuePackets + 9 {
		if err := q.WritePacket(bulk); err != nil {
			t.Fatal(err)
		}
	}
	if q.dropped.Load() != 10 || q.length() != queuePackets {
		t.Errorf("%d packets dropped and %d waiting, want 10 and %d", q.dropped.Load(), q.length(), queuePackets)
	}
	got := map[uint16]int{}
	_ = q.drain(t.Context(), frame.WriterFunc(func(frames [][]byte) error {
		for _, f := range frames {
			got[portOf(f)]++
		}
		return nil
	}))
	if got[1] != 1 || got[2] != queuePackets-1 {
		t.Errorf("frames by flow: got %v", got)
	}
}

func TestCutIsContinuedByTheNextRun(t *testing.T) {
	q := newQueue(8 << 10)
	if err := q.WritePacket(segment(t, q.link, 1, 0, 60000)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var seqs []uint32
	note := func(frames [][]byte) {
		for _, f := range frames {
			seqs = append(seqs, seqOf(f))
		}
	}
	_ = q.run(ctx, frame.WriterFunc(func(frames [][]byte) error { note(frames); cancel(); return nil }))
	if n := len(seqs); n == 0 || n >= 42 {
		t.Fatalf("the first run has sent %d frames of 42", n)
	}
	ctx, cancel = context.WithCancel(t.Context())
	_ = q.run(ctx, frame.WriterFunc(func(frames [][]byte) error {
		if note(frames); len(seqs) == 42 {
			cancel()
		}
		return nil
	}))
	cancel()
	if !slices.IsSorted(seqs) || len(seqs) != 42 {
		t.Errorf("sequence numbers: %v", seqs)
	}
}

func TestAModestConnectionPassesTheGate(t *testing.T) {
	c, gate := new(conn), make(chan struct{})
	for i, row := range []struct {
		gate <-chan struct{}
		n    int
		want bool
	}{{gate, 8, true}, {gate, pastGate - 8, true}, {gate, 1, false}, {gate, 1, false}, {make(chan struct{}), 8, true}, {gate, writeChunk, false}} {
		if got := c.modest(row.gate, row.n); got != row.want {
			t.Errorf("write %d, of %d bytes: passes: got %v, want %v", i, row.n, got, row.want)
		}
	}
}
