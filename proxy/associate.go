package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
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

func (a *association) drop(why Drop) { a.srv.counters.dropped[why].Add(1) }

var (
	errDestination = errors.New("no datagram may go there")
	errRules       = errors.New("the user may not send there")
	errRate        = errors.New("the user sends too fast")
)
