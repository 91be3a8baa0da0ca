package fairqueue

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/frame"
)

// udp returns a frame of a flow, told by its source port, that carries a number.
func udp(port uint16, number uint32, length int) []byte {
	f := make([]byte, length)
	frame.PutHeader(f, []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}, frame.TypeIPv4)
	ip := frame.Payload(f)
	ip[0], ip[8], ip[9] = 0x45, 64, protoUDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(ip[20:], port)
	binary.BigEndian.PutUint16(ip[22:], 9)
	binary.BigEndian.PutUint32(ip[28:], number)
	return f
}

func portOf(f []byte) uint16   { return binary.BigEndian.Uint16(f[34:]) }
func numberOf(f []byte) uint32 { return binary.BigEndian.Uint32(f[42:]) }

// shortest is the length of a frame that udp can make.
const shortest = 46

// A wire is a way of a certain rate, and the Writer before it: a frame has arrived
// when all bytes up to its last have been sent.
type wire struct {
	rate    float64                      // bytes per second; 0 takes nothing
	most    int                          // room
	arrived func(f []byte, at time.Time) // told of each frame; may be nil
	mu      sync.Mutex                   // guards the fields below
	until   time.Time                    // when all will have been sent
	stuck   int                          // bytes unsent for ever
	batches int
}

func (w *wire) unsent() int {
	left := time.Until(w.until)
	return w.stuck + max(0, int(left.Seconds()*w.rate))
}

func (w *wire) Unsent() (bytes, room int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unsent(), w.most
}

func (w *wire) AwaitRoom() {
	for {
		w.mu.Lock()
		over := w.unsent() - w.most/2
		w.mu.Unlock()
		if over <= 0 || w.rate == 0 {
			return
		}
		time.Sleep(time.Duration(float64(over)/w.rate*float64(time.Second)) + time.Microsecond)
	}
}

// WriteFrames blocks while there is no room, as a socket does.
func (w *wire) WriteFrames(frames [][]byte) error {
	w.AwaitRoom()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batches++
	for _, f := range frames {
		if w.rate == 0 {
			w.stuck += len(f)
			continue
		}
		if now := time.Now(); w.until.Before(now) {
			w.until = now
		}
		w.until = w.until.Add(time.Duration(float64(len(f)) / w.rate * float64(time.Second)))
		if w.arrived != nil {
			w.arrived(f, w.until)
		}
	}
	return nil
}

// newEndpoint returns one whose hash does not depend on luck.
func newEndpoint(end frame.Endpoint, way Path) *Endpoint {
	e := New(end, way)
	e.hasher = Hasher{42}
	return e
}

const mbit = 1e6 / 8 // bytes per second

// A host is an endpoint that sends by functions, each on a goroutine of its own.
type host []func(ctx context.Context, out frame.Writer) error

func (host) WriteFrames([][]byte) error { return nil }

func (h host) Run(ctx context.Context, out frame.Writer) error {
	errs := make(chan error, len(h))
	var senders sync.WaitGroup
	for _, send := range h {
		senders.Go(func() { errs <- send(ctx, out) })
	}
	senders.Wait()
	return <-errs
}

