package session

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"time"

	"softether-go/pkg/wire"
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

	// Connections is how many TCP connections the session is to have, at most 32; 0
	// means 1. The server may grant fewer, and HalfDuplex and QoS need more.
	Connections int
	// HalfDuplex asks for connections of one direction each.
	HalfDuplex bool
	// QoS asks for a connection that is kept for urgent frames.
	QoS bool
	// ConnectionTTL replaces each connection at this age; 0 means never.
	ConnectionTTL time.Duration

	// Compress asks that each frame be compressed.
	Compress bool
	// Cleartext asks that frames travel without encryption: everybody on the way reads
	// and changes them. The login is encrypted all the same.
	Cleartext bool
	// Monitor asks for a session that sees all frames of the hub and sends none.
	Monitor bool

	// Direct says that what DialContext connects to is the server itself, and no proxy,
	// so that further connections can go to the same address without a look-up, which
	// might lead to another server.
	Direct bool

	UDP UDP

	// UniqueID identifies this process to the server; keep it over reconnects.
	UniqueID [16]byte

	// DialContext opens the connection; nil means a net.Dialer, which tries IPv6 and IPv4
	// side by side. It is asked for "tcp", and may give what is as good as TCP. If that
	// carries frames beside its stream (FrameConn), it is asked for the same network
	// again for further connections.
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
		c.Direct = true
	}
	c.UDP = c.UDP.withDefaults()
	if c.Progress == nil {
		c.Progress = func(Op) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) address() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// connections returns how many to ask for. (Cedar/Protocol.c, ServerAccept)
func (c Config) connections() int {
	n := max(1, c.Connections)
	if c.HalfDuplex || c.QoS {
		n = max(n, 2)
	}
	if c.HalfDuplex && c.QoS {
		n = max(n, 4)
	}
	return min(n, wire.MaxConnections)
}
