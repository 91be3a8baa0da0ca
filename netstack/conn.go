package netstack

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A patience is how long a silent peer is waited for: it is asked after idle, then every
// interval, and given up when it has not answered count times.
type patience struct {
	idle, interval time.Duration
	count          int
}

// A silent peer is asked after a minute, which also keeps a NAT's entry alive,
// and given up after 60 s + 9 × 30 s = 5.5 minutes: longer than a usual outage of
// the tunnel, which idle connections should survive.
var usualPatience = patience{60 * time.Second, 30 * time.Second, 9}

// writeChunk is the most that is handed to gVisor at once; the largest chunk of
// memory it pools is 64 KiB.
const writeChunk = 64 << 10

// conn is a TCP connection of the stack.
type conn struct {
	socket

	readMu sync.Mutex        // serialises readers; guards dst
	dst    tcpip.SliceWriter // where a read under way puts its bytes

	limited atomic.Bool // what it may hold is; see unread

	writeMu sync.Mutex   // serialises writers; guards what follows
	src     bytes.Reader // where a write under way takes its bytes
	gate    <-chan struct{}
	past    int // bytes written past gate
}

// newConn wraps ep, which is tracked by s from now on.
func newConn(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue) (*conn, error) {
	c := new(conn)
	c.open(s, ep, wq, "tcp")
	if err := s.track(c); err != nil {
		ep.Close()
		return nil, err
	}
	return c, nil
}

// established sets what a connected endpoint needs.
func (c *conn) established() {
	c.remember()
	c.ep.SocketOptions().SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(c.s.patience.idle), tcpip.KeepaliveIntervalOption(c.s.patience.interval)
	// These fail for values out of range only.
	_ = c.ep.SetSockOpt(&idle)
	_ = c.ep.SetSockOpt(&interval)
	_ = c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, c.s.patience.count)
}

// Read reads what has arrived, waiting for the first byte.
func (c *conn) Read(b []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	n, err := c.read(b)
	return n, c.opError("read", err)
}

// read is Read with readMu held and a plain error.
func (c *conn) read(b []byte) (int, error) {
	deadline := c.readBy.passed()
	if err := c.check(deadline); err != nil || len(b) == 0 {
		return 0, err
	}
	for {
		c.dst = b
		res, terr := c.ep.Read(&c.dst, tcpip.ReadOptions{})
		c.dst = nil
		switch terr.(type) {
		case nil:
			c.s.unread.moderate(c, res.Count)
			return res.Count, nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.readable, deadline); err != nil {
				return 0, err
			}
		default:
			return 0, c.failure(terr)
		}
	}
}

// waitReadable returns when a read would not block.
func (c *conn) waitReadable() error {
	deadline := c.readBy.passed()
	for {
		if err := c.check(deadline); err != nil {
			return err
		}
		if c.ep.Readiness(waiter.ReadableEvents) != 0 {
			return nil
		}
		if err := c.wait(c.readable, deadline); err != nil {
			return err
		}
	}
}

// Write hands b to TCP, waiting for room in the send buffer and for the
// outbound queue to have room.
func (c *conn) Write(b []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	n, err := c.write(b)
	return n, c.opError("write", err)
}

// write is Write with writeMu held and a plain error.
func (c *conn) write(b []byte) (int, error) {
	deadline := c.writeBy.passed()
	if err := c.check(deadline); err != nil {
		return 0, err
	}
	done := 0
	for done < len(b) {
		if gate := c.s.out.gateShut(); gate != nil && !c.modest(gate, len(b)) {
			if err := c.wait(gate, deadline); err != nil {
				return done, err
			}
		}
		c.src.Reset(b[done:min(len(b), done+writeChunk)])
		n, terr := c.ep.Write(&c.src, tcpip.WriteOptions{})
		c.src.Reset(nil)
		done += int(n)
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.writable, deadline); err != nil {
				return done, err
			}
		default:
			return done, c.failure(terr)
		}
	}
	return done, nil
}

// pastGate is what a connection may write while the gate is shut, each time that it is.
// The gate is for those that fill the queue: a call, or a question, is not held up.
const pastGate = 16 << 10

// modest reports whether a write of n bytes may pass the gate that is shut.
func (c *conn) modest(gate <-chan struct{}, n int) bool {
	if c.gate != gate {
		c.gate, c.past = gate, 0
	}
	c.past += n
	return c.past <= pastGate
}

// Close ends the connection. What was written is still sent; if received data
// was not read, the peer gets a reset.
func (c *conn) Close() error {
	c.s.untrack(c)
	return c.close()
}

// CloseWrite sends the end of our stream. Reading goes on.
func (c *conn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

// CloseRead makes reads return io.EOF. Writing goes on.
func (c *conn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

func (c *conn) shutdown(flags tcpip.ShutdownFlags) error {
	if err := c.ended(); err != nil {
		return c.opError("close", err)
	}
	if terr := c.ep.Shutdown(flags); terr != nil {
		return c.opError("close", c.failure(terr))
	}
	return nil
}

// SetLinger with 0 makes Close reset the connection instead of ending it in
// order, so that the peer does not take a broken stream for a complete one.
func (c *conn) SetLinger(sec int) error {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{
		Enabled: sec >= 0, Timeout: time.Duration(max(sec, 0)) * time.Second,
	})
	return nil
}

var _ interface {
	io.ReaderFrom
	io.WriterTo
} = (*conn)(nil)
