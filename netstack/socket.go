package netstack

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// socket is what TCP connections, UDP sockets and listeners have in common:
// waiting, deadlines and the way they end.
//
// It holds no buffer, so an idle connection costs gVisor's state and this struct.
type socket struct {
	s       *Stack
	ep      tcpip.Endpoint
	wq      *waiter.Queue
	network string // "tcp" or "udp", for errors

	readEntry, writeEntry waiter.Entry
	readable, writable    chan struct{} // tokens from gVisor: ask again

	readBy, writeBy deadline

	done  chan struct{} // closed with the socket
	mu    sync.Mutex    // guards cause
	cause error         // why done is closed

	// lastErr is the hard error of the connection. gVisor reports it once, to
	// whoever asks first; without keeping it, the reader of a reset connection
	// would see a clean end if the writer was told of the reset.
	lastErr atomic.Pointer[error]

	local, remote atomic.Pointer[tcpip.FullAddress]
}

// open makes c a socket on ep and has the stack end it in time.
func (c *socket) open(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue, network string) {
	c.s, c.ep, c.wq, c.network = s, ep, wq, network
	c.readEntry, c.readable = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	c.writeEntry, c.writable = waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&c.readEntry)
	wq.EventRegister(&c.writeEntry)
	c.done = make(chan struct{})
}

// end closes done with cause. It reports whether this call did it.
func (c *socket) end(cause error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return false
	}
	c.cause = cause
	close(c.done)
	return true
}

// abort ends the socket at once, with a reset to the peer.
func (c *socket) abort(cause error) {
	if c.end(cause) {
		c.readBy.stop()
		c.writeBy.stop()
		if ep, ok := c.ep.(interface{ Abort() }); ok {
			ep.Abort()
		}
	}
}

// close is Close without untracking, which needs the outer type.
func (c *socket) close() error {
	c.mu.Lock()
	again := c.cause == net.ErrClosed
	first := c.cause == nil
	c.cause = net.ErrClosed
	if first {
		close(c.done)
	}
	c.mu.Unlock()
	if again {
		return c.opError("close", net.ErrClosed)
	}
	c.readBy.stop()
	c.writeBy.stop()
	c.ep.Close()
	return nil
}

func (c *socket) boundTo(addr tcpip.Address) bool { return localAddress(c.ep) == addr }

// wait blocks until there is something new on ch, or returns why it is over.
func (c *socket) wait(ch, deadline <-chan struct{}) error {
	select {
	case <-c.done:
		return c.ended()
	case <-deadline:
		return os.ErrDeadlineExceeded
	case <-ch:
		return nil
	}
}

// check returns an error if the socket is closed or its deadline has passed.
func (c *socket) check(deadline <-chan struct{}) error {
	select {
	case <-c.done:
		return c.ended()
	default:
	}
	select {
	case <-deadline:
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}

// ended returns why the socket was closed, nil if it is open.
func (c *socket) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// failure maps what gVisor said to the error the application sees.
func (c *socket) failure(terr tcpip.Error) error {
	if err := c.ended(); err != nil {
		return err
	}
	err := stdError(terr)
	switch terr.(type) {
	case *tcpip.ErrClosedForReceive, *tcpip.ErrClosedForSend:
		if c.network != "tcp" || tcp.EndpointState(c.ep.State()) != tcp.StateError {
			return err // an orderly end
		}
		err = stdError(&tcpip.ErrConnectionReset{})
		if p := c.lastErr.Load(); p != nil {
			err = *p
		}
		return err
	}
	c.lastErr.CompareAndSwap(nil, &err)
	return err
}

// opError wraps err with the addresses. io.EOF stays bare, as readers expect.
func (c *socket) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return opError(op, c.network, c.LocalAddr(), c.RemoteAddr(), err)
}

// remember keeps the addresses, which gVisor forgets when the connection ends.
func (c *socket) remember() {
	if a, err := c.ep.GetLocalAddress(); err == nil {
		c.local.Store(&a)
	}
	if a, err := c.ep.GetRemoteAddress(); err == nil {
		c.remote.Store(&a)
	}
}

func (c *socket) netAddr(f *tcpip.FullAddress) net.Addr {
	switch {
	case f == nil:
		return nil
	case c.network == "udp":
		return udpAddr(*f)
	}
	return tcpAddr(*f)
}

// LocalAddr returns the local address and port.
func (c *socket) LocalAddr() net.Addr { return c.netAddr(c.local.Load()) }

// RemoteAddr returns the peer's address and port, nil if there is no peer.
func (c *socket) RemoteAddr() net.Addr { return c.netAddr(c.remote.Load()) }

// SetDeadline sets both deadlines.
func (c *socket) SetDeadline(t time.Time) error {
	c.readBy.set(t)
	c.writeBy.set(t)
	return nil
}

// SetReadDeadline sets the deadline of reads, also of those under way.
func (c *socket) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return nil
}

// SetWriteDeadline sets the deadline of writes, also of those under way.
func (c *socket) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return nil
}
