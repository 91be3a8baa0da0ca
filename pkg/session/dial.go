package session

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strconv"
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

// Config says which session to open. Host, Hub and User are required.
type Config struct {
	Host     string
	Port     int // 0 means 443
	Hub      string
	User     string
	Auth     wire.AuthType
	Password string // for HashedPass and PlainPassword; never logged
	Trust    Trust

	PasswordHash *[wire.HashLen]byte // for HashedPass, in place of Password; as secret
	Identity     *Identity           // for Certificate

	// Bridge asks for the bridge and routing mode: this end is not one station but a
	// network of them. See wire.Login.
	Bridge bool

	// UniqueID identifies this process to the server; keep it over reconnects.
	UniqueID [16]byte

	// DialContext opens the TCP connection; nil means a net.Dialer, which tries
	// IPv6 and IPv4 side by side.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Progress is told each step as it begins; nil means nobody listens.
	Progress func(Op)
	Log      *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	if c.Port == 0 {
		c.Port = 443
	}
	if c.DialContext == nil {
		c.DialContext = (&net.Dialer{Timeout: connectTimeout}).DialContext
	}
	if c.Progress == nil {
		c.Progress = func(Op) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) address() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// Dial opens a session. It blocks until the server has welcomed us, refused, or
// ctx has ended; every step has a deadline of its own. All errors are *Error.
func Dial(ctx context.Context, c Config) (*Session, error) {
	d := dialer{Config: c.withDefaults()}
	s, err := d.dial(ctx)
	if err != nil {
		if d.raw != nil {
			d.raw.Close()
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, &Error{Op: d.op, Server: d.address(), Err: err}
	}
	return s, nil
}

// dialer is a session in the making.
type dialer struct {
	Config
	op  Op
	raw net.Conn
	tls *tlsconn.Conn
	br  *bufio.Reader
}

func (d *dialer) begin(op Op) {
	d.op = op
	d.Progress(op)
}

func (d *dialer) dial(ctx context.Context) (*Session, error) {
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
	welcome, err := d.login(hello)
	if err != nil {
		return nil, plainEnd(err)
	}
	if !stop() { // ctx has ended and the connection with it
		return nil, ctx.Err()
	}
	return d.session(welcome), nil
}

func (d *dialer) connect(ctx context.Context) (err error) {
	d.begin(OpConnect)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	d.raw, err = d.DialContext(ctx, "tcp", d.address())
	return err
}

func (d *dialer) handshake(ctx context.Context) error {
	d.begin(OpTLS)
	d.tls = tlsconn.Client(d.raw, d.Trust.config(d.Host, d.address()))
	d.raw.SetDeadline(time.Now().Add(stepTimeout))
	if err := d.tls.HandshakeContext(ctx); err != nil {
		return explainTLS(err)
	}
	d.br = bufio.NewReader(d.tls)
	state := d.tls.ConnectionState()
	d.Log.Debug("secured", "version", tls.VersionName(state.Version), "cipher", tls.CipherSuiteName(state.CipherSuite))
	return nil
}

func (d *dialer) hello() (wire.Hello, error) {
	d.begin(OpHello)
	d.raw.SetDeadline(time.Now().Add(stepTimeout))
	if err := wire.WriteSignature(d.tls, d.address()); err != nil {
		return wire.Hello{}, err
	}
	p, err := wire.ReadReply(d.br)
	if err != nil {
		return wire.Hello{}, err
	}
	return wire.ParseHello(p)
}

func (d *dialer) login(hello wire.Hello) (wire.Welcome, error) {
	d.begin(OpLogin)
	d.raw.SetDeadline(time.Now().Add(loginTimeout))
	request, err := d.loginPack(hello)
	if err != nil {
		return wire.Welcome{}, err
	}
	if err := wire.WriteRequest(d.tls, d.address(), request); err != nil {
		return wire.Welcome{}, err
	}
	p, err := wire.ReadReply(d.br)
	if err != nil {
		return wire.Welcome{}, err
	}
	w, err := wire.ParseWelcome(p)
	if err != nil {
		return w, d.explainRefusal(err)
	}
	// We asked for encryption and for nothing else.
	switch {
	case !w.Encrypt:
		return w, errUnencrypted
	case w.Compress:
		return w, errUnasked("compression")
	case w.HalfConnection:
		return w, errUnasked("one-way connections")
	}
	return w, nil
}

type errUnasked string

func (e errUnasked) Error() string {
	return "the server insists on " + string(e) + ", which we did not ask for"
}

// What we call ourselves. The name must contain neither "server" nor "bridge",
// which would make us one (Cedar/Protocol.c, ServerAccept), and the build is high
// because servers turn old clients away.
const (
	productName    = "softether-go"
	productVersion = 502
	productBuild   = 9999
)

func (d *dialer) loginPack(hello wire.Hello) (*pack.Pack, error) {
	l := wire.Login{
		Hub:           d.Hub,
		User:          d.User,
		MaxConnection: 1,
		Bridge:        d.Bridge,
		Client: wire.ClientInfo{
			Product: productName, Version: productVersion, Build: productBuild,
			OS: runtime.GOOS, Server: d.Host, Port: d.Port,
			Local: localAddr(d.raw), UniqueID: d.UniqueID,
		},
	}
	if err := d.authenticate(&l, hello.Random); err != nil {
		return nil, err
	}
	p := l.Pack()
	p.SetData("pencore", padding())
	return p, nil
}

func localAddr(c net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr()
}

// session makes the data phase of what the negotiation left.
func (d *dialer) session(w wire.Welcome) *Session {
	d.raw.SetDeadline(time.Time{})
	early, _ := d.br.Peek(d.br.Buffered())
	return &Session{
		raw:     d.raw,
		tls:     d.tls,
		parser:  wire.NewParser(early),
		welcome: w,
		server:  d.address(),
		every:   min(keepAliveEvery, w.Timeout/4),
		turn:    newTurn(),
		dead:    make(chan struct{}),
	}
}

// plainEnd says what an end of file in the negotiation means.
func plainEnd(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return wire.CodeDisconnected
	}
	return err
}

// padding hides the length of a message: 0 to 999 random bytes (Mayaqua/Network.c,
// CreateDummyValue).
func padding() []byte {
	b := make([]byte, rand.IntN(1000))
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}
