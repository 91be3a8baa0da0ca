package session

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"time"

	"softether-go/pkg/pack"
	"softether-go/pkg/wire"
)

func (d *dialer) hello() (wire.Hello, error) {
	d.begin(OpHello)
	d.raw.SetDeadline(time.Now().Add(stepTimeout))
	if err := wire.WriteSignature(d.tls, d.server()); err != nil {
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
	request, err := d.loginPack(hello)
	if err != nil {
		return wire.Welcome{}, err
	}
	asked := time.Now()
	p, err := d.ask(request, loginTimeout)
	if err != nil {
		return wire.Welcome{}, err
	}
	w, err := wire.ParseWelcome(p)
	if d.ticket != nil && errors.Is(err, wire.CodeAuthFailed) {
		return w, errTicket // no fault of the user's
	}
	if err != nil {
		return w, d.explainRefusal(err, time.Since(asked))
	}
	switch {
	case !w.Encrypt && !d.Cleartext:
		return w, errUnencrypted
	case w.Compress && !d.Compress:
		return w, errUnasked("compression")
	case w.HalfConnection && !d.HalfDuplex:
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
		MaxConnection: d.connections(),
		Bridge:        d.Bridge,
		QoS:           d.QoS,
		Cleartext:     d.Cleartext,
		Compress:      d.Compress,
		Monitor:       d.Monitor,
		Client:        d.client(),

		HalfConnection: d.HalfDuplex,
	}
	if d.udp != nil {
		l.UDP = &d.udp.UDPOffer
	}
	_, l.OverRUDP = d.raw.(FrameConn)
	if d.ticket != nil {
		l.Auth, l.Ticket = wire.ByTicket, d.ticket
	} else if err := d.authenticate(&l, hello.Random); err != nil {
		return nil, err
	}
	p := l.Pack()
	p.SetData("pencore", padding())
	return p, nil
}

func (d *dialer) client() wire.ClientInfo {
	return wire.ClientInfo{
		Product: productName, Version: productVersion, Build: productBuild,
		OS: runtime.GOOS, Server: d.Host, Port: d.Port,
		Local: localAddr(d.raw), UniqueID: d.UniqueID,
	}
}

func localAddr(c net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr()
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
