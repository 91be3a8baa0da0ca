package udpaccel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/wire"
)

// A receiver is what the reading goroutine alone uses.
type receiver struct {
	opener   *opener
	unpacker *wire.Unpacker // nil unless compressed
	inbox    *inbox
	seen     *nonces
	frames   [readBatch][]byte
}

const (
	// readFailures is how many errors in a row end the Path, readPause apart. A socket
	// has errors that pass, such as those of an interface that goes down.
	readFailures = 30
	readPause    = 200 * time.Millisecond
)

// receive is the inbound loop.
func (p *Path) receive(ctx context.Context, dst frame.Writer) error {
	for failures := 0; ; {
		err := p.sock.read(p.in.inbox)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return net.ErrClosed
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			p.counters.inFailed.Add(1)
			if failures++; failures == readFailures {
				return fmt.Errorf("receive by UDP: %w", err)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(readPause):
			}
			continue
		}
		failures = 0
		frames := p.accept()
		if len(frames) == 0 {
			continue
		}
		if err := dst.WriteFrames(frames); err != nil {
			return err
		}
	}
}

// accept returns the frames among what was read, in place.
func (p *Path) accept() [][]byte {
	r, c := &p.in, &p.counters
	frames, bytes := r.frames[:0], 0
	if r.unpacker != nil {
		r.unpacker.Reset()
	}
	now := p.now()
	c.inReads.Add(1)
	c.inDatagrams.Add(uint64(r.inbox.n))
	for i := range r.inbox.n {
		f, err := p.acceptOne(r.inbox.data[i], r.inbox.from[i], now)
		if err != nil {
			c.drop(err)
		} else if len(f) > 0 {
			frames = append(frames, f)
			bytes += len(f)
		}
	}
	c.inFrames.Add(uint64(len(frames)))
	c.inBytes.Add(uint64(bytes))
	return frames
}

// More reasons why a datagram is dropped.
var (
	errOversized = errors.New("longer than a datagram can be")
	errReplayed  = errors.New("it has come before")
	errStale     = errors.New("older than the window")
	errCorrupt   = errors.New("compressed, and cannot be unpacked")
	errNoFrame   = errors.New("its frame is shorter or longer than one can be")
)

// acceptOne takes one datagram; the frame is none for a keep-alive.
func (p *Path) acceptOne(d []byte, from netip.AddrPort, now int64) ([]byte, error) {
	r := &p.in
	if len(d) > maxDatagram {
		return nil, errOversized
	}
	nonce := nonceOf(d, p.cfg.Version)
	h, f, err := r.opener.open(d)
	if err != nil {
		return nil, err
	}
	theirs := p.life.theirs.Load()
	switch {
	case h.myTick+uint64(window.Milliseconds()) <= theirs:
		return nil, errStale
	case !r.seen.add(nonce):
		return nil, errReplayed
	}
	if h.myTick > theirs {
		p.life.theirs.Store(h.myTick)
		if from != *p.peer.Load() {
			p.counters.peerMoves.Add(1)
			p.cfg.Log.Debug("the UDP peer has moved", "to", from)
			p.follow(from)
		}
	}
	p.life.note(h, now, p.beat, len(f) == 0)
	if len(f) == 0 {
		p.counters.inKeepAlives.Add(1)
		return nil, nil
	}
	if h.flag == flagCompressed {
		if f, err = r.unpack(f); err != nil {
			return nil, err
		}
	}
	if len(f) < frame.HeaderLen || len(f) > frame.MaxLen {
		return nil, errNoFrame
	}
	return f, nil
}

func (r *receiver) unpack(f []byte) ([]byte, error) {
	if r.unpacker == nil {
		return nil, errCorrupt
	}
	f, ok := r.unpacker.Unpack(f)
	if !ok {
		return nil, errCorrupt
	}
	return f, nil
}

// nonces remembers datagrams lately received by the beginning of their nonces, a
// power of two of them: at 10,000 a second the last 0.8 s, and for longer those that
// nothing has displaced. The protocol itself lets everything through twice that is
// younger than the window.
type nonces [1 << 13]uint64

// add reports whether n is new.
func (s *nonces) add(n uint64) bool {
	if n == 0 {
		return true
	}
	at := &s[(n*0x9e3779b97f4a7c15)>>51]
	if *at == n {
		return false
	}
	*at = n
	return true
}

// nonceOf folds what is different in each datagram; 0 if nothing is.
func nonceOf(d []byte, v Version) uint64 {
	n := v.prefix()
	if n == 0 || len(d) < n {
		return 0
	}
	return binary.LittleEndian.Uint64(d) ^ uint64(binary.LittleEndian.Uint32(d[n-4:]))<<16
}