// steady sends a frame of a flow every so often, as long as ctx lasts.
func steady(port uint16, length int, every time.Duration) func(context.Context, frame.Writer) error {
	return func(ctx context.Context, out frame.Writer) error {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := uint32(0); ; n++ {
			if err := out.WriteFrames([][]byte{udp(port, n, length)}); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
}

// bursts sends batches of long frames, as a TAP does of super-frames.
func bursts(port uint16, frames int, every time.Duration) func(context.Context, frame.Writer) error {
	return func(ctx context.Context, out frame.Writer) error {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := uint32(0); ; {
			batch := make([][]byte, frames)
			for i := range batch {
				batch[i] = udp(port, n, 1514)
				n++
			}
			if err := out.WriteFrames(batch); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
}

// runFor runs e over w for a while and returns what is counted.
func runFor(t *testing.T, e *Endpoint, w frame.Writer, d time.Duration) Stats {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := e.Run(ctx, w); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run: got %v, want the end of its context", err)
	}
	return e.Stats()
}

const bulkPort, callPort = 1000, 2000

// A bulk flow of twice the rate, in bursts of 64 KiB, beside a call: what the queue is for.
func TestACallIsNotDelayedByABulkFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var worst, worstBulk time.Duration
		calls, begun := 0, time.Now()
		const burst, every = 45, 45 * 1514 * time.Second / (100 * mbit)
		w := &wire{rate: 50 * mbit, most: 12 << 10}
		w.arrived = func(f []byte, at time.Time) {
			if portOf(f) == callPort {
				worst = max(worst, at.Sub(begun.Add(time.Duration(numberOf(f))*10*time.Millisecond)))
				calls++
			} else {
				worstBulk = max(worstBulk, at.Sub(begun.Add(time.Duration(numberOf(f)/burst)*every)))
			}
		}
		e := newEndpoint(host{
			bursts(bulkPort, burst, every),
			steady(callPort, 100, 10*time.Millisecond),
		}, w)
		s := runFor(t, e, w, 5*time.Second)
		// In the way of a call are what is unsent, 12 KiB, and a full frame of the bulk
		// flow before it in the batch; 6 ms are thrice that.
		if worst > 6*time.Millisecond {
			t.Errorf("the call was delayed by up to %v", worst)
		}
		if calls < 490 {
			t.Errorf("of the call's 500 frames %d came through", calls)
		}
		if worstBulk < 50*time.Millisecond || s.DroppedDelay == 0 {
			t.Errorf("the bulk flow had to wait %v at most, %+v: there was nothing to be fair about", worstBulk, s)
		}
	})
}

func TestFlowsShareTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := map[uint16]int{}
		w := &wire{rate: 50 * mbit, most: 12 << 10, arrived: func(f []byte, _ time.Time) { got[portOf(f)] += len(f) }}
		e := newEndpoint(host{
			bursts(1, 45, 5*time.Millisecond), bursts(2, 45, 10*time.Millisecond), // 109 and 54 Mbit/s
			steady(3, 1514, time.Millisecond), // 12 Mbit/s: less than a third
		}, w)
		runFor(t, e, w, 5*time.Second)
		total := got[1] + got[2] + got[3]
		if half := float64(got[1]) / float64(got[1]+got[2]); half < 0.45 || half > 0.55 {
			t.Errorf("two greedy flows got %d and %d bytes", got[1], got[2])
		}
		if want := 4900 * 1514; got[3] < want {
			t.Errorf("the modest flow got %d bytes, want at least %d", got[3], want)
		}
		if rate := float64(total) / 5 / mbit; rate < 49 {
			t.Errorf("the way was used for %.1f Mbit/s of 50", rate)
		}
	})
}

func TestOrderWithinAFlowIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last, n := map[uint16]uint32{}, 0
		w := &wire{rate: 120 * mbit, most: 12 << 10, arrived: func(f []byte, _ time.Time) {
			port, number := portOf(f), numberOf(f)
			if before, ok := last[port]; ok && number <= before {
				t.Errorf("flow %d: frame %d after %d", port, number, before)
			}
			last[port] = number
			n++
		}}
		e := newEndpoint(host{
			bursts(1, 30, 10*time.Millisecond), bursts(2, 60, 15*time.Millisecond),
			steady(3, 200, 300*time.Microsecond), steady(4, 900, time.Millisecond),
		}, w)
		s := runFor(t, e, w, 2*time.Second)
		if s.DirectFrames == 0 || s.QueuedFrames == 0 || n == 0 {
			t.Errorf("not both ways were taken: %+v", s)
		}
	})
}

func TestEveryFrameIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent, arrived := uint64(0), uint64(0)
		var mu sync.Mutex
		counted := func(send func(context.Context, frame.Writer) error) func(context.Context, frame.Writer) error {
			return func(ctx context.Context, out frame.Writer) error {
				return send(ctx, frame.WriterFunc(func(frames [][]byte) error {
					mu.Lock()
					sent += uint64(len(frames))
					mu.Unlock()
					return out.WriteFrames(frames)
				}))
			}
		}
		w := &wire{rate: 10 * mbit, most: 8 << 10, arrived: func([]byte, time.Time) { arrived++ }}
		e := newEndpoint(host{counted(bursts(1, 64, 2*time.Millisecond)), counted(steady(2, 100, time.Millisecond)), counted(steady(3, frame.MaxLen+1, 10*time.Millisecond))}, w)
		s := runFor(t, e, w, 2*time.Second)
		if s.DirectFrames+s.QueuedFrames != arrived {
			t.Errorf("written: counted %d and %d, but %d arrived", s.DirectFrames, s.QueuedFrames, arrived)
		}
		if sum := arrived + s.DroppedDelay + s.DroppedFull + s.DroppedEnded + s.DroppedMalformed; sum != sent {
			t.Errorf("sum: got %d of %d frames, %+v", sum, sent, s)
		}
		if s.DroppedDelay == 0 || s.DroppedFull == 0 || s.DroppedEnded == 0 || s.DroppedMalformed == 0 {
			t.Errorf("not every reason occurred: %+v", s)
		}
		if s.WaitingFrames != 0 || s.WaitingBytes != 0 || e.held != 0 {
			t.Errorf("something is left: %+v, %d bytes of chunks", s, e.held)
		}
	})
}

func TestWhatWaitsIsBounded(t *testing.T) {
	for _, length := range []int{shortest, smallChunk, smallChunk + 1, frame.MaxLen} {
		e := newEndpoint(host{}, &wire{most: 8 << 10})
		e.dst = &wire{}
		e.busy = true // somebody writes, and never comes back
		batch := make([][]byte, 100)
		for n := uint32(0); n < 400; n++ {
			for i := range batch {
				batch[i] = udp(uint16(i%7), n, length)
			}
			if err := e.push(batch); err != nil {
				t.Fatal(err)
			}
		}
		s, memory := e.Stats(), 0
		for _, k := range []shelf{e.store.small, e.store.large} {
			for _, b := range k.blocks {
				memory += len(b)
			}
		}
		if s.DroppedFull == 0 || s.WaitingFrames == 0 || uint64(s.WaitingFrames)+s.DroppedFull != 400*100 {
			t.Errorf("frames of %d bytes: %+v", length, s)
		}
		if e.held > maxQueued || memory > maxQueued {
			t.Errorf("frames of %d bytes: %d bytes held in %d of memory, want %d at most", length, e.held, memory, maxQueued)
		}
	}
}

func TestTheFlowThatHasMostLoses(t *testing.T) {
	e := newEndpoint(host{}, &wire{most: 8 << 10})
	e.busy = true
	modest := [][]byte{udp(callPort, 0, 200), udp(callPort, 1, 200), udp(callPort, 2, 200)}
	for n := range uint32(4000) {
		if n%1000 == 0 {
			if err := e.push(modest); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.push([][]byte{udp(bulkPort, n, 1514)}); err != nil {
			t.Fatal(err)
		}
	}
	q := &e.flows[e.hasher.Flow(modest[0])%flows]
	if want := 4 * 3 * 200; q.bytes != want || e.Stats().DroppedFull == 0 {
		t.Errorf("the modest flow has %d of %d bytes, %+v", q.bytes, want, e.Stats())
	}
}

// ect sets a codepoint of ECN and the header's checksum.
func ect(f []byte, ecn byte) []byte {
	ip := frame.Payload(f)
	ip[1] |= ecn
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^headerSum(ip[:20]))
	return f
}

