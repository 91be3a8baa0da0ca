// Package frametest has doubles for frame endpoints and builders for frames.
// It is imported by tests only.
package frametest

import (
	"context"
	"net"
	"slices"
	"sync"

	"softether-go/pkg/frame"
)

// Pipe is an in-memory Endpoint: what a test Sends comes out of Run, and what is
// written to it is copied and kept for Received. The zero value is ready.
type Pipe struct {
	mu       sync.Mutex // guards the fields below
	out      [][]byte   // waiting for Run
	wake     chan struct{}
	received [][]byte
	notify   chan struct{} // closed and replaced at each WriteFrames
	closed   bool
}

func (p *Pipe) init() {
	if p.wake == nil {
		p.wake = make(chan struct{}, 1)
		p.notify = make(chan struct{})
	}
}

// Send queues frames for Run to hand out.
func (p *Pipe) Send(frames ...[]byte) {
	p.mu.Lock()
	p.init()
	p.out = append(p.out, frames...)
	wake := p.wake
	p.mu.Unlock()
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Close makes Run and WriteFrames return net.ErrClosed.
func (p *Pipe) Close() {
	p.mu.Lock()
	p.init()
	p.closed = true
	wake := p.wake
	p.mu.Unlock()
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Run hands out what was sent.
func (p *Pipe) Run(ctx context.Context, dst frame.Writer) error {
	for {
		p.mu.Lock()
		p.init()
		batch, closed, wake := p.out, p.closed, p.wake
		p.out = nil
		p.mu.Unlock()
		if closed {
			return net.ErrClosed
		}
		if len(batch) > 0 {
			if err := dst.WriteFrames(batch); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

// WriteFrames keeps copies of frames.
func (p *Pipe) WriteFrames(frames [][]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.init()
	if p.closed {
		return net.ErrClosed
	}
	for _, f := range frames {
		p.received = append(p.received, slices.Clone(f))
	}
	close(p.notify)
	p.notify = make(chan struct{})
	return nil
}

// Received waits until at least n frames were written, or ctx ends, and returns
// all so far.
func (p *Pipe) Received(ctx context.Context, n int) [][]byte {
	for {
		p.mu.Lock()
		p.init()
		got, notify := slices.Clone(p.received), p.notify
		p.mu.Unlock()
		if len(got) >= n || ctx.Err() != nil {
			return got
		}
		select {
		case <-ctx.Done():
		case <-notify:
		}
	}
}

// Frame returns an Ethernet frame with the given addresses (six bytes each),
// type and payload.
func Frame(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	f := make([]byte, frame.HeaderLen+len(payload))
	frame.PutHeader(f, dst, src, etherType)
	copy(f[frame.HeaderLen:], payload)
	return f
}

// FailAfter passes n batches to next and returns err for every later one.
func FailAfter(n int, next frame.Writer, err error) frame.Writer {
	var mu sync.Mutex
	return frame.WriterFunc(func(frames [][]byte) error {
		mu.Lock()
		defer mu.Unlock()
		if n == 0 {
			return err
		}
		n--
		return next.WriteFrames(frames)
	})
}
