package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// A Dialer opens connections to the targets of clients.
//
// The network is "tcp" and the address is host:port; host is an IP address or a
// name, which the Dialer resolves. DialContext may be called from many goroutines
// at once. It returns soon after ctx has ended. Its error matches the errors of
// package syscall, *net.DNSError and os.ErrDeadlineExceeded by errors.Is and
// errors.As where they apply: what the client is told depends on it.
//
// The connection's CloseWrite method, if it has one, passes on the end of the
// client's data; SetLinger(0), if it has one, makes Close a reset; WriteTo and
// ReadFrom, if it has them, carry the data. They return on a read deadline like
// Read does, having delivered every byte taken, and may be continued after.
//
// A Dialer with the method DialPermitted is asked by that for names, so that rules about
// addresses count before anything is sent. Of another's connections the remote address
// is checked, before anything is sent on them. UserOf tells for whom a connection is.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config is what SOCKS5 and HTTP servers have in common. Only Dialer is required.
type Config struct {
	Dialer Dialer

	// What SOCKS clients can do besides; nil where they cannot.
	Listener       Listener       // BIND
	PacketListener PacketListener // UDP ASSOCIATE
	Beside         *Beside        // where datagrams go that are not for the tunnel; nil is nowhere
	Resolver       Resolver       // of names, in both of these

	Auth Auth        // who may use the proxy; nil means everyone
	TLS  *tls.Config // for clients that speak TLS; nil means that nobody does

	// Own tells which ports of this machine, of tcp or udp, are this program's, so that it is
	// no target of itself; nil knows of none but that by which a client has come.
	Own func(network string, at netip.AddrPort) bool

	Inside   func() Inside // what /proxy.pac is made of; nil means that there is none
	Announce Announce      // what targets of HTTP are told; zero means nothing

	HandshakeTimeout time.Duration // from accept to the whole request, or for an HTTP header; zero means 10 s
	DialTimeout      time.Duration // resolving included; zero means 30 s
	IdleTimeout      time.Duration // of an HTTP connection between requests; zero means 2 min
	HalfCloseTimeout time.Duration // silence allowed in a relay's last direction; zero means 5 min
	BindTimeout      time.Duration // from BIND to the peer's connection; zero means 2 min
	AssociateTimeout time.Duration // of a UDP association without datagrams, to a quarter; zero means 5 min

	MaxConns int          // clients at a time; zero means 16384, or fewer where open files are limited
	Log      *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	if c.Dialer == nil {
		panic("proxy: Config.Dialer is nil")
	}
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, 10*time.Second)
	c.DialTimeout = cmp.Or(c.DialTimeout, 30*time.Second)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 2*time.Minute)
	c.HalfCloseTimeout = cmp.Or(c.HalfCloseTimeout, 5*time.Minute)
	c.BindTimeout = cmp.Or(c.BindTimeout, 2*time.Minute)
	c.AssociateTimeout = cmp.Or(c.AssociateTimeout, 5*time.Minute)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MaxConns == 0 {
		c.MaxConns = defaultMaxConns(openFiles())
		if c.MaxConns < mostConns {
			c.Log.Info("the limit of open files allows fewer proxy clients than usual: raise it (ulimit -n, LimitNOFILE=) for more",
				"clients", c.MaxConns, "usual", mostConns)
		}
	}
	return c
}

const (
	mostConns  = 16384 // about 400 MB when all are in use
	spareFiles = 64    // for the tunnel, listeners, logs
)

// defaultMaxConns returns how many clients may connect where files is the limit of
// open files, if known. A client has one file; its connection in the tunnel none.
func defaultMaxConns(files uint64, known bool) int {
	if !known || files >= mostConns+spareFiles {
		return mostConns
	}
	return int(max(files, spareFiles+1) - spareFiles)
}
