package session

import (
	"encoding/binary"
	"testing"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/wire"
)

// packetOf is an IPv4 packet between hosts a and b from and to a port.
func packetOf(proto byte, a, b byte, from, to uint16) []byte {
	p := make([]byte, 40)
	p[0], p[9], p[15], p[19] = 0x45, proto, a, b
	binary.BigEndian.PutUint16(p[20:], from)
	binary.BigEndian.PutUint16(p[22:], to)
	return p
}

func TestFramesOfAFlowShareItsNumber(t *testing.T) {
	v4 := func(p []byte) []byte { return frametest.Frame(stationB, stationA, frame.TypeIPv4, p) }
	v6 := func(next byte, last byte, port uint16) []byte {
		p := make([]byte, 60)
		p[0], p[6], p[39] = 0x60, next, last
		binary.BigEndian.PutUint16(p[40:], port)
		return frametest.Frame(stationB, stationA, frame.TypeIPv6, p)
	}
	one := v4(packetOf(protoTCP, 1, 2, 1000, 80))
	again := v4(packetOf(protoTCP, 1, 2, 1000, 80))
	again[len(again)-1], again[frame.HeaderLen+5] = 9, 9 // the content and the packet's number are no matter
	if flowOf(one) != flowOf(again) {
		t.Error("frames of one flow differ")
	}
	others := map[string][]byte{
		"another port":     v4(packetOf(protoTCP, 1, 2, 1001, 80)),
		"another host":     v4(packetOf(protoTCP, 1, 3, 1000, 80)),
		"another protocol": v4(packetOf(protoUDP, 1, 2, 1000, 80)),
		"IPv6":             v6(protoTCP, 1, 1000),
		"another of IPv6":  v6(protoTCP, 1, 1001),
		"no IP":            frametest.Frame(stationB, stationA, frame.TypeARP, make([]byte, 28)),
	}
	seen := map[uint32]string{flowOf(one): "the first"}
	for name, f := range others {
		if other := seen[flowOf(f)]; other != "" {
			t.Errorf("%s is taken for %s", name, other)
		}
		seen[flowOf(f)] = name
	}
	first, second := packetOf(protoUDP, 1, 2, 1000, 80), packetOf(protoUDP, 1, 2, 7, 7)
	first[6], second[7] = 0x20, 0x10 // more fragments; a later one, without ports
	if flowOf(v4(first)) != flowOf(v4(second)) {
		t.Error("fragments of a packet may go different ways")
	}
}

func TestSpreadingDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		return // make unit runs this test without the detector too
	}
	var d spreader
	var links []*link
	for range 4 {
		links = append(links, &link{dir: wire.BothWays})
	}
	o := newOutbound(links, false)
	var batch [][]byte
	for n := range uint16(64) {
		batch = append(batch, frametest.Frame(stationB, stationA, frame.TypeIPv4, packetOf(protoTCP, 1, 2, n, 80)))
	}
	d.recycle(d.split(o, batch))
	if a := testing.AllocsPerRun(200, func() { d.recycle(d.split(o, batch)) }); a >= 1 { // the pool may be emptied now and then
		t.Errorf("%v allocations a batch of %d frames", a, len(batch))
	}
}

// A flow stays where it is while it speaks, however links come and go, unless its own
// goes.
func TestAFlowMovesOnlyIfItMust(t *testing.T) {
	var d spreader
	a, b, c := &link{}, &link{}, &link{}
	now := int64(time.Hour)
	step := int64(flowPause) / 2
	for hash := range uint32(100) {
		first := d.choose([]*link{a, b}, hash, now)
		if got := d.choose([]*link{a, b, c}, hash, now+step); got != first {
			t.Errorf("flow %d moved to a link that was added", hash)
		}
		left := []*link{b, c}
		if first == b {
			left = []*link{a, c}
		}
		moved := d.choose(left, hash, now+2*step)
		if moved == first {
			t.Errorf("flow %d stays on a dead link", hash)
		}
		if got := d.choose([]*link{a, b, c}, hash, now+3*step); got != moved {
			t.Errorf("flow %d moved back at once", hash)
		}
	}
	used := map[*link]int{}
	for hash := range uint32(99) {
		used[d.choose([]*link{a, b, c}, hash, now+10*int64(flowPause))]++
	}
	if used[a] != 33 || used[b] != 33 || used[c] != 33 {
		t.Errorf("after a pause the flows are %v", used)
	}
}

// FuzzFlow checks that no frame is too odd, and that a flow's number depends on
// nothing that changes from packet to packet.
func FuzzFlow(f *testing.F) {
	f.Add(frametest.Frame(stationB, stationA, frame.TypeIPv4, packetOf(protoTCP, 1, 2, 3, 4)), byte(7))
	f.Add(frametest.Frame(stationB, stationA, frame.TypeIPv6, make([]byte, 44)), byte(1))
	f.Add([]byte{1, 2, 3}, byte(0))
	f.Fuzz(func(t *testing.T, in []byte, id byte) {
		before := flowOf(in)
		urgent := isUrgent(in)
		if len(in) >= frame.HeaderLen+20 && frame.EtherType(in) == frame.TypeIPv4 {
			in = append([]byte(nil), in...)
			in[frame.HeaderLen+5] = id // of the packet
			if flowOf(in) != before || isUrgent(in) != urgent {
				t.Error("another packet of the flow goes another way")
			}
		}
	})
}
