package fairqueue

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"softether-go/pkg/frame"
)

const (
	// flows is how many are told apart. Two share one with a chance of 1 in 1024, as in
	// Linux (net/sched/sch_fq_codel.c) and RFC 8290, 5.2.
	flows = 1024

	// quantum is what a flow may send in a turn: a frame of the usual MTU (RFC 8290, 5.2.1).
	quantum = 1514

	// maxQueued bounds what waits, in bytes of frames' chunks: a third of a second at
	// 50 Mbit/s, far more than CoDel lets stand, for what comes before it is heard.
	maxQueued = 2 << 20

	// maxBatch is what is written at once when the way is fast: six full TLS records.
	maxBatch = 96 << 10

	// minBatch is the least that is worth a write: a frame and its framing.
	minBatch = 1600

	// defaultRoom is what may wait unsent on a way that nothing is known of: 5 ms at
	// 50 Mbit/s.
	defaultRoom = 32 << 10

	// giveWay bounds how long the endpoint's goroutine stands back for the writer's.
	giveWay = time.Millisecond

	// dropBurst bounds how many frames are dropped at once for want of room.
	dropBurst = 64
)

// A Path is what an Endpoint knows of the way it sends by. Its methods may be called
// from several goroutines.
type Path interface {
	// Unsent returns how many bytes have been written below the Writer and not been
	// sent for the first time yet, and how many may be: as many as keep the way busy,
	// and few enough that new ones need not wait long behind them. What fits into the
	// difference is taken without blocking. It does not block and is called once a
	// batch. Both are 0 if nothing is known.
	Unsent() (bytes, room int)

	// AwaitRoom blocks until no more than half of room is unsent, or for no time if
	// nothing is known.
	AwaitRoom()
}

// Stats counts frames since New. Each that is dropped is counted once, by the reason.
type Stats struct {
	DirectFrames, DirectBatches uint64 // written as they came
	QueuedFrames, QueuedBatches uint64 // that waited, and the batches that they left in
	Marked                      uint64 // congestion told by ECN; these frames are not dropped
	DroppedDelay                uint64 // congestion told by a loss (CoDel)
	DroppedFull                 uint64 // no room: of the flow that has most
	DroppedEnded                uint64 // the session ended while they waited
	DroppedMalformed            uint64 // longer than a frame can be
	WaitingFrames, WaitingBytes int    // now
	PeakBytes                   int    // most of WaitingBytes
}

// An Endpoint is another one whose outbound frames queue.
type Endpoint struct {
	frame.Endpoint // the other one

	way    Path
	hasher Hasher
	begun  time.Time

	wake    chan struct{} // buffered token: the writer is needed
	resumed chan struct{} // buffered token: the writer has done waiting

	mu       sync.Mutex // guards the fields below
	dst      frame.Writer
	err      error // dst's
	busy     bool  // somebody is in dst.WriteFrames, or the writer waits for room
	waiting  bool  // it is the latter
	schedule *Schedule
	flows    [flows]flow
	store    store
	frames   int // that wait
	held     int // bytes of chunks, of those that wait or are being written
	taken    []int32
	batch    [][]byte // what is taken, while it is being written
	stats    Stats
}

// A flow is a queue of frames.
type flow struct {
	head, tail int32 // none if empty
	bytes      int
	codel      codel
}

// New returns end with a queue behind it.
func New(end frame.Endpoint, way Path) *Endpoint {
	e := &Endpoint{
		Endpoint: end,
		way:      way,
		hasher:   Hasher{rand.Uint64()},
		begun:    time.Now(),
		wake:     make(chan struct{}, 1),
		resumed:  make(chan struct{}, 1),
		schedule: NewSchedule(flows, quantum),
		store:    newStore(maxQueued),
	}
	for i := range e.flows {
		e.flows[i].head, e.flows[i].tail = none, none
	}
	return e
}

// Stats returns the counters so far.
func (e *Endpoint) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.WaitingFrames = e.frames
	return s
}

