package fairqueue

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"softether-go/pkg/frame"
)

func TestNewcomersGoFirstOnceAndThenTakeTurns(t *testing.T) {
	s := NewSchedule(8, 100)
	left := map[int]int{} // frames of 60 bytes
	send := func(n int) (order []int) {
		for len(order) < n {
			flow, ok := s.Next()
			if !ok {
				break
			}
			if left[flow] == 0 {
				s.Empty(flow)
				continue
			}
			left[flow]--
			s.Spent(flow, 60)
			order = append(order, flow)
		}
		return order
	}
	want := func(what string, got []int, want ...int) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	add := func(flow, frames int) {
		left[flow] += frames
		s.Add(flow)
	}
	add(1, 8)
	want("one alone", send(3), 1, 1, 1) // two for the first quantum
	add(2, 4)
	want("a newcomer is first for its quantum", send(4), 2, 2, 1, 2)
	add(3, 1)
	want("so is a sparse one", send(2), 3, 2)
	add(3, 1)
	if got := send(1); got[0] == 3 {
		t.Error("a flow that has had its turn as a newcomer was let go ahead again at once")
	}
	rest := send(20)
	if n := len(rest); n != 4 {
		t.Errorf("%d frames were left, want 4: %v", n, rest)
	}
	if _, ok := s.Next(); ok {
		t.Error("somebody has a turn although nobody has anything")
	}
	add(3, 1)
	want("idle flows are newcomers again", send(2), 3)
}

func TestANewcomerCanBeSentToTheOthers(t *testing.T) {
	s := NewSchedule(4, 100)
	s.Add(1)
	s.Add(2)
	if flow, ok := s.Ahead(); flow != 1 || !ok {
		t.Fatalf("ahead: got %d, %v, want 1", flow, ok)
	}
	s.Pass(1)
	if flow, ok := s.Ahead(); flow != 2 || !ok {
		t.Fatalf("ahead: got %d, %v, want 2", flow, ok)
	}
	s.Spent(2, 100)
	if _, ok := s.Ahead(); ok {
		t.Error("somebody is ahead whose quantum is spent, or who passed")
	}
	if flow, ok := s.Next(); flow != 1 || !ok {
		t.Errorf("next: got %d, %v, want 1", flow, ok)
	}
}

func TestTheSenderIsToldOftenerTheLongerTheDelayLasts(t *testing.T) {
	var c codel
	told := func(from, to, delay time.Duration, last bool) (n int) {
		for now := from; now < to; now += time.Millisecond {
			if c.tell(now, c.tooLong(now, delay, last)) {
				n++
			}
		}
		return n
	}
	const second = time.Second
	if n := told(second, 2*second, target-1, false); n != 0 {
		t.Errorf("below the target: told %d times", n)
	}
	if n := told(2*second, 3*second, time.Second, true); n != 0 {
		t.Errorf("for the last frame: told %d times", n)
	}
	if n := told(3*second, 3*second+interval, 2*target, false); n != 0 {
		t.Errorf("within an interval: told %d times", n)
	}
	first := told(3*second+interval, 4*second, 2*target, false)
	then := told(4*second, 5*second, 2*target, false)
	if first < 10 || then <= first {
		t.Errorf("told %d times in the first second and %d in the next", first, then)
	}
	if n := told(5*second, 5*second+interval/2, 0, false); n != 0 {
		t.Errorf("once the delay has gone: told %d times", n)
	}
	// It comes back soon: the pace goes on about where it was.
	if again := told(5*second+interval/2, 5*second+5*interval/2, 2*target, false); again < 5 {
		t.Errorf("soon after: told %d times in an interval", again)
	}
}

func TestAStoreReturnsWhatWasPut(t *testing.T) {
	s := newStore(1 << 20)
	var numbers []int32
	for n := 0; ; n++ {
		length := shortest + n*37%(frame.MaxLen-shortest+1)
		i := s.put(udp(uint16(n), uint32(n), length), time.Duration(n))
		if i == none {
			break
		}
		numbers = append(numbers, i)
	}
	if len(numbers) < 600 {
		t.Fatalf("room for %d frames only", len(numbers))
	}
	for n, i := range numbers {
		f := s.frame(i)
		if numberOf(f) != uint32(n) || len(f) != shortest+n*37%(frame.MaxLen-shortest+1) || s.slot(i).arrived != time.Duration(n) {
			t.Fatalf("frame %d: got number %d with %d bytes", n, numberOf(f), len(f))
		}
	}
	for _, i := range numbers {
		s.drop(i)
	}
	for range numbers {
		if s.put(make([]byte, largeChunk), 0) == none {
			break
		}
	}
}

