package netstack

import (
	"io"
	"net"
	"sync"
	"syscall"
)

// relayBuffers holds the buffers of WriteTo and ReadFrom. A buffer is taken when
// there is something to carry and given back before waiting again.
var relayBuffers = sync.Pool{New: func() any {
	b := make([]byte, writeChunk)
	return &b
}}

// WriteTo copies what arrives to w until the peer ends its stream. It holds no
// buffer while it waits.
func (c *conn) WriteTo(w io.Writer) (int64, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	var total int64
	for {
		if err := c.waitReadable(); err != nil {
			return total, c.opError("read", err)
		}
		n, err := c.forward(w)
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// forward moves one buffer's worth to w.
func (c *conn) forward(w io.Writer) (int, error) {
	buf := relayBuffers.Get().(*[]byte)
	defer relayBuffers.Put(buf)
	n, err := c.read(*buf)
	if err != nil {
		return 0, c.opError("read", err)
	}
	return w.Write((*buf)[:n])
}

// ReadFrom copies r to the connection until r ends. From a socket of the kernel's it
// holds no buffer while it waits. (io.Copy hides the type of a *net.TCPConn: call
// ReadFrom directly.)
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	next := readInto(r)
	if k := kernelConn(r); k != nil {
		if raw, err := k.(syscall.Conn).SyscallConn(); err == nil {
			next = readRaw(k, raw)
		}
	}
	var total int64
	for {
		buf, n, readErr := next()
		if n > 0 {
			done, err := c.Write((*buf)[:n])
			total += int64(done)
			if err != nil {
				relayBuffers.Put(buf)
				return total, err
			}
		}
		if buf != nil {
			relayBuffers.Put(buf)
		}
		if readErr == io.EOF {
			return total, nil
		}
		if readErr != nil {
			return total, readErr
		}
	}
}

// kernelConn returns r if it is a stream of the kernel's, or nil.
func kernelConn(r io.Reader) net.Conn {
	switch k := r.(type) {
	case *net.TCPConn:
		return k
	case *net.UnixConn:
		return k
	}
	return nil
}

// readInto returns a function that reads from r into a buffer of the pool, which
// its caller puts back.
func readInto(r io.Reader) func() (*[]byte, int, error) {
	return func() (*[]byte, int, error) {
		buf := relayBuffers.Get().(*[]byte)
		n, err := r.Read(*buf)
		return buf, n, err
	}
}
