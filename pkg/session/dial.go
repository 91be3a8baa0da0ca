package session

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"softether-go/pkg/pack"
	"softether-go/pkg/tlsconn"
	"softether-go/pkg/wire"
)

// Patience with a server that is being joined. (Mayaqua/Network.h and Cedar.h,
// TIMEOUT_TCP_PORT_CHECK 10 s, CONNECTING_TIMEOUT 15 s)
const (
	connectTimeout = 10 * time.Second
	stepTimeout    = 15 * time.Second
	// A server that asks RADIUS for a verdict may take several of its time-outs.
	loginTimeout = 60 * time.Second
)

// Dial opens a session. It blocks until the server has welcomed us, refused, or
// ctx has ended; every step has a deadline of its own. All errors are *Error.
func Dial(ctx context.Context, c Config) (*Session, error) {
	d := newDialer(c.withDefaults())
	s, err := d.dial(ctx)
	if err != nil {
		d.close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, &Error{Op: d.op, Server: d.server(), Err: err}
	}
	return s, nil
}

// dialer is a connection in the making.
type dialer struct {
	Config
	to     string            // where to connect; empty means the server
	over   string            // the network to connect by; empty means TCP
	pinned *x509.Certificate // the only one to accept; nil leaves it to Trust
	ticket []byte            // of a cluster's controller; nil logs in by what Config says

	op  Op
	raw net.Conn
	tls *tlsconn.Conn
	br  *bufio.Reader
	udp *udpOffer // nil without one
}

func newDialer(c Config) *dialer { return &dialer{Config: c} }

// server is what the server is called, in messages to it and to people.
func (d *dialer) server() string { return d.Config.address() }

func (d *dialer) begin(op Op) {
	d.op = op
	d.Progress(op)
}

func (d *dialer) close() {
	if d.raw != nil {
		d.raw.Close()
	}
	d.udp.close()
}

// maxHops bounds how often one login is sent on. A controller sends on once.
const maxHops = 4

// dial logs in, wherever that leads. Outside a cluster that is here.
func (d *dialer) dial(ctx context.Context) (*Session, error) {
	visited := []string{d.server()}
	for {
		s, err := d.attempt(ctx)
		var to wire.Redirect
		if !errors.As(err, &to) {
			return s, err
		}
		if err := d.follow(to); err != nil {
			return nil, err
		}
		if slices.Contains(visited, d.server()) {
			return nil, fmt.Errorf("%w: %s again, after %s", errRedirectLoop, d.server(), strings.Join(visited, ", "))
		}
		if visited = append(visited, d.server()); len(visited) > maxHops {
			return nil, fmt.Errorf("%w: %s", errRedirectLoop, strings.Join(visited, ", "))
		}
	}
}

// attempt logs in at one server. A wire.Redirect is among its errors.
func (d *dialer) attempt(ctx context.Context) (*Session, error) {
	if err := d.connect(ctx); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { d.raw.Close() })
	defer stop()
	if err := d.handshake(ctx); err != nil {
		return nil, err
	}
	hello, err := d.hello()
	if err != nil {
		return nil, plainEnd(err)
	}
	d.Log.Debug("greeted", "server", hello.Product, "version", hello.Version, "build", hello.Build)
	if d.udp, err = d.offerUDP(ctx); err != nil {
		return nil, err
	}
	welcome, err := d.login(hello)
	if err != nil {
		return nil, plainEnd(err)
	}
	way, err := d.udpWay(welcome)
	if err != nil {
		return nil, err
	}
	if !stop() { // ctx has ended and the connection with it
		return nil, ctx.Err()
	}
	s := d.session(welcome)
	if way != nil {
		s.way = &udpWay{Path: way, s: s, narrow: newNarrower()}
	}
	if d.UDP.Policy != UDPOff && d.byTCP() {
		s.chooser = newUDPChooser(s)
	}
	return s, nil
}

// follow takes leave of the controller and turns to the member of the cluster that it
// names. (Cedar/Protocol.c, ClientConnect)
func (d *dialer) follow(to wire.Redirect) error {
	member, err := x509.ParseCertificate(to.Cert)
	if err != nil {
		return fmt.Errorf("the cluster controller's word on the certificate of %v: %w", to.Member, err)
	}
	d.raw.SetDeadline(time.Now().Add(closeGrace))
	wire.WriteRequest(d.tls, d.server(), &pack.Pack{}) // it is waited for; that it may fail says nothing of the member
	d.tls.Close()
	d.udp.close()
	d.udp = nil
	port := to.Ports[0]
	if slices.Contains(to.Ports, uint16(d.Port)) {
		port = uint16(d.Port)
	}
	d.Host, d.Port = to.Member.String(), int(port)
	d.pinned, d.ticket = member, to.Ticket
	d.Log.Info("sent on to a member of the cluster", "member", d.server())
	return nil
}