// headerSum is the ones' complement sum.
func headerSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestCongestionIsMarkedWhereItIsUnderstood(t *testing.T) {
	for _, row := range []struct {
		name string
		ecn  byte
		mark bool
	}{{"not capable", 0, false}, {"ECT(0)", 2, true}, {"ECT(1)", 1, true}, {"marked already", 3, true}} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				marked := uint64(0)
				w := &wire{rate: 50 * mbit, most: 12 << 10, arrived: func(f []byte, _ time.Time) {
					ip := frame.Payload(f)
					if ip[1]&3 == 3 {
						marked++
					}
					if headerSum(ip[:20]) != 0xffff {
						t.Errorf("header checksum of %x is wrong", ip[:20])
					}
				}}
				e := newEndpoint(host{func(ctx context.Context, out frame.Writer) error {
					tick := time.NewTicker(time.Millisecond)
					defer tick.Stop()
					for n := range uint32(400) {
						var batch [][]byte
						for range 5 { // 60 Mbit/s
							batch = append(batch, ect(udp(1, n, 1514), row.ecn))
						}
						if err := out.WriteFrames(batch); err != nil {
							return err
						}
						<-tick.C
					}
					<-ctx.Done()
					return ctx.Err()
				}}, w)
				s := runFor(t, e, w, 2*time.Second)
				if row.mark && (s.Marked == 0 || s.DroppedDelay > 0 || row.ecn != 3 && marked != s.Marked) {
					t.Errorf("%d frames came marked, want some and none dropped: %+v", marked, s)
				}
				if !row.mark && (s.Marked > 0 || marked > 0 || s.DroppedDelay == 0) {
					t.Errorf("%d frames came marked, want none and some dropped: %+v", marked, s)
				}
			})
		})
	}
}

func TestABatchPassesAsItIsWhileTheWayKeepsUp(t *testing.T) {
	w := &wire{rate: 1e12, most: 128 << 10}
	var got [][]byte
	e := newEndpoint(host{}, w)
	e.dst = frame.WriterFunc(func(frames [][]byte) error { got = frames; return nil })
	batch := [][]byte{udp(1, 0, 1514), udp(2, 0, 60)}
	if err := e.push(batch); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || &got[0] != &batch[0] {
		t.Error("the batch was not passed on as it is")
	}
	if s := e.Stats(); s.DirectBatches != 1 || s.QueuedFrames != 0 {
		t.Errorf("counters: %+v", s)
	}
}

// unknown is a way that nothing is known of.
type unknown struct{}

func (unknown) Unsent() (bytes, room int) { return 0, 0 }
func (unknown) AwaitRoom()                {}

func TestAWayThatNothingIsKnownOfIsUsedAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		w := &wire{rate: 50 * mbit, most: 1, arrived: func([]byte, time.Time) { n++ }}
		s := runFor(t, newEndpoint(host{steady(1, 500, time.Millisecond)}, unknown{}), w, time.Second)
		if n < 999 || s.DirectFrames != 0 {
			t.Errorf("%d frames of 1000 arrived, %+v", n, s)
		}
	})
}

// late is a way that has room but of which AwaitRoom does not say so until told to.
type late struct{ *wire }

func (l late) AwaitRoom() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.stuck >= 0 {
		l.mu.Unlock()
		time.Sleep(time.Millisecond)
		l.mu.Lock()
	}
}

func TestTheEndpointStandsBackForTheWriterButNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{most: 8 << 10, stuck: 8 << 10}
		e := newEndpoint(host{func(ctx context.Context, out frame.Writer) error {
			push := func() time.Duration {
				begun := time.Now()
				if err := out.WriteFrames([][]byte{udp(1, 0, 1514)}); err != nil {
					t.Error(err)
				}
				return time.Since(begun)
			}
			set := func(stuck int) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.stuck = stuck
			}
			if d := push(); d != 0 {
				t.Errorf("with a full way: waited %v", d)
			}
			synctest.Wait() // until the writer waits for room
			set(0)
			if d := push(); d != giveWay {
				t.Errorf("with room that the writer does not hear of: waited %v, want %v", d, giveWay)
			}
			time.AfterFunc(giveWay/4, func() { set(-1) })
			if d := push(); d > giveWay {
				t.Errorf("with a writer that goes on: waited %v", d)
			}
			<-ctx.Done()
			return ctx.Err()
		}}, late{w})
		if s := runFor(t, e, w, time.Second); s.QueuedFrames != 3 {
			t.Errorf("counters: %+v", s)
		}
	})
}

var errGone = errors.New("gone")

