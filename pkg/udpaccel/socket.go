package udpaccel

import (
	"net"
	"net/netip"
	"time"
)

const (
	// readBatch is how many datagrams one read takes at most: at 1400 bytes as much as
	// a TLS read of tlsconn's.
	readBatch = 64
	// maxRun bounds the datagrams that the kernel is asked to cut from one buffer, and
	// maxRunBytes the buffer. (UDP_MAX_SEGMENTS of include/linux/udp.h; 65535 less the
	// headers of IPv6 and UDP)
	maxRun      = 64
	maxRunBytes = 65535 - 48
	// slabLen is room for the datagrams of one write: two full runs.
	slabLen = 128 << 10
	// maxRuns bounds the runs of one write.
	maxRuns = 128
)

// A run is some datagrams that stand one behind the other in a slab, all of the same
// size but perhaps the last, which is then shorter.
type run struct {
	start, end int // in the slab
	size       int // of each
	n          int
}

// add tries to make the datagram that ends at end, of that size, part of the run.
func (r *run) add(size, end int) bool {
	if r.n == maxRun || size > r.size || end-r.start > maxRunBytes || (r.end-r.start)%r.size != 0 {
		return false
	}
	r.end, r.n = end, r.n+1
	return true
}

// A socket carries datagrams in batches. One goroutine reads, one at a time writes.
type socket interface {
	// write sends runs of slab to to. It waits for room in the socket's buffer, not for
	// the network. sent is how many runs have gone; the error is about the next.
	write(slab []byte, runs []run, to netip.AddrPort) (sent int, err error)
	// read waits for datagrams and takes as many as there are and in has room for.
	read(in *inbox) error
	setReadDeadline(time.Time) error
	localPort() uint16
	// mtu is the longest packet that, as far as is known, gets to a host whole; 0 if
	// nothing is known.
	mtu(to netip.AddrPort) int
	close() error
}

// An inbox holds the datagrams of one read.
type inbox struct {
	n    int
	data [readBatch][]byte // views of room; longer than maxDatagram means cut
	from [readBatch]netip.AddrPort
	room []byte
}

// slotLen is what a datagram has in an inbox: one byte tells what is too long.
const slotLen = maxDatagram + 1

func newInbox() *inbox { return &inbox{room: make([]byte, readBatch*slotLen)} }

// slot is where the i-th datagram goes.
func (b *inbox) slot(i int) []byte { return b.room[i*slotLen : (i+1)*slotLen : (i+1)*slotLen] }

// newSocket makes a socket of c, which is then its own.
func newSocket(c net.PacketConn) (socket, error) {
	if udp, ok := c.(*net.UDPConn); ok {
		return newUDPSocket(udp)
	}
	return plainSocket{c}, nil
}

// plainSocket is any PacketConn, such as a test's.
type plainSocket struct{ net.PacketConn }

func (s plainSocket) write(slab []byte, runs []run, to netip.AddrPort) (int, error) {
	for i, r := range runs {
		for at := r.start; at < r.end; at += r.size {
			if _, err := s.WriteTo(slab[at:min(at+r.size, r.end)], net.UDPAddrFromAddrPort(to)); err != nil {
				return i, err
			}
		}
	}
	return len(runs), nil
}

func (s plainSocket) read(in *inbox) error {
	in.n = 0
	n, from, err := s.ReadFrom(in.slot(0))
	if err != nil {
		return err
	}
	in.data[0], in.from[0], in.n = in.slot(0)[:n], addrPortOf(from), 1
	return nil
}

func (s plainSocket) setReadDeadline(t time.Time) error { return s.SetReadDeadline(t) }
func (s plainSocket) localPort() uint16                 { return portOf(s.LocalAddr()) }
func (s plainSocket) mtu(netip.AddrPort) int            { return 0 }
func (s plainSocket) close() error                      { return s.Close() }

func portOf(a net.Addr) uint16 { return addrPortOf(a).Port() }

// addrPortOf reads an address; what cannot be read is no address.
func addrPortOf(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return unmap(ap)
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
