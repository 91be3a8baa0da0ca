package session

import (
	"context"
	"encoding/binary"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/inet"
)

// segment is a frame with a TCP segment of n bytes of IP.
func segment(n int, change func(ip []byte)) []byte {
	ip := make([]byte, n)
	ip[0], ip[6], ip[9] = 0x45, 0x40, protoTCP
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	copy(ip[20:], []byte{1, 2, 3, 4, 5, 6, 7, 8})
	if change != nil {
		change(ip)
	}
	return frametest.Frame(stationB, stationA, frame.TypeIPv4, ip)
}

// Proves that the sender is told, from whom, about what and how much, once for each
// direction.
func TestSendersOfLongSegmentsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNarrower()
		var end, hub frametest.Pipe
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			n.run(ctx, func() int { return 1361 }, &end, &hub)
		}()
		long := segment(1500, nil)
		n.note(outward, long)
		got := end.Received(t.Context(), 1)[0]
		if who := frame.Dst(got); string(who) != string(stationA) {
			t.Errorf("told %x, want %x", who, []byte(stationA))
		}
		ip := frame.Payload(got)
		icmp := ip[20:]
		if inet.Checksum(ip[:20]) != 0 || inet.Checksum(icmp) != 0 {
			t.Error("a checksum is wrong")
		}
		if string(ip[12:20]) != string([]byte{10, 0, 0, 2, 10, 0, 0, 1}) || icmp[0] != 3 || icmp[1] != 4 || binary.BigEndian.Uint16(icmp[6:]) != 1361 {
			t.Errorf("said: %x", ip)
		}
		if diff := cmp.Diff(frame.Payload(long)[:28], icmp[8:]); diff != "" {
			t.Errorf("quoted (-want +got):\n%s", diff)
		}
		n.note(inward, long)
		hub.Received(t.Context(), 1)
		if got := n.told.Load(); got != 2 {
			t.Errorf("told %d times, want 2", got)
		}
		cancel()
		<-done
	})
}

func TestWhatNobodyIsToldAbout(t *testing.T) {
	for name, f := range map[string][]byte{
		"UDP":                  segment(1500, func(ip []byte) { ip[9] = protoUDP }),
		"may be cut to pieces": segment(1500, func(ip []byte) { ip[6] = 0 }),
		"a fragment":           segment(1500, func(ip []byte) { ip[7] = 9 }),
		"options of IP":        segment(1500, func(ip []byte) { ip[0] = 0x46 }),
		"too short":            segment(1500, nil)[:noticeLen-1],
		"nothing":              nil,
	} {
		if isLongSegment(f) {
			t.Errorf("%s: taken", name)
		}
	}
}