// Run hands the endpoint's frames to dst; see frame.Endpoint. What waits when it ends
// is dropped.
func (e *Endpoint) Run(ctx context.Context, dst frame.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.mu.Lock()
	e.dst, e.err = dst, nil
	e.mu.Unlock()
	var writer sync.WaitGroup
	writer.Go(func() {
		e.write(ctx)
		cancel() // if it was dst that failed
	})
	err := e.Endpoint.Run(ctx, frame.WriterFunc(e.push))
	cancel()
	writer.Wait()
	return e.end(err)
}

// end drops what waits, and returns why Run ends.
func (e *Endpoint) end(err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.DroppedEnded += uint64(e.frames)
	for i := range e.flows {
		for f := &e.flows[i]; f.head != none; {
			e.free(e.shift(f))
		}
	}
	e.dst = nil
	e.store = newStore(maxQueued) // until it is needed again
	if e.err != nil {
		return e.err
	}
	return err
}

// push takes the endpoint's frames. It does not wait for dst: it writes only what the
// way takes at once.
func (e *Endpoint) push(frames [][]byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return e.err
	}
	unsent, room := e.path()
	if e.frames == 0 && !e.busy && unsent+size(frames) <= room {
		e.stats.DirectFrames += uint64(len(frames))
		e.stats.DirectBatches++
		e.hand(frames)
	} else {
		e.enqueue(frames)
	}
	for e.frames > 0 && !e.busy && e.err == nil {
		if unsent, room = e.path(); unsent > room/2 {
			break
		}
		e.handBatch(room - unsent)
	}
	switch {
	case e.frames > 0 && !e.busy:
		token(e.wake)
	case e.waiting && unsent <= room/2:
		e.standBack()
	}
	return e.err
}

// token puts one into c unless there is one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// standBack lets the writer go on, as the way has room again. With one processor it
// would not hear of that as long as the endpoint always has more to send: only a
// goroutine that waits makes the scheduler ask the poller. The caller holds mu, which
// is free meanwhile.
func (e *Endpoint) standBack() {
	e.mu.Unlock()
	limit := time.NewTimer(giveWay)
	select {
	case <-e.resumed:
	case <-limit.C:
	}
	limit.Stop()
	e.mu.Lock()
}

// size returns the length of frames with what carries them.
func size(frames [][]byte) int {
	const each = 4 // Cedar/Connection.c, SendDataWithTCP; TLS adds some 22 for 16 KiB
	n := each * len(frames)
	for _, f := range frames {
		n += len(f)
	}
	return n
}

// path returns what is known of the way.
func (e *Endpoint) path() (unsent, room int) {
	if unsent, room = e.way.Unsent(); room > 0 {
		return unsent, room
	}
	return defaultRoom, defaultRoom // so that the writer waits, and not the endpoint
}

// write writes what waits when the way is full, and waits for it.
func (e *Endpoint) write(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
		}
		if !e.drain(ctx) {
			return
		}
	}
}

// drain writes until nothing waits. It reports whether dst is well.
func (e *Endpoint) drain(ctx context.Context) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.frames > 0 && !e.busy && e.err == nil && ctx.Err() == nil {
		unsent, room := e.path()
		if unsent > room/2 {
			e.await()
			if unsent, room = e.path(); unsent > room/2 {
				unsent = room / 2
			}
		}
		free := room - unsent
		if room >= maxBatch {
			free = maxBatch // a fast way is not held up by small writes
		}
		e.handBatch(free)
	}
	return e.err == nil
}

// await waits until the way has room. The caller holds mu, which is free meanwhile.
func (e *Endpoint) await() {
	e.busy, e.waiting = true, true
	select {
	case <-e.resumed: // of the last time
	default:
	}
	e.mu.Unlock()
	e.way.AwaitRoom()
	e.mu.Lock()
	e.busy, e.waiting = false, false
	token(e.resumed)
}

// hand writes frames. The caller holds mu, which is free meanwhile.
func (e *Endpoint) hand(frames [][]byte) {
	e.busy = true
	dst := e.dst
	e.mu.Unlock()
	err := dst.WriteFrames(frames)
	e.mu.Lock()
	e.busy = false
	if e.err == nil {
		e.err = err
	}
}

