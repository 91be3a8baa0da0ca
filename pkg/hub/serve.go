package hub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/frame"
)

// Serve lets clients in that connect to ln, until ctx ends or the hub is closed.
// It closes ln, ends the sessions' connections in good order, and returns when
// all is done.
func (h *Hub) Serve(ctx context.Context, ln net.Listener) error {
	inner, leave, err := h.enter(ctx)
	if err != nil {
		ln.Close()
		return err
	}
	var conns sync.WaitGroup
	defer leave()
	defer conns.Wait()
	inner, cancel := context.WithCancel(inner)
	defer cancel() // before the wait
	stop := context.AfterFunc(inner, func() { ln.Close() })
	defer stop()
	err = h.accept(inner, ln, &conns)
	if inner.Err() != nil {
		return stopped(ctx)
	}
	ln.Close()
	return fmt.Errorf("hub: accept on %v: %w", ln.Addr(), err)
}

// accept starts a goroutine of conns for each client.
func (h *Hub) accept(ctx context.Context, ln net.Listener, conns *sync.WaitGroup) error {
	for {
		raw, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || !isTemporary(err) {
				return err
			}
			// Out of descriptors, most likely: some will be free in a moment.
			if !pause(ctx, 50*time.Millisecond) {
				return err
			}
			continue
		}
		if h.conns.Add(1) > int64(h.cfg.MaxConnections) {
			h.conns.Add(-1)
			h.stats.connsRefused.Add(1)
			raw.Close()
			continue
		}
		conns.Go(func() {
			defer h.conns.Add(-1)
			h.serveConn(ctx, raw)
		})
	}
}

func isTemporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// pause waits for d; it is false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Plug attaches ep to the switch until ctx ends, the hub is closed or ep stops.
// What ep cannot take in time is dropped, as for any port. ep is not closed.
func (h *Hub) Plug(ctx context.Context, ep frame.Endpoint) error {
	inner, leave, err := h.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	p := newPort()
	h.lan.attach(p)
	defer h.lan.detach(p)
	g, gctx := errgroup.WithContext(inner)
	g.Go(func() error {
		return ep.Run(gctx, frame.WriterFunc(func(frames [][]byte) error {
			h.lan.forward(p, frames)
			return nil
		}))
	})
	g.Go(func() error { return p.drain(gctx, ep) })
	err = g.Wait()
	if inner.Err() != nil {
		return stopped(ctx)
	}
	return err
}
