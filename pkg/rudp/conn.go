package rudp

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Read returns bytes of the stream. io.EOF means that the server has hung up.
func (c *Conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case c.in.Len() > 0:
			full := c.in.Len() >= inLimit
			n, _ := c.in.Read(b)
			if full && c.in.Len() < inLimit && c.err == nil {
				c.advance()
				c.sendAcks() // the window is open again
			}
			return n, nil
		case c.err != nil:
			return 0, c.err
		case len(b) == 0:
			return 0, nil
		}
		c.readable.Wait()
	}
}

// Write queues bytes of the stream, and waits while too many wait.
func (c *Conn) Write(b []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.err == io.EOF:
			return n, syscall.EPIPE
		case c.err != nil:
			return n, c.err
		case c.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case n == len(b):
			return n, nil
		}
		if room := outLimit - len(c.out); room > 0 {
			m := min(room, len(b)-n)
			c.out = append(c.out, b[n:n+m]...)
			n += m
			c.push()
			continue
		}
		c.writable.Wait()
	}
}

// Close waits a moment for what was written to arrive, tells the server and closes
// the socket. A second Close does not wait, and ends that of the first.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.sock.Close()
	}
	if c.isOpen && !c.writeBy.closing {
		c.writeBy.closing = true
		c.writeBy.set(time.Now().Add(lastWords))
		for c.err == nil && !c.writeBy.passed() && (len(c.out) > 0 || c.first < c.next) {
			c.writable.Wait()
		}
	}
	c.finish(net.ErrClosed)
	return nil
}

// fail ends the stream.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish(err)
}

// finish ends the stream, once: it tells the server if it does not know, and releases
// everybody who waits.
func (c *Conn) finish(err error) {
	if c.err != nil {
		return
	}
	if c.isOpen && err != io.EOF {
		for range farewells {
			c.emit(c.mark, nil)
		}
	}
	c.err = err
	if c.timer != nil {
		c.timer.Stop()
	}
	c.readBy.stop()
	c.writeBy.stop()
	c.readable.Broadcast()
	c.writable.Broadcast()
	c.sock.Close()
}

func (c *Conn) wakeReaders() { c.mu.Lock(); defer c.mu.Unlock(); c.readable.Broadcast() }
func (c *Conn) wakeWriters() { c.mu.Lock(); defer c.mu.Unlock(); c.writable.Broadcast() }

// LocalAddr returns the socket's address.
func (c *Conn) LocalAddr() net.Addr { return addr{c.over, c.sock.LocalAddr()} }

// RemoteAddr returns the server's. Its network is the Carrier.
func (c *Conn) RemoteAddr() net.Addr { return addr{c.over, c.sock.RemoteAddr()} }

type addr struct {
	over Carrier
	net.Addr
}

func (a addr) Network() string { return a.over.String() }
func (a addr) String() string  { return withPort(a.Addr) }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds Read, also one that waits.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readBy, t) }

// SetWriteDeadline bounds Write, also one that waits.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeBy, t) }

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return net.ErrClosed
	}
	if !d.closing {
		d.set(t)
	}
	d.broadcast(c)
	return nil
}

// SyscallConn tells of the socket below.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.sock.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return sc.SyscallConn()
}

// A deadline is one of a Conn, whose mu guards it.
type deadline struct {
	at      time.Time // zero means none
	timer   *time.Timer
	wake    func()
	closing bool // it is Close's
}

func (d *deadline) set(t time.Time) {
	d.at = t
	d.stop()
	if until := time.Until(t); !t.IsZero() && until > 0 {
		d.timer = time.AfterFunc(until, d.wake)
	}
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// broadcast lets everybody look at the new deadline.
func (d *deadline) broadcast(c *Conn) {
	if d == &c.readBy {
		c.readable.Broadcast()
	} else {
		c.writable.Broadcast()
	}
}
