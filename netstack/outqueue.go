package netstack

import (
	"context"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"softether-go/pkg/fairqueue"
	"softether-go/pkg/frame"
	"softether-go/pkg/offload"
)

const (
	// queuePackets bounds the queue. It must take what TCP lets go at once when
	// windows open after the gate has shut: a whole send buffer, 8 MiB / 1420 B ≈
	// 5900 packets, and more with many connections. A loss made here is dear:
	// BenchmarkTCP with 500 flows makes 10 to 22 MB/s with 1024 and 50 to 145 with
	// 8192 or 16384, which measure alike; 16384 is room to spare, not a measured gain.
	// The data is charged to the send buffers and shared with them, so that a full
	// queue costs only headers, 16384 × about 0.7 kB ≈ 11 MB (an estimate).
	queuePackets = 16384

	// gateHigh is how many bytes may wait before connections stop taking data from
	// the application, and gateLow how few before they go on. 384 KiB is 31 ms at
	// 100 Mbit/s. BenchmarkSlowTunnel shows what waits with it.
	gateHigh = 384 << 10
	gateLow  = gateHigh / 2

	// queueFlows is how many flows are told apart; two share one by chance.
	queueFlows = 1024

	// quantum is a flow's turn: a frame of the usual MTU.
	quantum = 1514

	// A batch, one WriteFrames, takes packets until it has batchBytes, six full TLS
	// records. The last may be a super-segment of 64 KiB, and cutting adds headers
	// to each frame, so the arena is larger. On a slow way a batch is what suits it, and
	// the last super-segment goes in several, minBatch at least.
	batchBytes   = 96 << 10
	batchPackets = 64
	arenaBytes   = batchBytes + 2*maxSuper
	minBatch     = 1600
	aheadBytes   = batchBytes + quantum
)

// outqueue is the queueing discipline between gVisor and Run. Flows take turns (package
// fairqueue), so that a question need not wait behind an upload.
//
// WritePacket is called from any goroutine of the stack, also from inside
// delivery of an inbound frame, and never blocks. While no Run drains the queue
// (the tunnel is reconnecting) the newest packets stay and the oldest of the flow that
// has most go, so that what is sent first afterwards is not stale.
type outqueue struct {
	link   *link
	way    fairqueue.Path // nil if nothing is known of it
	hasher fairqueue.Hasher

	running sync.Mutex // held by the one active Run

	mu     sync.Mutex // guards the fields down to closed
	slots  [queuePackets]slot
	used   int32 // slots that have ever been used
	free   int32 // head of the list of free ones among them
	flows  [queueFlows]flow
	turns  *fairqueue.Schedule
	count  int           // packets in the queue
	queued int           // bytes in the queue
	gate   chan struct{} // not nil while the gate is shut; closed when it opens
	closed bool

	shut atomic.Bool   // whether gate is not nil, to be asked without mu
	wake chan struct{} // buffered token: the queue is not empty
	done chan struct{} // closed by Close

	frames, bytes, dropped, filtered, batches, ahead atomic.Uint64

	// What follows is owned by the active Run.
	pkts    [batchPackets]*stack.PacketBuffer // taken and to be cut
	arena   []byte                            // frames of what was taken last
	cuts    [][]byte                          // views into arena
	cut     [][]byte                          // those of cuts that are still to be sent
	cutFlow int                               // whose they are, if there are any
	aside   []byte                            // frames that go ahead of these
	batch   [][]byte                          // views into arena and aside; the batch under way
	pieces  [][]byte                          // of the packet being split
}

// A slot holds a packet that waits.
type slot struct {
	pkt  *stack.PacketBuffer
	next int32 // slot behind it in the flow, or in the list of free ones
}

// A flow is a list of slots.
type flow struct {
	head, tail int32 // none if it is empty
	bytes      int
}

const none int32 = -1

var _ stack.QueueingDiscipline = (*outqueue)(nil)

func newOutqueue(l *link, way fairqueue.Path) *outqueue {
	q := &outqueue{
		link:   l,
		way:    way,
		hasher: fairqueue.Hasher{Seed: rand.Uint64()},
		free:   none,
		turns:  fairqueue.NewSchedule(queueFlows, quantum),
		wake:   make(chan struct{}, 1),
		done:   make(chan struct{}),
		arena:  make([]byte, 0, arenaBytes),
		aside:  make([]byte, 0, aheadBytes),
	}
	for i := range q.flows {
		q.flows[i].head = none
	}
	return q
}

