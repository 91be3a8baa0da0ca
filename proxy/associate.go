package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httputil"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A PacketListener opens sockets for datagrams in the tunnel, for UDP ASSOCIATE.
//
// ListenPacket is called with the network "udp" and the address ":0", and returns a socket
// that sends to, and hears from, everybody that it can reach, by IPv4 and IPv6. It lasts
// longer than ctx. If it has the methods of *net.UDPConn with a netip.AddrPort, and
// WaitReadable, ReadNowFromUDPAddrPort and WriteNowToUDPAddrPort as package netstack's has
// them, they are used.
type PacketListener interface {
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
}

// A Resolver says which addresses a name has in the tunnel. The network is "ip". It returns
// soon after ctx has ended.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// A Drop says why a datagram was not passed on.
type Drop uint8

// The reasons by which dropped datagrams are counted.
const (
	DropForeign      Drop = iota // to the relay, but not from its client
	DropFragment                 // a fragment in the sense of RFC 1928
	DropMalformed                // a header cut short, or an address of an unknown kind
	DropDestination              // to where no datagram may go: port 0, loopback, ourselves
	DropNotPermitted             // to where the user may not reach
	DropRate                     // beyond the rate that the user may have
	DropUnresolved               // to a name that was not resolved
	DropWaiting                  // too many wait for names to be resolved
	DropFull                     // the tunnel is slower than the client sends
	DropTooLong                  // longer than the other side carries
	DropUnsent                   // not taken by the network, such as for lack of a route
	DropEarly                    // for a client that has not sent anything yet
	numDrops
)

var drops = [numDrops]string{"foreign", "fragment", "malformed", "destination", "not-permitted", "rate", "unresolved", "waiting", "full", "too-long", "unsent", "early"}

// String returns the name used in counters.
func (d Drop) String() string { return drops[d] }

const (
	// longestNear is what a datagram to the client may have, header included, where
	// its IP is version 4: 65535 less 20 of IP and 8 of UDP.
	longestNear = 65507

	// nearBuffer is for what comes while the reader is scheduled: fifteen of the
	// largest datagrams.
	nearBuffer = 1 << 20

	// bufferTime is how long a direction keeps its buffer when nothing comes.
	bufferTime = time.Second

	// maxFailures is how many reads may fail in a row.
	maxFailures = 100
)

// An association is what a client has by UDP ASSOCIATE: a socket near it and one in the
// tunnel, with which it talks to anybody.
type association struct {
	srv   *server
	user  User                           // whose rules count; may be nil
	host  netip.Addr                     // the only one that may send to near
	from  atomic.Pointer[netip.AddrPort] // the client's socket; nil until it is known
	near  socket
	far   socket
	sides sides // of Config.Beside
	names nameTable

	directions sync.WaitGroup
	stop       context.CancelCauseFunc

	moved atomic.Uint64 // grows with datagrams, for telling when it is idle

	// Of inbound alone:
	single  bool // the system does not cut rows of datagrams
	control segmentControl
}

// A socket is what datagrams come and go by.
type socket interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	SetReadDeadline(t time.Time) error
	LocalAddr() net.Addr
	Close() error
}

var errIdle = errors.New("no datagram for too long")

// serveAssociate is UDP ASSOCIATE. It calls done at the end, and may return before.
func (s *server) serveAssociate(ctx context.Context, client net.Conn, req *request, done func()) {
	a, ref := s.associate(ctx, client, req)
	if ref != nil {
		s.refuse(client, ref)
		done()
		return
	}
	if err := s.answer(client, req.version.granted(a.near.LocalAddr())); err != nil {
		a.close()
		s.refused(client.RemoteAddr(), Canceled, err)
		done()
		return
	}
	s.counters.requests.Add(1)
	s.counters.associations.Add(1)
	go func() { // awaited by done; on a stack that no handshake has grown
		defer done()
		defer s.counters.associations.Add(-1)
		cause := a.run(ctx, client)
		s.Log.Debug("association ended", "client", client.RemoteAddr(), "cause", cause)
	}()
}

