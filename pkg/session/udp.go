package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/udpaccel"
	"softether-go/pkg/wire"
)

// A UDPPolicy says what goes by UDP acceleration.
type UDPPolicy int

const (
	UDPOff     UDPPolicy = iota // nothing; the server is not asked for it
	UDPAuto                     // all, while it measures better than TCP
	UDPRequire                  // all, and the session ends if that is impossible
)

// String names the policy as -udp does.
func (p UDPPolicy) String() string { return [...]string{"off", "auto", "require"}[p] }

// UDP says how to use UDP acceleration. The zero value is without.
type UDP struct {
	Policy UDPPolicy
	Port   uint16 // to send from; 0 leaves it to the system
	// MaxVersion is the latest version to speak; 0 means the latest there is.
	MaxVersion udpaccel.Version
	// Listen opens the socket, for a server at that address; nil means net.ListenPacket.
	Listen func(ctx context.Context, server netip.Addr, port uint16) (net.PacketConn, error)
}

func (u UDP) withDefaults() UDP {
	if u.MaxVersion == 0 {
		u.MaxVersion = udpaccel.MaxVersion
	}
	if u.Listen == nil {
		u.Listen = listenUDP
	}
	return u
}

// listenUDP opens a socket that is bound to no address, so that it goes on when ours
// changes.
func listenUDP(ctx context.Context, server netip.Addr, port uint16) (net.PacketConn, error) {
	network, any := "udp4", netip.IPv4Unspecified()
	if server.Is6() {
		network, any = "udp6", netip.IPv6Unspecified()
	}
	return new(net.ListenConfig).ListenPacket(ctx, network, netip.AddrPortFrom(any, port).String())
}

// udpOffer is what we offer at login, and what it takes to keep the promise.
type udpOffer struct {
	conn   net.PacketConn
	server netip.Addr // of the TCP connection
	wire.UDPOffer
}

// offerUDP prepares an offer on the way that the dialer's connection goes; nil if there
// is to be none, or there can be none: then it is for Require to complain.
func (d *dialer) offerUDP(ctx context.Context) (*udpOffer, error) {
	u := d.UDP
	server := remoteAddr(d.raw)
	if u.Policy != UDPRequire || !server.IsValid() { // nothing judges yet for UDPAuto
		return nil, nil
	}
	if _, rudp := d.raw.(FrameConn); rudp {
		if u.Policy == UDPRequire {
			return nil, final{errors.New("UDP acceleration is for sessions over TCP, and R-UDP has its own; use -udp auto or off")}
		}
		return nil, nil
	}
	if !d.Direct {
		if u.Policy == UDPRequire {
			return nil, final{errors.New("UDP acceleration does not go through a proxy; use -udp auto or off, or no proxy")}
		}
		return nil, nil
	}
	conn, err := u.Listen(ctx, server, u.Port)
	if err != nil && u.Policy == UDPRequire {
		return nil, fmt.Errorf("open a UDP socket: %w", err)
	}
	if err != nil {
		d.Log.Warn("no UDP acceleration, as there is no socket for it", "cause", err)
		return nil, nil
	}
	keys := make([]byte, udpaccel.KeyLenV1+udpaccel.KeyLenV2)
	rand.Read(keys)
	return &udpOffer{conn: conn, server: server, UDPOffer: wire.UDPOffer{
		MaxVersion: int(u.MaxVersion), Local: localAddr(d.raw), Port: portOf(conn.LocalAddr()),
		Key: keys[:udpaccel.KeyLenV1], KeyV2: keys[udpaccel.KeyLenV1:],
	}}, nil
}

func (o *udpOffer) close() {
	if o != nil {
		o.conn.Close()
	}
}

// final is an error that no other attempt mends.
type final struct{ error }

func (final) Permanent() bool { return true }
func (f final) Unwrap() error { return f.error }

