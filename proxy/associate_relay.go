package proxy

import (
	"context"
	"errors"
	"net"
	"net/http/httputil"
	"net/netip"
	"syscall"
	"time"
)

// A socket is what datagrams come and go by.
type socket interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	SetReadDeadline(t time.Time) error
	LocalAddr() net.Addr
	Close() error
}

// inbound passes on what comes from peers until there is no more, and returns why.
func (a *association) inbound() error {
	far, more := a.far.(nowReader)
	near, kernel := a.near.(rowSocket)
	if !more || !kernel || !canSegment(near) {
		return a.receive(a.far, headerIPv6, &a.srv.buffers, a.fromPeer)
	}
	var r row
	return a.receive(a.far, headerIPv6, rows{}, func(b []byte, peer netip.AddrPort) {
		r.buf = (*[rowBuffer]byte)(b[:rowBuffer])
		a.fromPeers(far, &r, len(b)-headerIPv6, peer)
		r.buf = nil // may be given back
	})
}

// receive hands every datagram of a socket to take, in a buffer with as much room before
// it. It holds the buffer only while there are some, and returns why there are no more.
func (a *association) receive(from socket, room int, buffers httputil.BufferPool, take func(b []byte, from netip.AddrPort)) error {
	var lent []byte
	defer func() {
		if lent != nil {
			buffers.Put(lent)
		}
	}()
	busy, failed := false, 0
	for {
		if lent == nil {
			if err := waitReadable(from); err != nil {
				return err
			}
			lent = buffers.Get()
			_ = from.SetReadDeadline(time.Now().Add(bufferTime))
		}
		n, addr, err := from.ReadFromUDPAddrPort(lent[room:])
		switch {
		case err == nil:
			take(lent[:room+n], addr)
			busy, failed = true, 0
		case errors.Is(err, net.ErrClosed):
			return err
		case isTimeout(err) && busy:
			busy = false
			_ = from.SetReadDeadline(time.Now().Add(bufferTime))
		case isTimeout(err):
			buffers.Put(lent)
			lent = nil
			_ = from.SetReadDeadline(time.Time{})
		default:
			// Such as that an earlier datagram was refused, on some systems.
			if failed++; failed == maxFailures {
				return err
			}
		}
	}
}

// waitReadable waits for a datagram without holding a buffer, where s can.
func waitReadable(s socket) error {
	switch s := s.(type) {
	case interface{ WaitReadable() error }:
		return s.WaitReadable()
	case *net.UDPConn:
		return waitKernel(s)
	}
	return nil
}

// fromClient returns what passes the client's datagrams on. ctx is that of lookups.
func (a *association) fromClient(ctx context.Context) func(b []byte, from netip.AddrPort) {
	return func(b []byte, from netip.AddrPort) {
		client := a.from.Load()
		if from.Addr().Unmap().WithZone("") != a.host || client != nil && *client != from {
			a.drop(DropForeign)
			return
		}
		d, ok := parseDatagram(b)
		switch {
		case !ok:
			a.drop(DropMalformed)
			return
		case d.fragment != 0: // RFC 1928 section 7: who does not reassemble drops
			a.drop(DropFragment)
			return
		}
		if client == nil {
			first := from
			a.from.Store(&first)
		}
		a.moved.Add(1)
		if d.name != nil {
			a.toName(ctx, d)
			return
		}
		a.count(len(d.data), a.send(d.data, "", d.to))
	}
}

// send passes a datagram on to a peer, whose name is host if it has one. It never waits:
// what the tunnel has no room for is to be dropped.
func (a *association) send(data []byte, host string, to netip.AddrPort) error {
	if !datagramMayGo(to) || a.srv.Own != nil && a.srv.Own("udp", to) {
		return errDestination
	}
	if a.user != nil {
		if a.user.Permits(host, to.Addr(), to.Port()) != nil {
			return errRules
		}
		if !a.user.MaySend(len(data)) {
			return errRate
		}
	}
	far, err := a.towards(host, to.Addr())
	if err != nil {
		return err
	}
	if now, ok := far.(interface {
		WriteNowToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	}); ok {
		_, err = now.WriteNowToUDPAddrPort(data, to)
	} else {
		_, err = far.WriteToUDPAddrPort(data, to)
	}
	return err
}

// count counts a datagram of so many bytes that was sent, or was not.
func (a *association) count(size int, err error) {
	switch {
	case err == nil:
		a.srv.counters.datagramsOut.Add(1)
		a.srv.counters.outbound.Add(uint64(size))
	case err == errDestination:
		a.drop(DropDestination)
	case err == errRules:
		a.drop(DropNotPermitted)
	case err == errRate:
		a.drop(DropRate)
	case errors.Is(err, syscall.EAGAIN):
		a.drop(DropFull)
	case errors.Is(err, syscall.EMSGSIZE):
		a.drop(DropTooLong)
	default:
		a.drop(DropUnsent)
	}
}

// datagramMayGo reports whether an address can mean a peer in the tunnel. Groups and
// broadcasts can: programs find each other by them.
func datagramMayGo(to netip.AddrPort) bool {
	addr := to.Addr()
	return addr.IsValid() && to.Port() != 0 && !addr.IsLoopback() && !addr.IsUnspecified() && !addr.IsLinkLocalUnicast()
}

// fromPeer passes a datagram of anybody in the tunnel on to the client, with the address
// that it came from.
func (a *association) fromPeer(b []byte, peer netip.AddrPort) {
	a.toClient(b[putHeader(b, headerIPv6, peer):], len(b)-headerIPv6)
}

// toClient sends a datagram, of which size bytes are data, to the client.
func (a *association) toClient(b []byte, size int) {
	client := a.from.Load()
	if client == nil {
		a.drop(DropEarly)
		return
	}
	if len(b) > longestNear {
		a.drop(DropTooLong)
		return
	}
	if a.user != nil && !a.user.MayReceive(size) {
		a.drop(DropRate)
		return
	}
	if _, err := a.near.WriteToUDPAddrPort(b, *client); err != nil {
		a.drop(DropUnsent)
		return
	}
	a.arrived(1, size)
}

// arrived counts datagrams to the client and the bytes of their data.
func (a *association) arrived(count, size int) {
	a.moved.Add(1)
	a.srv.counters.datagramsIn.Add(uint64(count))
	a.srv.counters.inbound.Add(uint64(size))
}

// socketOf returns a PacketConn by the methods that do not allocate, if it has them.
func socketOf(c net.PacketConn) socket {
	if s, ok := c.(socket); ok {
		return s
	}
	return plainSocket{c}
}

// plainSocket is a PacketConn of another kind.
type plainSocket struct{ net.PacketConn }

func (s plainSocket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := s.ReadFrom(b)
	if a, ok := from.(*net.UDPAddr); ok {
		return n, a.AddrPort(), err
	}
	return n, netip.AddrPort{}, err
}

func (s plainSocket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return s.WriteTo(b, net.UDPAddrFromAddrPort(to))
}