func TestRunReturnsWhatEndedIt(t *testing.T) {
	fails := func(after int) frame.Writer {
		return frame.WriterFunc(func(frames [][]byte) error {
			if after--; after < 0 {
				return errGone
			}
			return nil
		})
	}
	waits := func(ctx context.Context, _ frame.Writer) error { <-ctx.Done(); return ctx.Err() }
	ended := func(context.Context, frame.Writer) error { return errGone }
	for _, row := range []struct {
		name string
		host host
		way  Path
		dst  frame.Writer
		want error
	}{
		{"the writer fails on the endpoint's goroutine", host{steady(1, 100, time.Millisecond)}, &wire{rate: 1e9, most: 1 << 20}, fails(3), errGone},
		{"the writer fails on ours", host{steady(1, 100, time.Millisecond)}, unknown{}, fails(3), errGone},
		{"the endpoint ends", host{ended}, unknown{}, fails(3), errGone},
		{"the context ends", host{waits}, unknown{}, fails(3), context.DeadlineExceeded},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEndpoint(row.host, row.way)
				for range 2 { // it may run again
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					if err := e.Run(ctx, row.dst); !errors.Is(err, row.want) {
						t.Errorf("got %v, want %v", err, row.want)
					}
					cancel()
				}
			})
		})
	}
}

func TestNothingStaleIsSentByTheNextRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(host{bursts(1, 45, time.Millisecond)}, &wire{most: 8 << 10})
		stuck, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_ = e.Run(stuck, frame.WriterFunc(func([][]byte) error { <-stuck.Done(); return stuck.Err() }))
		before := e.Stats()
		if before.DroppedEnded == 0 || before.WaitingFrames != 0 || e.store.large.blocks != nil {
			t.Errorf("after the first run: %+v, %d blocks", before, len(e.store.large.blocks))
		}
		e.Endpoint = host{steady(7, 100, time.Second)}
		var got []uint16
		e.way = &wire{rate: 50 * mbit, most: 8 << 10}
		runFor(t, e, frame.WriterFunc(func(frames [][]byte) error {
			for _, f := range frames {
				got = append(got, portOf(f))
			}
			return nil
		}), 500*time.Millisecond)
		if len(got) != 1 || got[0] != 7 {
			t.Errorf("the second run sent frames of flows %v, want one of 7", got)
		}
	})
}

func TestManyMaySendAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arrived := uint64(0)
		w := &wire{rate: 100 * mbit, most: 16 << 10, arrived: func([]byte, time.Time) { arrived++ }}
		var h host
		for port := range uint16(16) {
			h = append(h, bursts(port, 20, 10*time.Millisecond))
		}
		e := newEndpoint(h, w)
		for range 3 {
			runFor(t, e, w, 300*time.Millisecond)
		}
		if s := e.Stats(); arrived == 0 || arrived != s.DirectFrames+s.QueuedFrames {
			t.Errorf("%d frames arrived, %+v", arrived, s)
		}
	})
}

func TestNothingIsAllocated(t *testing.T) {
	batch := make([][]byte, 64)
	for i := range batch {
		batch[i] = udp(uint16(i%3), 0, 1514)
	}
	sink := frame.WriterFunc(func([][]byte) error { return nil })
	for _, row := range []struct {
		name string
		room int
	}{{"direct", 1 << 20}, {"queued", 48 << 10}} {
		w := &wire{rate: 1e15, most: row.room}
		e := newEndpoint(host{}, w)
		e.dst = sink
		run := func() { _ = e.push(batch) }
		run() // the store comes with the first
		if got := testing.AllocsPerRun(100, run); got != 0 {
			t.Errorf("%s: %v allocations a batch, want 0", row.name, got)
		}
		s := e.Stats()
		if (row.name == "queued") != (s.DirectFrames == 0) || s.WaitingFrames != 0 {
			t.Errorf("%s: %+v", row.name, s)
		}
	}
}

func BenchmarkPush(b *testing.B) {
	for _, row := range []struct {
		name string
		room int
	}{{"direct", 1 << 20}, {"queued", 48 << 10}} {
		b.Run(row.name, func(b *testing.B) {
			batch := make([][]byte, 64)
			for i := range batch {
				batch[i] = udp(1, 0, 1514)
			}
			e := newEndpoint(host{}, &wire{rate: 1e15, most: row.room})
			e.dst = frame.WriterFunc(func([][]byte) error { return nil })
			b.SetBytes(int64(len(batch)) * 1514)
			b.ReportAllocs()
			for b.Loop() {
				_ = e.push(batch)
			}
		})
	}
}
