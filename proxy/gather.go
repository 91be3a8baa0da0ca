package proxy

import (
	"errors"
	"net/netip"
	"sync"
	"syscall"
)

// What goes to a client in a row of equal datagrams goes by one system call where the
// system can cut it (UDP_SEGMENT, Linux 4.18): with 1200 bytes each and 32 of them that
// takes 0.6 µs a datagram instead of 4.2. Receiving several at once is not worth it
// (recvmmsg: 0.5 instead of 0.6), nor is sending several without that (sendmmsg: 3.8).
const (
	maxSegments = 64 // UDP_MAX_SEGMENTS of the first kernels that can

	// rowBuffer holds a row and, behind it, the largest datagram that does not belong to
	// it: 2 × (22 + 65507) bytes.
	rowBuffer = 128 << 10
)

var rowBuffers = sync.Pool{New: func() any { return new([rowBuffer]byte) }}

// rows lends buffers for rows.
type rows struct{}

func (rows) Get() []byte  { return rowBuffers.Get().(*[rowBuffer]byte)[:] }
func (rows) Put(b []byte) { rowBuffers.Put((*[rowBuffer]byte)(b)) }

// nowReader is a socket that can say that nothing more has come.
type nowReader interface {
	ReadNowFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
}

// A rowSocket is a socket near a client of the system's own, which a row can go by as one.
type rowSocket interface {
	syscall.Conn
	WriteMsgUDPAddrPort(b, control []byte, to netip.AddrPort) (n, controlled int, err error)
}

// A row is datagrams for the client that lie one behind the other, headers included. All
// are as long as the first but for the last, which may be shorter.
type row struct {
	buf        *[rowBuffer]byte
	begin, end int
	header     int // of each datagram
	size       int // of each datagram
	count      int
}

// start makes a row of one datagram, of n bytes at headerIPv6 in the buffer.
func (r *row) start(n int, peer netip.AddrPort) {
	r.begin = putHeader(r.buf[:], headerIPv6, peer)
	r.end = headerIPv6 + n
	r.header, r.size, r.count = headerIPv6-r.begin, r.end-r.begin, 1
}

// open reports whether the row takes another one.
func (r *row) open() bool {
	length := r.end - r.begin
	return length == r.count*r.size && r.count < maxSegments && length+r.size <= longestNear
}

// add takes in the datagram of n bytes that lies behind the row with room for a header
// like its others', if it can.
func (r *row) add(n int, peer netip.AddrPort) bool {
	header := headerIPv4
	if !peer.Addr().Unmap().Is4() {
		header = headerIPv6
	}
	if header != r.header || header+n > r.size {
		return false
	}
	putHeader(r.buf[:], r.end+header, peer)
	r.end += header + n
	r.count++
	return true
}

// next makes a row of the datagram that could not be added.
func (r *row) next(n int, peer netip.AddrPort) {
	copy(r.buf[headerIPv6:], r.buf[r.end+r.header:][:n])
	r.start(n, peer)
}

// fromPeers passes on what comes from peers, in rows, beginning with a datagram that lies
// in the row's buffer. It returns when there is no more at the moment.
func (a *association) fromPeers(far nowReader, r *row, n int, peer netip.AddrPort) {
	for r.start(n, peer); ; {
		if !r.open() {
			a.sendRow(r)
			r.count = 0
		}
		at := r.end + r.header
		if r.count == 0 {
			at = headerIPv6
		}
		n, peer, err := far.ReadNowFromUDPAddrPort(r.buf[at:])
		switch {
		case err != nil: // also for good, which the next read will say
			a.sendRow(r)
			return
		case r.count == 0:
			r.start(n, peer)
		case !r.add(n, peer):
			a.sendRow(r)
			r.next(n, peer)
		}
	}
}

// sendRow sends a row, if there is one, to the client.
func (a *association) sendRow(r *row) {
	b, near := r.buf[r.begin:r.end], a.near.(rowSocket)
	switch {
	case r.count == 0:
		return
	case r.count > 1 && !a.single && a.user == nil: // whose rate is kept one by one
		client := a.from.Load()
		if client == nil {
			break
		}
		_, _, err := near.WriteMsgUDPAddrPort(b, segments(&a.control, r.size), *client)
		if err == nil {
			a.arrived(r.count, len(b)-r.count*r.header)
			return
		}
		// What goes by one way cannot be cut there. Another error is EINVAL, for
		// datagrams that do not fit into a packet.
		a.single = errors.Is(err, syscall.EIO)
	}
	for len(b) > 0 {
		n := min(r.size, len(b))
		a.toClient(b[:n], n-r.header)
		b = b[n:]
	}
}