// handBatch writes some of what waits.
func (e *Endpoint) handBatch(bytes int) {
	e.dequeue(min(max(bytes, minBatch), maxBatch))
	if len(e.batch) == 0 {
		return
	}
	e.stats.QueuedFrames += uint64(len(e.batch))
	e.stats.QueuedBatches++
	e.hand(e.batch)
	for _, number := range e.taken {
		e.free(number)
	}
	e.taken, e.batch = e.taken[:0], e.batch[:0]
}

func (e *Endpoint) now() time.Duration { return time.Since(e.begun) }

// enqueue copies frames to the queues of their flows.
func (e *Endpoint) enqueue(frames [][]byte) {
	now := e.now()
	for _, f := range frames {
		if len(f) > largeChunk {
			e.stats.DroppedMalformed++
			continue
		}
		number := e.put(f, now)
		if number == none {
			e.stats.DroppedFull++ // all is being written
			continue
		}
		at := int(e.hasher.Flow(f) % flows)
		q := &e.flows[at]
		if q.head == none {
			q.head = number
		} else {
			e.store.slot(q.tail).next = number
		}
		q.tail = number
		q.bytes += len(f)
		e.frames++
		e.stats.WaitingBytes += len(f)
		e.schedule.Add(at)
	}
	e.stats.PeakBytes = max(e.stats.PeakBytes, e.stats.WaitingBytes)
}

// put stores f, if need be in place of what the flow that has most has had longest.
func (e *Endpoint) put(f []byte, now time.Duration) int32 {
	if e.held > maxQueued-largeChunk {
		e.dropFromFattest()
	}
	number := e.store.put(f, now)
	if number != none {
		e.held += e.store.room(number)
	}
	return number
}

// dropFromFattest drops half of what the flow with most bytes has. Many at once, as
// the search is long.
func (e *Endpoint) dropFromFattest() {
	fattest := &e.flows[0]
	for i := range e.flows {
		if e.flows[i].bytes > fattest.bytes {
			fattest = &e.flows[i]
		}
	}
	keep := fattest.bytes / 2
	for range dropBurst {
		if fattest.head == none || fattest.bytes <= keep {
			break
		}
		e.stats.DroppedFull++
		e.free(e.shift(fattest))
	}
}

// dequeue moves frames to the batch until it has so many bytes.
func (e *Endpoint) dequeue(bytes int) {
	now := e.now()
	for bytes > 0 {
		at, ok := e.schedule.Next()
		if !ok {
			return
		}
		number := e.pop(&e.flows[at], now)
		if number == none {
			e.schedule.Empty(at)
			continue
		}
		f := e.store.frame(number)
		e.schedule.Spent(at, len(f))
		e.taken, e.batch = append(e.taken, number), append(e.batch, f)
		bytes -= len(f)
	}
}

// pop takes the next frame of a flow that CoDel lets through, or none. Those before it
// are dropped.
func (e *Endpoint) pop(q *flow, now time.Duration) int32 {
	for {
		if q.head == none {
			q.codel.dropping = false
			return none
		}
		sojourn := now - e.store.slot(q.head).arrived
		tooLong := q.codel.tooLong(now, sojourn, q.bytes <= quantum)
		tell := q.codel.tell(now, tooLong)
		number := e.shift(q)
		switch {
		case !tell:
			return number
		case markCE(e.store.frame(number)):
			e.stats.Marked++
			return number
		}
		e.stats.DroppedDelay++
		e.free(number)
	}
}

// shift takes the first frame out of a flow, which has one.
func (e *Endpoint) shift(q *flow) int32 {
	number := q.head
	s := e.store.slot(number)
	if q.head = s.next; q.head == none {
		q.tail = none
	}
	q.bytes -= int(s.length)
	e.frames--
	e.stats.WaitingBytes -= int(s.length)
	return number
}

// free gives back the room of a frame. Why is counted by the caller.
func (e *Endpoint) free(number int32) {
	e.held -= e.store.room(number)
	e.store.drop(number)
}

var _ frame.Endpoint = (*Endpoint)(nil)