// WritePacket queues pkt and keeps a reference to it until it was sent.
func (q *outqueue) WritePacket(pkt *stack.PacketBuffer) tcpip.Error {
	if pkt.NetworkProtocolNumber == frame.TypeIPv6 && !q.link.ip6.Load() {
		q.filtered.Add(1)
		return nil
	}
	at := int(q.hasher.Flow(headers(pkt)) % queueFlows)
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return &tcpip.ErrClosedForSend{}
	}
	var oldest *stack.PacketBuffer
	if q.count == queuePackets {
		oldest = q.popLocked(q.fattestLocked())
	}
	q.appendLocked(at, pkt.IncRef())
	if q.queued >= gateHigh && q.gate == nil {
		q.gate = make(chan struct{})
		q.shut.Store(true)
	}
	first := q.count == 1
	q.mu.Unlock()

	if oldest != nil {
		q.dropped.Add(1)
		oldest.DecRef()
	}
	if first {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// headers returns the memory of pkt that has its headers, which are always in one piece.
func headers(pkt *stack.PacketBuffer) []byte {
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip < len(b) {
			return b[skip:]
		}
		skip -= len(b)
	}
	return nil
}

// appendLocked puts pkt at the end of a flow; there is a slot and mu is held.
func (q *outqueue) appendLocked(at int, pkt *stack.PacketBuffer) {
	i := q.free
	if i == none {
		i = q.used
		q.used++
	} else {
		q.free = q.slots[i].next
	}
	q.slots[i] = slot{pkt, none}
	f := &q.flows[at]
	if f.head == none {
		f.head = i
	} else {
		q.slots[f.tail].next = i
	}
	f.tail = i
	f.bytes += pkt.Size()
	q.count++
	q.queued += pkt.Size()
	q.turns.Add(at)
}

// popLocked takes the oldest packet of f, which is not empty; mu is held.
func (q *outqueue) popLocked(f *flow) *stack.PacketBuffer {
	i := f.head
	s := &q.slots[i]
	pkt := s.pkt
	f.head = s.next
	*s = slot{next: q.free}
	q.free = i
	f.bytes -= pkt.Size()
	q.count--
	q.queued -= pkt.Size()
	return pkt
}

// fattestLocked returns the flow with most bytes; mu is held.
func (q *outqueue) fattestLocked() *flow {
	fattest := &q.flows[0]
	for i := range q.flows {
		if q.flows[i].bytes > fattest.bytes {
			fattest = &q.flows[i]
		}
	}
	return fattest
}

// gateShut returns nil if connections may hand data to the stack, or else a
// channel that is closed when they may ask again.
func (q *outqueue) gateShut() <-chan struct{} {
	if !q.shut.Load() {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.gate
}

func (q *outqueue) openGateLocked() {
	if q.gate != nil {
		close(q.gate)
		q.gate = nil
		q.shut.Store(false)
	}
}

// run hands queued packets to dst in batches until something ends it.
func (q *outqueue) run(ctx context.Context, dst frame.Writer) error {
	select {
	case <-q.done: // whether or not an earlier run is still on its way out
		return net.ErrClosed
	default:
	}
	if !q.running.TryLock() {
		return errRunning
	}
	defer q.running.Unlock()
	for {
		if err := q.drain(ctx, dst); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-q.done:
			return net.ErrClosed
		case <-q.wake:
			runtime.Gosched() // whoever is about to send joins the batch
		}
	}
}

// drain sends batches until the queue is empty.
func (q *outqueue) drain(ctx context.Context, dst frame.Writer) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(q.cut) == 0 && q.length() == 0 {
			return nil
		}
		q.fill(q.room())
		if len(q.batch) == 0 {
			continue
		}
		if err := dst.WriteFrames(q.batch); err != nil {
			return err
		}
		bytes := 0
		for _, f := range q.batch {
			bytes += len(f)
		}
		q.batches.Add(1)
		q.frames.Add(uint64(len(q.batch)))
		q.bytes.Add(uint64(bytes))
	}
}

// room waits until little waits below, where nothing can be overtaken, and returns how
// many bytes to send at once.
func (q *outqueue) room() int {
	if q.way == nil {
		return batchBytes
	}
	unsent, room := q.way.Unsent()
	if unsent > room/2 {
		q.way.AwaitRoom()
		unsent, room = q.way.Unsent()
	}
	if room == 0 {
		return batchBytes
	}
	return min(max(room-unsent, room/2, minBatch), batchBytes)
}

