package hub

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/wire"
)

const (
	// maxQueue bounds what waits for a port, in bytes: 2 MiB are 170 ms at
	// 100 Mbit/s. The reference server allows 2.56 MB (Cedar/Cedar.h,
	// MAX_BUFFERING_PACKET_SIZE).
	maxQueue = 2 << 20
	// keptBuffer is the largest buffer kept when little is going on; more than that
	// is given back trimEvery after a burst.
	keptBuffer = 256 << 10
	trimEvery  = 4 * time.Second

	blockHeader = 4
)

// A port is one place on the switch, with the frames that wait for whoever is there.
type port struct {
	wake chan struct{} // holds a token when the queue was found empty and is no more

	mu   sync.Mutex // guards the fields below
	out  []byte     // units as they travel, see wire.AppendBatch
	high int        // the most that was taken at once since the last trim

	attached bool // guarded by lan.mu
	stations int  // learned here; guarded by lan.mu

	inFrames, inBytes     atomic.Uint64 // from the port into the hub
	outFrames, outBytes   atomic.Uint64 // queued for the port
	dropFull, dropRefused atomic.Uint64
}

func newPort() *port { return &port{wake: make(chan struct{}, 1)} }

// put queues copies of frames, as many as fit. It never blocks.
func (p *port) put(frames [][]byte) {
	p.mu.Lock()
	room, n := maxQueue-len(p.out), 0
	for n < len(frames) && len(frames[n])+blockHeader < room {
		room -= len(frames[n]) + blockHeader
		n++
	}
	wasEmpty := len(p.out) == 0
	before := len(p.out)
	var bad int
	p.out, bad = wire.AppendBatch(p.out, frames[:n])
	grown := len(p.out) - before
	p.mu.Unlock()
	if grown > 0 {
		p.outFrames.Add(uint64(n - bad))
		p.outBytes.Add(uint64(grown - wire.BatchOverhead(n-bad)))
		if wasEmpty {
			p.ring()
		}
	}
	if bad > 0 {
		p.dropRefused.Add(uint64(bad))
	}
	if n < len(frames) {
		p.dropFull.Add(uint64(len(frames) - n))
	}
}

func (p *port) ring() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take returns all that waits, and leaves the spare buffer in its place.
func (p *port) take(spare []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.out
	p.out = spare[:0]
	p.high = max(p.high, len(out))
	return out
}

// trim returns spare, or nil if it is larger than what was needed lately, and does
// the same with the buffer in its place.
func (p *port) trim(spare []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	high := p.high
	p.high = 0
	if high > keptBuffer/2 {
		return spare
	}
	if cap(p.out) > keptBuffer && len(p.out) == 0 {
		p.out = nil
	}
	if cap(spare) > keptBuffer {
		return nil
	}
	return spare
}

// drain hands what waits to dst until ctx ends or dst fails.
func (p *port) drain(ctx context.Context, dst frame.Writer) error {
	var spare []byte
	var views [][]byte
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
		case <-tick.C:
			spare = p.trim(spare)
			continue
		}
		batch := p.take(spare)
		views = appendViews(views[:0], batch)
		if err := dst.WriteFrames(views); err != nil {
			return err
		}
		spare = batch
	}
}

// appendViews cuts units that put has made into frames.
func appendViews(views [][]byte, units []byte) [][]byte {
	for len(units) > 0 {
		n := binary.BigEndian.Uint32(units)
		units = units[4:]
		for range n {
			size := binary.BigEndian.Uint32(units)
			views = append(views, units[4:4+size:4+size])
			units = units[4+size:]
		}
	}
	return views
}