// join opens one more connection of the session. The errors are not of type *Error.
func (s *Session) join(ctx context.Context) (*link, error) {
	d := newDialer(s.cfg)
	d.Progress = func(Op) {} // it is nobody's wait
	d.to, d.over, d.pinned = s.address, s.network, s.certificate
	l, err := d.join(ctx, s)
	if err == nil {
		return l, nil
	}
	d.close()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("%s %s: %w", d.op, d.server(), err)
}

func (d *dialer) join(ctx context.Context, s *Session) (*link, error) {
	if err := d.connect(ctx); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { d.raw.Close() })
	defer stop()
	if err := d.handshake(ctx); err != nil {
		return nil, err
	}
	if _, err := d.hello(); err != nil {
		return nil, plainEnd(err)
	}
	d.begin(OpJoin)
	p := wire.Join{SessionKey: s.welcome.SessionKey, Client: d.client()}.Pack()
	p.SetData("pencore", padding())
	reply, err := d.ask(p, stepTimeout)
	if err != nil {
		return nil, plainEnd(err)
	}
	dir, err := wire.ParseJoined(reply)
	if err != nil {
		return nil, err
	}
	if dir != wire.BothWays && !s.welcome.HalfConnection {
		return nil, errUnasked("one-way connections")
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return d.link(s, dir), nil
}

func (d *dialer) connect(ctx context.Context) (err error) {
	d.begin(OpConnect)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	to := d.to
	if to == "" {
		to = d.server()
	}
	over := d.over
	if over == "" {
		over = "tcp"
	}
	d.raw, err = d.DialContext(ctx, over, to)
	return err
}

func (d *dialer) handshake(ctx context.Context) error {
	d.begin(OpTLS)
	trust := d.Trust.config(d.Host, d.server())
	if d.pinned != nil {
		trust = pinnedConfig(d.Host, d.pinned)
	}
	below := d.raw
	if d.Cleartext {
		below = tlsconn.Records(below)
	}
	d.tls = tlsconn.Client(below, trust)
	d.raw.SetDeadline(time.Now().Add(stepTimeout))
	if err := d.tls.HandshakeContext(ctx); err != nil {
		return explainTLS(err)
	}
	d.br = bufio.NewReader(d.tls)
	state := d.tls.ConnectionState()
	d.Log.Debug("secured", "version", tls.VersionName(state.Version), "cipher", tls.CipherSuiteName(state.CipherSuite))
	return nil
}

// ask posts p and reads the reply.
func (d *dialer) ask(p *pack.Pack, patience time.Duration) (*pack.Pack, error) {
	d.raw.SetDeadline(time.Now().Add(patience))
	if err := wire.WriteRequest(d.tls, d.server(), p); err != nil {
		return nil, err
	}
	return wire.ReadReply(d.br)
}

// session makes the data phase of what the negotiation left.
func (d *dialer) session(w wire.Welcome) *Session {
	s := &Session{
		cfg:         d.Config,
		server:      d.server(),
		address:     d.again(),
		network:     d.network(),
		certificate: d.tls.ConnectionState().PeerCertificates[0],
		welcome:     w,
		every:       min(keepAliveEvery, w.Timeout/4),
		most:        min(d.connections(), w.MaxConnection),
		dead:        make(chan struct{}),
	}
	first := wire.BothWays
	if w.HalfConnection {
		first = wire.OutboundOnly
		s.most = max(2, s.most)
	}
	s.add(d.link(s, first))
	return s
}

// again returns where to connect to for another connection to the same server.
func (d *dialer) again() string {
	if d.Direct || d.network() != "" {
		return d.raw.RemoteAddr().String()
	}
	return d.server()
}

// network returns by what to connect for another connection.
func (d *dialer) network() string {
	if _, ok := d.raw.(FrameConn); ok {
		return d.raw.RemoteAddr().Network()
	}
	return ""
}

// link makes a link of what the negotiation left.
func (d *dialer) link(s *Session, dir wire.Direction) *link {
	d.raw.SetDeadline(time.Time{})
	early, _ := d.br.Peek(d.br.Buffered())
	if !s.welcome.Encrypt {
		return newLink(s, d.raw, nil, dir, early) // both sides forget TLS, without a notice
	}
	return newLink(s, d.raw, d.tls, dir, early)
}

// plainEnd says what an end of file in the negotiation means.
func plainEnd(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return wire.CodeDisconnected
	}
	return err
}
