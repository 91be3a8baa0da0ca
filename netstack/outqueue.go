package netstack

import (
	"context"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

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

	// A batch, one WriteFrames, takes packets until it has batchBytes, six full TLS
	// records. The last may be a super-segment of 64 KiB, and cutting adds headers
	// to each frame, so the arena is larger.
	batchBytes   = 96 << 10
	batchPackets = 64
	arenaBytes   = batchBytes + 2*maxSuper
)

// outqueue is the queueing discipline between gVisor and Run.
//
// WritePacket is called from any goroutine of the stack, also from inside
// delivery of an inbound frame, and never blocks. While no Run drains the queue
// (the tunnel is reconnecting) the newest packets stay and the oldest go, so
// that what is sent first afterwards is not stale.
type outqueue struct {
	link *link

	running sync.Mutex // held by the one active Run

	mu     sync.Mutex // guards the fields down to closed
	ring   [queuePackets]*stack.PacketBuffer
	head   int           // index of the oldest packet
	count  int           // packets in the ring
	queued int           // bytes in the ring
	gate   chan struct{} // not nil while the gate is shut; closed when it opens
	closed bool

	shut atomic.Bool   // whether gate is not nil, to be asked without mu
	wake chan struct{} // buffered token: the queue is not empty
	done chan struct{} // closed by Close

	frames, bytes, dropped, filtered, batches atomic.Uint64

	arena  []byte   // frames of the batch under way; owned by the active Run
	batch  [][]byte // views into arena; owned by the active Run
	pieces [][]byte // of the packet being split; owned by the active Run
}

var _ stack.QueueingDiscipline = (*outqueue)(nil)

func newOutqueue(l *link) *outqueue {
	return &outqueue{
		link:  l,
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
		arena: make([]byte, 0, arenaBytes),
	}
}

// WritePacket queues pkt and keeps a reference to it until it was sent.
func (q *outqueue) WritePacket(pkt *stack.PacketBuffer) tcpip.Error {
	if pkt.NetworkProtocolNumber == frame.TypeIPv6 && !q.link.ip6.Load() {
		q.filtered.Add(1)
		return nil
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return &tcpip.ErrClosedForSend{}
	}
	var oldest *stack.PacketBuffer
	if q.count == queuePackets {
		oldest = q.popLocked()
	}
	q.ring[(q.head+q.count)%queuePackets] = pkt.IncRef()
	q.count++
	q.queued += pkt.Size()
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

// popLocked takes the oldest packet; the queue is not empty and mu is held.
func (q *outqueue) popLocked() *stack.PacketBuffer {
	pkt := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) % queuePackets
	q.count--
	q.queued -= pkt.Size()
	return pkt
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
	var pkts [batchPackets]*stack.PacketBuffer
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := q.take(&pkts)
		if n == 0 {
			return nil
		}
		q.flatten(pkts[:n])
		if len(q.batch) == 0 {
			continue
		}
		if err := dst.WriteFrames(q.batch); err != nil {
			return err
		}
		q.batches.Add(1)
		q.frames.Add(uint64(len(q.batch)))
		q.bytes.Add(uint64(len(q.arena)))
	}
}

// take moves up to a batch of packets out of the queue.
func (q *outqueue) take(pkts *[batchPackets]*stack.PacketBuffer) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for bytes := 0; n < batchPackets && q.count > 0 && bytes < batchBytes; n++ {
		pkts[n] = q.popLocked()
		bytes += pkts[n].Size()
	}
	if q.queued <= gateLow {
		q.openGateLocked()
	}
	return n
}

// flatten makes frames of pkts in the arena and releases them.
func (q *outqueue) flatten(pkts []*stack.PacketBuffer) {
	q.arena, q.batch = q.arena[:0], q.batch[:0]
	for i, pkt := range pkts {
		var err error
		q.arena, q.batch, err = offload.Split(q.arena, q.batch, q.super(pkt))
		if err != nil {
			q.dropped.Add(1) // gVisor and package offload disagree: a bug, not a peer's doing
		}
		pkt.DecRef()
		pkts[i] = nil
	}
	clear(q.pieces[:cap(q.pieces)]) // gVisor's memory, not ours to keep alive
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
	for q.count > 0 {
		q.popLocked().DecRef()
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