func remoteAddr(c net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

func portOf(a net.Addr) uint16 {
	ap, _ := netip.ParseAddrPort(a.String())
	return ap.Port()
}

// accept makes a path of an offer and what the server granted. It owns the socket.
func (o *udpOffer) accept(c Config, w wire.Welcome) (*udpaccel.Path, error) {
	g := w.UDP
	if g == nil {
		return nil, errors.New("the server grants none: an administrator may have turned it off there")
	}
	version, send, receive := udpaccel.V1, o.Key, g.Key
	if g.Version == 2 {
		version, send, receive = udpaccel.V2, o.KeyV2, g.KeyV2
	}
	switch {
	case version > c.UDP.MaxVersion:
		return nil, fmt.Errorf("the server insists on version %d, which was not offered", g.Version)
	case !g.Encrypt && w.Encrypt:
		return nil, errors.New("the server wants it without encryption")
	case !g.Encrypt:
		version, send, receive = udpaccel.Plain, nil, nil
	case version == udpaccel.V1 && c.UDP.Policy == UDPAuto:
		return nil, errors.New("the server knows only its first version, whose RC4 protects less than TLS does; -udp require takes it all the same")
	}
	peers := []netip.AddrPort{netip.AddrPortFrom(o.server, g.Port)}
	if reported := g.Server; mayTry(reported, o.server) {
		peers = append(peers, netip.AddrPortFrom(reported, g.Port))
	}
	return udpaccel.New(o.conn, udpaccel.Config{
		Version: version, Fast: g.Fast, SendKey: send, ReceiveKey: receive,
		SendCookie: g.ServerCookie, ReceiveCookie: g.ClientCookie,
		Peers: peers, Wanted: c.UDP.Policy == UDPRequire, Compress: w.Compress, Log: c.Log,
	})
}

// udpWay makes a path of the offer, if there was one and the server took it. What is no
// use is closed.
func (d *dialer) udpWay(w wire.Welcome) (*udpaccel.Path, error) {
	if d.udp == nil {
		return nil, nil
	}
	path, err := d.udp.accept(d.Config, w)
	switch {
	case err == nil:
		return path, nil
	case d.UDP.Policy == UDPRequire:
		return nil, final{fmt.Errorf("no UDP acceleration: %w; use -udp auto or off", err)}
	}
	d.Log.Info("no UDP acceleration", "cause", err)
	d.udp.close()
	return nil, nil
}

// mayTry reports whether a server that is reached at one address may be looked for at
// the one that it believes to have too. A private one behind a public one leads, if
// anywhere, through the tunnel itself.
func mayTry(reported, reached netip.Addr) bool {
	return reported.IsValid() && reported != reached && reported.IsGlobalUnicast() && !reported.IsPrivate() &&
		reported.Is4() == reached.Is4()
}

// aUDPWay is the path beside the connections, and whether it is used.
type udpWay struct {
	*udpaccel.Path
	s *Session

	carries atomic.Bool // outbound frames go here
	parts   sync.Pool   // of *parts

	mu  sync.Mutex // guards why
	why string     // it carries, or does not

	toUDP, toTCP, large, waiting atomic.Uint64
}

// parts are a batch by what fits into a datagram.
type parts struct{ fit, large [][]byte }

// UDPStats tells of UDP acceleration.
type UDPStats struct {
	Why string // outbound frames go by UDP or do not; empty without a path

	Alive      uint64 // 1 if the server is heard, and hears us
	Carries    uint64 // 1 if outbound frames go by UDP
	MovedToUDP uint64 // times that they changed over
	MovedToTCP uint64 // and back

	LargeByTCP     uint64 // frames too long for one packet
	DroppedWaiting uint64 // frames dropped as there must be UDP and there was none
	RoundTripMS    uint64 // the shortest lately
	LossPerMille   uint64 // of the server's last keep-alives

	udpaccel.Stats
}

// UDP returns the state of UDP acceleration.
func (s *Session) UDP() UDPStats {
	w := s.way
	if w == nil {
		return UDPStats{}
	}
	q := w.Quality()
	w.mu.Lock()
	defer w.mu.Unlock()
	return UDPStats{
		Why: w.why, Alive: oneIf(w.Alive()), Carries: oneIf(w.carries.Load()),
		MovedToUDP: w.toUDP.Load(), MovedToTCP: w.toTCP.Load(),
		LargeByTCP: w.large.Load(), DroppedWaiting: w.waiting.Load(),
		RoundTripMS: uint64(q.RoundTrip.Milliseconds()), LossPerMille: uint64(q.Loss * 1000),
		Stats: w.Path.Stats(),
	}
}

func oneIf(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// send sends by UDP what goes there, and returns the rest.
func (w *udpWay) send(frames [][]byte) (rest [][]byte) {
	if !w.carries.Load() {
		return frames
	}
	longest := w.MaxFrame()
	if !slices.ContainsFunc(frames, func(f []byte) bool { return len(f) > longest && len(f) <= frame.MaxLen }) {
		if w.WriteFrames(frames) != nil {
			return w.unsent(frames)
		}
		return nil
	}
	p, _ := w.parts.Get().(*parts)
	if p == nil {
		p = &parts{}
	}
	for _, f := range frames {
		if len(f) > longest {
			p.large = append(p.large, f)
		} else {
			p.fit = append(p.fit, f)
		}
	}
	w.large.Add(uint64(len(p.large)))
	if len(p.fit) > 0 && w.WriteFrames(p.fit) != nil {
		rest = frames
	} else {
		rest = slices.Clone(p.large)
	}
	clear(p.fit)
	clear(p.large)
	p.fit, p.large = p.fit[:0], p.large[:0]
	w.parts.Put(p)
	return rest
}

// unsent is what becomes of frames that the system did not take.
func (w *udpWay) unsent(frames [][]byte) [][]byte {
	if w.s.cfg.UDP.Policy == UDPRequire {
		w.waiting.Add(uint64(len(frames)))
		return nil
	}
	return frames
}

// move changes the way of outbound frames and of the server's.
func (w *udpWay) move(toUDP bool, why string) {
	w.mu.Lock()
	w.why = why
	w.mu.Unlock()
	w.Want(toUDP)
	if w.carries.Swap(toUDP) == toUDP {
		return
	}
	if toUDP {
		w.toUDP.Add(1)
		w.s.cfg.Log.Info("frames go by UDP now", "server", w.Peer(), "protected_by", w.Version(), "cause", why)
	} else {
		w.toTCP.Add(1)
		w.s.cfg.Log.Info("frames go by TCP now", "cause", why)
	}
}

// run receives by UDP, and decides what goes there. That it ends is no fault of the
// session's, unless there must be UDP.
func (w *udpWay) run(ctx context.Context, dst frame.Writer) error {
	var failed error
	received := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		received <- w.Path.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
			failed = dst.WriteFrames(frames)
			return failed
		}))
	}()
	decided := w.decide(ctx)
	cancel()
	err := <-received
	switch {
	case decided != nil:
		return decided
	case failed != nil:
		return failed
	}
	return err
}

// requireWithin is how long UDP may take to get through where it must.
const requireWithin = 15 * time.Second

// decide chooses the way until ctx ends.
func (w *udpWay) decide(ctx context.Context) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	heard, since := false, time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		alive := w.Alive()
		if alive {
			heard, since = true, time.Now()
			if !w.carries.Load() {
				w.move(true, "it must")
			}
			continue
		}
		if time.Since(since) >= requireWithin {
			err := fmt.Errorf("UDP to %v does not get through, nothing came back in %v: let firewalls pass it to UDP ports 40000 to 44999 of the server, or use -udp auto", w.Peer(), requireWithin)
			if !heard {
				err = final{err}
			}
			return w.s.fail(err)
		}
	}
}