// associate opens the two sockets. The client's is on the address that its connection
// came in by, where it will be reached too.
func (s *server) associate(ctx context.Context, client net.Conn, req *request) (*association, *refusal) {
	local, lok := client.LocalAddr().(*net.TCPAddr)
	remote, rok := client.RemoteAddr().(*net.TCPAddr)
	switch {
	case req.version != socks5 || s.PacketListener == nil:
		return nil, req.version.refuse(BadCommand, errors.New("no UDP ASSOCIATE here"))
	case !lok || !rok:
		return nil, req.version.refuse(BadCommand, errors.New("UDP ASSOCIATE takes a client with an IP address"))
	}
	ip := local.AddrPort().Addr().Unmap()
	var lc net.ListenConfig
	near, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		return nil, req.version.refuse(Other, fmt.Errorf("open a socket towards the client: %w", err))
	}
	far, err := s.PacketListener.ListenPacket(ctx, "udp", ":0")
	if err != nil {
		near.Close()
		return nil, req.version.refuse(dialReason(err), fmt.Errorf("open a socket in the tunnel: %w", err))
	}
	_ = near.(*net.UDPConn).SetReadBuffer(nearBuffer) // as far as the system lets us
	a := &association{srv: s, user: visitorOf(ctx).user, host: remote.AddrPort().Addr().Unmap().WithZone(""), near: socketOf(near), far: socketOf(far)}
	a.names.known = make(map[string]*name)
	a.announce(req, remote)
	return a, nil
}

// announce notes the address that the client says it will send from, which saves it from
// being told by the first datagram. A client behind a translator of addresses does not
// know it, and is told so by an address that is not the one it came from.
func (a *association) announce(req *request, remote *net.TCPAddr) {
	host, err := netip.ParseAddr(req.host)
	if err != nil || req.port < 1 || req.port > 65535 {
		return
	}
	if host = host.Unmap(); host == a.host || host.IsUnspecified() {
		from := netip.AddrPortFrom(a.host.WithZone(remote.Zone), uint16(req.port))
		a.from.Store(&from)
	}
}

func (a *association) close() {
	a.sides.close()
	_ = a.near.Close()
	_ = a.far.Close()
}

// run carries datagrams until the client's connection ends, there were none for too
// long, or ctx ends. It returns why.
func (a *association) run(ctx context.Context, control net.Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	a.stop = cancel
	stop := context.AfterFunc(ctx, func() {
		a.close()
		_ = control.SetReadDeadline(aLongTimeAgo)
	})
	defer stop()
	a.directions.Go(func() { cancel(a.receive(a.near, 0, &a.srv.buffers, a.fromClient(ctx))) })
	a.directions.Go(func() { cancel(a.inbound()) })
	cancel(a.watch(ctx, control))
	a.directions.Wait()
	a.names.lookups.Wait()
	return context.Cause(ctx)
}

// watch reads from the client's connection, which says nothing any more, until it ends or
// the association has been idle for its time.
func (a *association) watch(ctx context.Context, control net.Conn) error {
	const looks = 4 // a time-out is this coarse
	period := a.srv.AssociateTimeout / looks
	buf := make([]byte, 64)
	moved, quiet := a.moved.Load(), 0
	for {
		_ = control.SetReadDeadline(time.Now().Add(period))
		if ctx.Err() != nil { // before or after the deadline, so that one of us sees it
			return context.Cause(ctx)
		}
		_, err := control.Read(buf)
		switch {
		case err != nil && !isTimeout(err):
			return fmt.Errorf("the client's connection: %w", err)
		case err == nil:
			continue
		}
		now := a.moved.Load()
		if quiet++; now != moved {
			moved, quiet = now, 0
		}
		if quiet == looks {
			return errIdle
		}
	}
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

func (a *association) drop(why Drop) { a.srv.counters.dropped[why].Add(1) }

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

var (
	errDestination = errors.New("no datagram may go there")
	errRules       = errors.New("the user may not send there")
	errRate        = errors.New("the user sends too fast")
)

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
