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
	// History is what sessions before this one have found out, for UDPAuto; share one
	// among those that follow each other. nil means that there were none.
	History *UDPHistory
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
	if u.History == nil {
		u.History = &UDPHistory{}
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
	switch {
	case u.Policy == UDPOff, u.Policy == UDPAuto && !u.History.wants():
		return nil, nil
	case !d.byTCP() && u.Policy == UDPRequire:
		return nil, final{errors.New("UDP acceleration goes beside a direct TCP connection alone; use -udp auto or off, or neither proxy nor -transport")}
	case !d.byTCP():
		return nil, nil
	}
	server := remoteAddr(d.raw)
	conn, err := u.Listen(ctx, server, u.Port)
	if err != nil && u.Policy == UDPRequire {
		return nil, fmt.Errorf("open a UDP socket: %w", err)
	}
	if err != nil {
		d.Log.Warn("no UDP acceleration, as there is no socket for it", "cause", err)
		u.History.giveUp() // or the session would end to ask again
		return nil, nil
	}
	keys := make([]byte, udpaccel.KeyLenV1+udpaccel.KeyLenV2)
	rand.Read(keys)
	return &udpOffer{conn: conn, server: server, UDPOffer: wire.UDPOffer{
		MaxVersion: int(u.MaxVersion), Local: localAddr(d.raw), Port: portOf(conn.LocalAddr()),
		Key: keys[:udpaccel.KeyLenV1], KeyV2: keys[udpaccel.KeyLenV1:],
	}}, nil
}

// byTCP reports whether the connection goes to the server itself, by TCP.
func (d *dialer) byTCP() bool {
	_, tcp := d.raw.RemoteAddr().(*net.TCPAddr)
	return d.Direct && tcp
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
		Peers: peers, Wanted: true, Compress: w.Compress, Log: c.Log,
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
	d.UDP.History.giveUp() // or the session would end to ask again
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

// udpWay is the path beside the connections, and whether it is used.
type udpWay struct {
	*udpaccel.Path
	s *Session

	carries atomic.Bool // outbound frames go here
	parts   sync.Pool   // of *parts
	narrow  *narrower

	large, waiting atomic.Uint64
}

// parts are a batch by what fits into a datagram.
type parts struct{ fit, large [][]byte }

// UDPStats tells of UDP acceleration.
type UDPStats struct {
	Why string // frames go by UDP, or do not

	Alive      uint64 // 1 if the server is heard, and hears us
	Carries    uint64 // 1 if outbound frames go by UDP
	MovedToUDP uint64 // times that they changed over
	MovedToTCP uint64 // and back

	LargeByTCP     uint64 // frames too long for one packet
	ToldNarrow     uint64 // times that a sender inside was told to make his shorter
	DroppedWaiting uint64 // frames dropped as there must be UDP and there was none
	RoundTripMS    uint64 // the shortest lately
	LossPerMille   uint64 // of the server's last keep-alives

	udpaccel.Stats
}

// UDP returns the state of UDP acceleration.
func (s *Session) UDP() UDPStats {
	c := s.chooser
	if c == nil {
		return UDPStats{}
	}
	stats := UDPStats{Why: c.reason(), MovedToUDP: c.toUDP.Load(), MovedToTCP: c.toTCP.Load()}
	if w := s.way; w != nil {
		q := w.Quality()
		stats.Alive, stats.Carries = oneIf(w.Alive()), oneIf(w.carries.Load())
		stats.ToldNarrow = w.narrow.told.Load()
		stats.LargeByTCP, stats.DroppedWaiting = w.large.Load(), w.waiting.Load()
		stats.RoundTripMS, stats.LossPerMille = uint64(q.RoundTrip.Milliseconds()), uint64(q.Loss*1000)
		stats.Stats = w.Path.Stats()
	}
	return stats
}

// ByUDP reports whether outbound frames go by UDP.
func (s *Session) ByUDP() bool { return s.way != nil && s.way.carries.Load() }

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
			w.narrow.note(outward, f)
		} else {
			p.fit = append(p.fit, f)
		}
	}
	w.large.Add(uint64(len(p.large)))
	rest = slices.Clone(p.large)
	if len(p.fit) > 0 && w.WriteFrames(p.fit) != nil {
		rest = append(rest, w.unsent(p.fit)...)
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

// run receives by UDP. That it ends is no fault of the session's, unless dst failed.
func (w *udpWay) run(ctx context.Context, dst frame.Writer) error {
	var failed error
	var talk sync.WaitGroup
	inner, cancel := context.WithCancel(ctx)
	talk.Go(func() {
		w.narrow.run(inner, func() int { return w.MaxFrame() - frame.HeaderLen }, dst, w.s)
	})
	err := w.Path.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
		longest := w.MaxFrame()
		for _, f := range frames {
			if len(f) > longest {
				w.narrow.note(inward, f)
			}
		}
		failed = dst.WriteFrames(frames)
		return failed
	}))
	cancel()
	talk.Wait()
	if ctx.Err() == nil && failed == nil {
		w.s.cfg.Log.Warn("UDP acceleration has ended", "cause", err)
	}
	return failed
}
