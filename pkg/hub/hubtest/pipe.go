package hubtest

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// window is what a connection in memory buffers each way, about what loopback does.
const window = 256 << 10

type address struct{}

func (address) Network() string { return "memory" }
func (address) String() string  { return "hub.demo:443" }

// A listener accepts connections in memory.
type listener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return address{} }

func (l *listener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Pipe returns the ends of a connection in memory. Unlike net.Pipe, and like TCP,
// it buffers, and has half-close.
func Pipe() (net.Conn, net.Conn) {
	a, b := newHalf(), newHalf()
	return &pipeEnd{in: a, out: b}, &pipeEnd{in: b, out: a}
}

// A half is one direction.
type half struct {
	mu        sync.Mutex // guards the fields below
	changed   *sync.Cond
	buf       []byte
	ended     bool // no more writes
	abandoned bool // no more reads
	read      deadline
	write     deadline
}

func newHalf() *half {
	h := &half{}
	h.changed = sync.NewCond(&h.mu)
	return h
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (h *half) setDeadline(d *deadline, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = at
	if !at.IsZero() && !d.passed() {
		d.timer = time.AfterFunc(time.Until(at), h.wake)
	}
	h.changed.Broadcast()
}

func (h *half) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed.Broadcast()
}

// close ends the half for its writer, its reader, or both.
func (h *half) close(writer, reader bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = h.ended || writer
	h.abandoned = h.abandoned || reader
	for _, d := range []*deadline{&h.read, &h.write} {
		if h.ended && h.abandoned && d.timer != nil {
			d.timer.Stop()
		}
	}
	h.changed.Broadcast()
}

func (h *half) Read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.abandoned:
			return 0, net.ErrClosed
		case h.read.passed():
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0:
			n := copy(b, h.buf)
			h.buf = h.buf[:copy(h.buf, h.buf[n:])]
			h.changed.Broadcast()
			return n, nil
		case h.ended:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

func (h *half) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sent := 0
	for {
		switch {
		case h.ended:
			return sent, net.ErrClosed
		case h.abandoned:
			return sent, io.ErrClosedPipe
		case h.write.passed():
			return sent, os.ErrDeadlineExceeded
		}
		n := min(len(b)-sent, window-len(h.buf))
		h.buf = append(h.buf, b[sent:sent+n]...)
		sent += n
		h.changed.Broadcast()
		if sent == len(b) {
			return sent, nil
		}
		h.changed.Wait()
	}
}

type pipeEnd struct{ in, out *half }

func (p *pipeEnd) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p *pipeEnd) Write(b []byte) (int, error) { return p.out.Write(b) }

func (p *pipeEnd) CloseWrite() error {
	p.out.close(true, false)
	return nil
}

func (p *pipeEnd) Close() error {
	p.out.close(true, false)
	p.in.close(false, true)
	return nil
}

func (p *pipeEnd) LocalAddr() net.Addr  { return address{} }
func (p *pipeEnd) RemoteAddr() net.Addr { return address{} }

func (p *pipeEnd) SetReadDeadline(t time.Time) error {
	p.in.setDeadline(&p.in.read, t)
	return nil
}

func (p *pipeEnd) SetWriteDeadline(t time.Time) error {
	p.out.setDeadline(&p.out.write, t)
	return nil
}

func (p *pipeEnd) SetDeadline(t time.Time) error {
	p.SetReadDeadline(t)
	return p.SetWriteDeadline(t)
}