// fill makes a batch of so many bytes: of what was cut and not sent yet, after what may
// go ahead of that, or if there is nothing of packets from the queue.
func (q *outqueue) fill(bytes int) {
	q.batch, q.aside = q.batch[:0], q.aside[:0]
	if len(q.cut) > 0 {
		n := q.takeAhead(bytes)
		q.aside, q.batch = q.flatten(q.aside, q.batch, q.pkts[:n])
		q.ahead.Add(uint64(len(q.batch)))
		q.send(bytes-len(q.aside), 1)
		return
	}
	n := q.take(bytes)
	if n == 0 {
		return
	}
	q.arena, q.cuts = q.flatten(q.arena[:0], q.cuts[:0], q.pkts[:n-1])
	whole := len(q.cuts)
	q.arena, q.cuts = q.flatten(q.arena, q.cuts, q.pkts[n-1:n])
	if bytes >= batchBytes {
		whole = len(q.cuts) // the way is fast, or nobody knows
	}
	q.cut = q.cuts
	q.send(bytes, whole)
}

// send moves to the batch what was cut: at least so many frames, as only those of one
// flow may stay, and else so many bytes.
func (q *outqueue) send(bytes, least int) {
	n := 0
	for ; n < len(q.cut) && (n < least || bytes > 0); n++ {
		bytes -= len(q.cut[n])
	}
	q.batch = append(q.batch, q.cut[:n]...)
	q.cut = q.cut[n:]
}

// take moves packets out of the queue until they have so many bytes, and returns how
// many there are.
func (q *outqueue) take(bytes int) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n < batchPackets && bytes > 0 {
		at, ok := q.turns.Next()
		if !ok {
			break
		}
		if q.flows[at].head == none {
			q.turns.Empty(at)
			continue
		}
		q.cutFlow = at
		bytes -= q.takeLocked(n, at)
		n++
	}
	if q.queued <= gateLow {
		q.openGateLocked()
	}
	return n
}

// takeAhead is take for what may go ahead of what was cut: packets of newcomers that are
// no super-segments. Other newcomers wait for their turn.
func (q *outqueue) takeAhead(bytes int) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n < batchPackets && bytes > 0 {
		at, ok := q.turns.Ahead()
		if !ok {
			break
		}
		head := q.flows[at].head
		if at == q.cutFlow || head == none || q.slots[head].pkt.Size() > quantum {
			q.turns.Pass(at)
			continue
		}
		bytes -= q.takeLocked(n, at)
		n++
	}
	return n
}

// takeLocked makes the first packet of a flow, whose turn it is, the nth of those that
// are taken, and returns its size; mu is held.
func (q *outqueue) takeLocked(n, at int) int {
	pkt := q.popLocked(&q.flows[at])
	q.pkts[n] = pkt
	q.turns.Spent(at, pkt.Size())
	return pkt.Size()
}

// flatten appends to frames those of pkts, which it makes in arena, and releases pkts.
func (q *outqueue) flatten(arena []byte, frames [][]byte, pkts []*stack.PacketBuffer) ([]byte, [][]byte) {
	for i, pkt := range pkts {
		var err error
		arena, frames, err = offload.Split(arena, frames, q.super(pkt))
		if err != nil {
			q.dropped.Add(1) // gVisor and package offload disagree: a bug, not a peer's doing
		}
		pkt.DecRef()
		pkts[i] = nil
	}
	clear(q.pieces[:cap(q.pieces)]) // gVisor's memory, not ours to keep alive
	return arena, frames
}

// super describes pkt, which may be a super-segment (GSO): gVisor walks its stack
// once for up to 64 KiB, and leaves cutting and checksums to us.
func (q *outqueue) super(pkt *stack.PacketBuffer) offload.Super {
	q.pieces = appendViews(q.pieces[:0], pkt)
	s := offload.Super{Header: q.pieces[0], Payload: q.pieces[1:]} // headers are always in one piece
	gso := &pkt.GSOOptions
	if gso.Type == stack.GSONone {
		return s
	}
	s.NeedsCsum = gso.NeedsCsum
	s.CsumStart = frame.HeaderLen + int(gso.L3HdrLen)
	s.CsumOffset = int(gso.CsumOffset)
	if pkt.Data().Size() <= int(gso.MSS) {
		return s
	}
	s.Size = int(gso.MSS)
	s.GSO = offload.TCPv4
	if gso.Type == stack.GSOTCPv6 {
		s.GSO = offload.TCPv6
	}
	return s
}

// appendViews appends the memory of pkt, headers first.
func appendViews(pieces [][]byte, pkt *stack.PacketBuffer) [][]byte {
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		pieces = append(pieces, b[skip:])
		skip = 0
	}
	return pieces
}

// Close drops what waits, ends Run and makes WritePacket fail.
func (q *outqueue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	for i := range q.flows {
		for f := &q.flows[i]; f.head != none; {
			q.popLocked(f).DecRef()
		}
	}
	q.openGateLocked()
	close(q.done)
}

// length returns how many packets wait.
func (q *outqueue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count
}