// rewritten returns a copy of f changed by edit.
func rewritten(f []byte, edit func(f []byte)) []byte {
	f = slices.Clone(f)
	edit(f)
	return f
}

// tagged returns f with a VLAN tag.
func tagged(f []byte, tag uint16) []byte {
	return slices.Concat(f[:12], []byte{0x81, 0, byte(tag >> 8), byte(tag)}, f[12:])
}

func udp6(port uint16) []byte {
	f := make([]byte, 80)
	frame.PutHeader(f, []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}, frame.TypeIPv6)
	f[14], f[20], f[21] = 0x60, protoUDP, 64
	f[22], f[37], f[38], f[53] = 0xfd, 1, 0xfd, 2
	binary.BigEndian.PutUint16(f[54:], port)
	return f
}

func TestWhichFramesAreOneFlow(t *testing.T) {
	h := Hasher{42}
	four, six := udp(7, 1, 100), udp6(7)
	fragmented := func(offset byte, port uint16) []byte {
		return rewritten(udp(port, 0, 100), func(f []byte) { f[20], f[21] = 0x20, offset })
	}
	arp := make([]byte, 42)
	frame.PutHeader(arp, four[0:6], four[6:12], frame.TypeARP)
	for _, row := range []struct {
		name string
		a, b []byte
		same bool
	}{
		{"content", four, rewritten(four, func(f []byte) { f[50]++ }), true},
		{"length", four, udp(7, 2, 1514), true},
		{"TTL and identification", four, rewritten(four, func(f []byte) { f[18]++; f[22]++ }), true},
		{"port", four, udp(8, 1, 100), false},
		{"address", four, rewritten(four, func(f []byte) { f[33]++ }), false},
		{"protocol", four, rewritten(four, func(f []byte) { f[23] = protoTCP }), false},
		{"fragments by their addresses", fragmented(0, 7), fragmented(3, 1234), true},
		{"IPv6: content", six, rewritten(six, func(f []byte) { f[70]++ }), true},
		{"IPv6: port", six, udp6(8), false},
		{"IPv6: source", six, rewritten(six, func(f []byte) { f[37]++ }), false},
		{"IPv6: destination", six, rewritten(six, func(f []byte) { f[53]++ }), false},
		{"IPv6: source and destination exchanged", six, rewritten(six, func(f []byte) { f[37], f[53] = 2, 1 }), false},
		{"in a VLAN: content", tagged(four, 5), rewritten(tagged(four, 5), func(f []byte) { f[54]++ }), true},
		{"in a VLAN: port", tagged(four, 5), tagged(udp(8, 1, 100), 5), false},
		{"ARP: content", arp, rewritten(arp, func(f []byte) { f[40]++ }), true},
		{"ARP: sender", arp, rewritten(arp, func(f []byte) { f[11]++ }), false},
	} {
		if got := h.Flow(row.a) == h.Flow(row.b); got != row.same {
			t.Errorf("%s: one flow: got %v, want %v", row.name, got, row.same)
		}
	}
	if h.Flow(four) == (Hasher{43}).Flow(four) {
		t.Error("the seed does not matter")
	}
}

func TestFlowsSpreadOverTheQueues(t *testing.T) {
	h, used := Hasher{42}, map[uint64]bool{}
	for port := range uint16(flows) {
		used[h.Flow(udp(port, 0, 100))%flows] = true
	}
	// As many flows as queues leave 1/e of these empty if they fall at random.
	if n := len(used); n < flows*55/100 || n > flows*72/100 {
		t.Errorf("%d flows fall into %d of %d queues", flows, n, flows)
	}
}

func FuzzFlow(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 14))
	f.Add(udp(7, 1, 100))
	f.Add(udp6(7))
	f.Add(tagged(tagged(udp(7, 1, 100), 5), 6))
	f.Add(udp(7, 1, 100)[:33])
	f.Add(tagged(udp6(7), 5)[:20])
	f.Add(ect(udp(7, 1, 100), 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := Hasher{1}
		before := slices.Clone(b)
		flow := h.Flow(b)
		if !slices.Equal(b, before) {
			t.Fatal("the frame was changed")
		}
		l3, etherType := network(b)
		right := etherType == frame.TypeIPv4 && len(b) >= l3+20 && headerSum(b[l3:l3+20]) == 0xffff
		if !markCE(b) {
			if !slices.Equal(b, before) {
				t.Fatal("a frame that cannot be marked was changed")
			}
			return
		}
		if right && headerSum(b[l3:l3+20]) != 0xffff {
			t.Errorf("the mark spoils the checksum: %x to %x", before[l3:l3+20], b[l3:l3+20])
		}
		if h.Flow(b) != flow {
			t.Error("a marked frame is of another flow")
		}
	})
}
