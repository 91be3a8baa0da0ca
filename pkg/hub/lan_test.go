package hub

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
)

func addr(n int) []byte { return binary.BigEndian.AppendUint32([]byte{2, 0}, uint32(n)) }

var everybody = bytes.Repeat([]byte{0xff}, 6)

// from returns a frame with a text in it.
func from(src, dst []byte, text string) []byte {
	return frametest.Frame(dst, src, 0x88b5, []byte(text))
}

// newTestLAN returns a lan with ports where the stations 1, 2, … have spoken.
func newTestLAN(n int) (*lan, []*port) {
	l := newLAN()
	var ports []*port
	for range n {
		p := newPort()
		l.attach(p)
		ports = append(ports, p)
	}
	for i, p := range ports {
		l.forward(p, [][]byte{from(addr(i+1), everybody, "here")})
	}
	for _, p := range ports {
		p.take(nil)
	}
	return l, ports
}

// queued empties the ports and returns what waited, as text.
func queued(ports []*port) []string {
	var all []string
	for i, p := range ports {
		for _, f := range appendViews(nil, p.take(nil)) {
			all = append(all, fmt.Sprintf("%d: %s", i+1, frame.Payload(f)))
		}
	}
	return all
}

func TestSwitching(t *testing.T) {
	for _, row := range []struct {
		name   string
		port   int // that the frames come from
		frames [][]byte
		want   []string // what waits at which port
	}{
		{"to a known station", 1, [][]byte{from(addr(1), addr(2), "a")}, []string{"2: a"}},
		{"to an unknown station", 1, [][]byte{from(addr(1), addr(9), "a")}, []string{"2: a", "3: a"}},
		{"to everybody", 2, [][]byte{from(addr(2), everybody, "a")}, []string{"1: a", "3: a"}},
		{"to a group", 2, [][]byte{from(addr(2), []byte{1, 0, 0x5e, 0, 0, 1}, "a")}, []string{"1: a", "3: a"}},
		{"a batch to several", 1, [][]byte{from(addr(1), addr(2), "a"), from(addr(1), addr(2), "b"),
			from(addr(1), addr(3), "c"), from(addr(1), addr(2), "d")}, []string{"2: a", "2: b", "2: d", "3: c"}},
		{"several stations at one port", 1, [][]byte{from(addr(1), addr(2), "a"), from(addr(11), addr(2), "b")}, []string{"2: a", "2: b"}},
		{"to a station at the same port", 1, [][]byte{from(addr(11), everybody, "x"), from(addr(1), addr(11), "a")}, []string{"2: x", "3: x"}},
		{"to oneself", 1, [][]byte{from(addr(1), addr(1), "a")}, nil},
		{"from nobody", 1, [][]byte{from(make([]byte, 6), addr(2), "a")}, nil},
		{"from a group", 1, [][]byte{from(everybody, addr(2), "a")}, nil},
		{"too short for a frame", 1, [][]byte{make([]byte, frame.HeaderLen-1), {}, from(addr(1), addr(2), "a")}, []string{"2: a"}},
		{"too long for the tunnel", 1, [][]byte{from(addr(1), addr(2), string(make([]byte, frame.MaxLen))), from(addr(1), addr(2), "a")}, []string{"2: a"}},
		{"a station that has moved", 3, [][]byte{from(addr(1), addr(2), "a"), from(addr(3), addr(1), "b")}, []string{"2: a"}},
		{"nothing", 1, nil, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			l, ports := newTestLAN(3)
			l.forward(ports[row.port-1], row.frames)
			if diff := cmp.Diff(row.want, queued(ports)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestAnswersFollowAStationThatMoved(t *testing.T) {
	l, ports := newTestLAN(3)
	l.forward(ports[2], [][]byte{from(addr(1), everybody, "moved")})
	queued(ports)
	l.forward(ports[1], [][]byte{from(addr(2), addr(1), "a")})
	if got := queued(ports); !cmp.Equal(got, []string{"3: a"}) {
		t.Errorf("got %q", got)
	}
	if ports[0].stations != 0 || ports[2].stations != 2 {
		t.Errorf("%d and %d stations", ports[0].stations, ports[2].stations)
	}
}

func TestSilentStationsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, ports := newTestLAN(3)
		talk := func() []string {
			l.forward(ports[0], [][]byte{from(addr(1), addr(2), "a")})
			return queued(ports)
		}
		time.Sleep((stationAge - 1) * time.Second)
		if got := talk(); len(got) != 1 {
			t.Errorf("before its time: %q", got)
		}
		time.Sleep(time.Second)
		if got := talk(); len(got) != 2 {
			t.Errorf("after its time: %q", got)
		}
		l.forward(ports[0], [][]byte{from(addr(11), addr(2), "b")}) // learning sweeps
		if len(l.table) != 2 || ports[1].stations != 0 {
			t.Errorf("table has %d stations, port 2 has %d", len(l.table), ports[1].stations)
		}
	})
}

func TestOnePortCannotFillTheTable(t *testing.T) {
	l, ports := newTestLAN(2)
	for n := range 3 * maxStations {
		l.forward(ports[0], [][]byte{from(addr(1000+n), addr(2), "a")})
	}
	if n := len(l.table); n != maxStations+1 {
		t.Errorf("%d stations, want %d and the other port's", n, maxStations)
	}
	if l.crowded.Load() == 0 || ports[1].outFrames.Load() != 3*maxStations+1 {
		t.Errorf("%d not learned, %d frames passed", l.crowded.Load(), ports[1].outFrames.Load())
	}
}

func TestAPortThatIsGoneIsForgotten(t *testing.T) {
	l, ports := newTestLAN(3)
	l.detach(ports[1])
	l.forward(ports[1], [][]byte{from(addr(2), addr(1), "from the grave")})
	l.forward(ports[0], [][]byte{from(addr(1), addr(2), "a")})
	if got := queued(ports); !cmp.Equal(got, []string{"3: a"}) {
		t.Errorf("got %q", got)
	}
	if len(l.table) != 2 {
		t.Errorf("%d stations", len(l.table))
	}
}

func TestAFullQueueDropsAndCounts(t *testing.T) {
	l, ports := newTestLAN(3)
	batch := make([][]byte, 64)
	for i := range batch {
		batch[i] = from(addr(1), addr(2), string(make([]byte, 1500)))
	}
	sent := uint64(0)
	for range 2 * maxQueue / (64 * 1500) {
		l.forward(ports[0], batch)
		sent += 64
	}
	got := ports[1].counts()
	if len(ports[1].out) > maxQueue {
		t.Errorf("%d bytes wait, at most %d may", len(ports[1].out), maxQueue)
	}
	if got.DroppedFull == 0 || got.OutFrames-1-1+got.DroppedFull != sent { // two heard the others announce themselves
		t.Errorf("sent %d, counted %+v", sent, got)
	}
	if n := len(appendViews(nil, ports[1].take(nil))); uint64(n) != got.OutFrames-2 {
		t.Errorf("%d frames wait, %d counted", n, got.OutFrames-2)
	}
	l.forward(ports[0], [][]byte{from(addr(1), addr(3), "others are well")})
	if got := queued(ports); !cmp.Equal(got, []string{"3: others are well"}) {
		t.Errorf("got %q", got)
	}
}

func TestSwitchingAllocatesNothing(t *testing.T) {
	l, ports := newTestLAN(3)
	batch := fullBatch(44)
	var spare []byte
	var views [][]byte
	work := func() {
		l.forward(ports[0], batch)
		out := ports[1].take(spare)
		views = appendViews(views[:0], out)
		spare = out
	}
	work()
	work()
	if n := testing.AllocsPerRun(100, work); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
	if len(views) != len(batch) {
		t.Errorf("%d frames of %d arrived", len(views), len(batch))
	}
}

// fullBatch returns n full frames from station 1 to station 2.
func fullBatch(n int) [][]byte {
	batch := make([][]byte, n)
	for i := range batch {
		batch[i] = from(addr(1), addr(2), string(make([]byte, 1500)))
	}
	return batch
}

func BenchmarkSwitch(b *testing.B) {
	l, ports := newTestLAN(8)
	batch := fullBatch(44) // 64 KiB, what one read yields
	var spare []byte
	b.SetBytes(int64(len(batch) * len(batch[0])))
	b.ReportAllocs()
	for b.Loop() {
		l.forward(ports[0], batch)
		spare = ports[1].take(spare)
	}
}

func BenchmarkSwitchSmallFramesToMany(b *testing.B) {
	l, ports := newTestLAN(8)
	var batch [][]byte
	for i := range 64 {
		batch = append(batch, from(addr(1), addr(2+i%7), string(make([]byte, 50))))
	}
	var spare []byte
	b.ReportAllocs()
	for b.Loop() {
		l.forward(ports[0], batch)
		for _, p := range ports[1:] {
			spare = p.take(spare)
		}
	}
	b.ReportMetric(float64(b.N)*64/b.Elapsed().Seconds()/1e6, "Mframes/s")
}

func TestBuffersOfABurstAreGivenBack(t *testing.T) {
	l, ports := newTestLAN(2)
	burst := func(n int, spare []byte) []byte {
		for range n {
			l.forward(ports[0], fullBatch(44))
		}
		return ports[1].take(spare)
	}
	spare := burst(10, burst(10, nil)) // 650 kB in each of the two
	if spare = ports[1].trim(spare); cap(spare) < keptBuffer {
		t.Error("given back in mid-burst")
	}
	spare = burst(1, spare)
	if spare = ports[1].trim(spare); cap(spare) != 0 || cap(ports[1].out) != 0 {
		t.Errorf("kept %d and %d bytes", cap(spare), cap(ports[1].out))
	}
	if spare = ports[1].trim(burst(1, nil)); cap(spare) == 0 {
		t.Error("gave back what is small")
	}
}
