package session

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/wire"
)

// A turn is a mutex that can be waited for together with other things. It is taken
// once a batch.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take() { t <- struct{}{} }
func (t turn) give() { <-t }

func (t turn) tryTake() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// keepAlive sends one at once, as the server may be waiting for a sign of life, and
// then at a steady pace. It also watches over the writers: one that gets nothing
// through for the session's time-out has a peer that is as good as dead.
func (l *link) keepAlive(ctx context.Context) {
	tick := time.NewTicker(l.s.every)
	defer tick.Stop()
	progress, since := l.batches.Load(), time.Now()
	for {
		n := l.batches.Load()
		switch {
		case l.retiring():
			return
		case l.turn.tryTake():
			err := l.sendKeepAlive()
			l.turn.give()
			if err != nil {
				return
			}
			since = time.Now()
		case n != progress: // frames are being written, the best sign of life
			progress, since = n, time.Now()
		case time.Since(since) >= l.s.welcome.Timeout:
			l.fail(fmt.Errorf("%w: it has taken nothing for %v", ErrSilent, l.s.welcome.Timeout))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-l.dead:
			return
		case <-tick.C:
		}
	}
}

// sendKeepAlive writes a keep-alive of random content and length, so that a watcher
// cannot tell it by its size. The caller has the turn.
func (l *link) sendKeepAlive() error {
	var content [wire.MaxKeepAlive - 1]byte
	rand.Read(content[:])
	n := int(content[0]) + int(content[1]) // 0 to 510
	l.tx = wire.AppendKeepAlive(l.tx[:0], content[:n])
	l.s.setWriteDeadline(l, time.Now().Add(l.s.welcome.Timeout))
	defer l.s.setWriteDeadline(l, time.Time{})
	return l.flush()
}

// send writes frames as one unit, or each for itself beside the stream. An error means
// that the link is dead.
func (l *link) send(frames [][]byte) error {
	if l.beside != nil {
		return l.sendBeside(frames)
	}
	l.turn.take()
	defer l.turn.give()
	var dropped, sent int
	var bytes uint64
	if l.packer == nil {
		l.tx, dropped = wire.AppendBatch(l.tx[:0], frames)
		sent = len(frames) - dropped
		bytes = uint64(len(l.tx) - wire.BatchOverhead(sent))
	} else {
		l.tx, dropped = l.packer.AppendBatch(l.tx[:0], frames)
		sent = len(frames) - dropped
		bytes = carriable(frames)
	}
	if err := l.flush(); err != nil {
		return err
	}
	if dropped > 0 {
		l.s.stats.outDropped.Add(uint64(dropped))
	}
	if sent > 0 {
		l.batches.Add(1)
		l.s.stats.outFrames.Add(uint64(sent))
		l.s.stats.outBytes.Add(bytes)
		l.s.stats.outBatches.Add(1)
	}
	return nil
}

// sendBeside sends frames beside the stream.
func (l *link) sendBeside(frames [][]byte) error {
	if err := l.err(); err != nil {
		return err
	}
	var sent, bytes, dropped uint64
	for _, f := range frames {
		if len(f) < frame.HeaderLen || len(f) > frame.MaxLen {
			dropped++
			continue
		}
		if err := l.beside.SendFrame(f); err != nil {
			return l.fail(endOf(err, l.s.welcome.Timeout))
		}
		sent, bytes = sent+1, bytes+uint64(len(f))
	}
	c := &l.s.stats
	c.outDropped.Add(dropped)
	c.outFrames.Add(sent)
	c.outBytes.Add(bytes)
	c.outBatches.Add(1)
	return nil
}

// carriable returns the bytes of those frames that the tunnel carries.
func carriable(frames [][]byte) (n uint64) {
	for _, f := range frames {
		if len(f) >= frame.HeaderLen && len(f) <= frame.MaxLen {
			n += uint64(len(f))
		}
	}
	return n
}

// flush writes tx. The caller has the turn.
func (l *link) flush() error {
	if err := l.err(); err != nil {
		return err
	}
	if l.retiring() {
		return errRetired
	}
	if len(l.tx) == 0 {
		return nil
	}
	l.writing.Store(true)
	_, err := l.stream.Write(l.tx)
	l.writing.Store(false)
	if err != nil {
		return l.fail(endOf(err, l.s.welcome.Timeout))
	}
	return nil
}
