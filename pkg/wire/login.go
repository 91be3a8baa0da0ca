package wire

import (
	"net/netip"

	"softether-go/pkg/pack"
)

// AuthType says how a user proves who he is. (Cedar/Cedar.h, CLIENT_AUTHTYPE_*)
type AuthType uint32

const (
	Anonymous     AuthType = 0
	HashedPass    AuthType = 1 // an answer to the challenge; local users only
	PlainPassword AuthType = 2 // the password itself, inside TLS; for RADIUS and the like
	Certificate   AuthType = 3 // a certificate and a signature of the challenge

	// ByTicket is a cluster controller's word for us; see Redirect.
	ByTicket AuthType = 99
)

// Methods of the first pack a client posts.
const (
	MethodLogin      = "login"
	MethodAdditional = "additional_connect"
	MethodPassword   = "password"
)

// Login asks for a session. (Cedar/Protocol.c, ClientUploadAuth)
type Login struct {
	Hub, User     string
	Auth          AuthType
	Secure        []byte // HashedPass: AnswerChallenge's result
	Plain         string // PlainPassword
	Cert          []byte // Certificate: the user's, DER
	Sign          []byte // Certificate: its key's signature of the challenge, RSASSA-PKCS1-v1_5 with SHA-1
	Ticket        []byte // ByTicket: the controller's, HashLen bytes, good for one login: a secret
	MaxConnection int

	// What follows is asked for; Welcome says what is granted.

	// Cleartext asks that everything after Welcome travels without TLS.
	Cleartext bool
	Compress  bool // every block its own zlib stream
	// HalfConnection asks for connections of one direction each, two at least.
	HalfConnection bool
	// QoS asks for a connection more, two at least, that is kept for urgent frames.
	QoS bool
	// Monitor asks for a session that sees all of the hub's frames and may send none.
	// Who may not is refused with CodeMonitorDenied.
	Monitor bool
	// Bridge asks for the bridge and routing mode, in which the hub takes frames
	// from any number of stations. Without it the hub passes frames from 3 MAC and 4
	// IPv4 addresses and drops the rest without notice. Who may not have the mode at
	// all is refused with CodeBridgeDenied; the Policy tells of limits that stay.
	Bridge bool
	UDP    *UDPOffer // nil asks for none
	// OverRUDP says that the connection is R-UDP (package rudp), that the session is to be
	// one that comes back as over TCP, and that frames may go beside the stream.
	OverRUDP bool
	Client   ClientInfo
}

// ClientInfo is what the administrator's screens show of a client.
type ClientInfo struct {
	Product string
	Version int
	// Build should be high: servers turn builds below 6560 away under some policies.
	Build    int
	OS       string
	Hostname string // may be empty
	Server   string // the host name we were given
	Port     int
	Local    netip.Addr
	// UniqueID stays the same for the life of a process. A server that limits
	// logins of one user lets a reconnect with the same id in beside its ghost.
	UniqueID [16]byte
}

// Pack returns l as it is sent.
func (l Login) Pack() *pack.Pack {
	p := &pack.Pack{}
	p.SetStr("method", MethodLogin)
	p.SetStr("hubname", l.Hub)
	p.SetStr("username", l.User)
	p.SetInt("authtype", uint32(l.Auth))
	switch l.Auth {
	case HashedPass:
		p.SetData("secure_password", l.Secure)
	case PlainPassword:
		p.SetStr("plain_password", l.Plain)
	case Certificate:
		p.SetData("cert", l.Cert)
		p.SetData("sign", l.Sign)
	case ByTicket:
		p.SetData("ticket", l.Ticket)
	}
	l.Client.identify(p)
	p.SetStr("hello", l.Client.Product)
	p.SetInt("version", uint32(l.Client.Version))
	p.SetInt("build", uint32(l.Client.Build))
	p.SetInt("protocol", 0) // TCP
	p.SetInt("max_connection", uint32(max(1, l.MaxConnection)))
	p.SetBool("use_encrypt", !l.Cleartext) // absent would mean clear text after Welcome
	p.SetBool("use_compress", l.Compress)
	p.SetBool("half_connection", l.HalfConnection)
	p.SetBool("qos", l.QoS)
	p.SetBool("require_bridge_routing_mode", l.Bridge)
	p.SetBool("require_monitor_mode", l.Monitor)
	if l.UDP != nil {
		l.UDP.pack(p)
	}
	if l.OverRUDP {
		p.SetBool("support_udp_recovery", true)
		p.SetBool("support_bulk_on_rudp", !l.Compress) // compressed frames have a form of their own there
		p.SetBool("support_hmac_on_bulk_of_rudp", !l.Compress)
		p.SetInt("rudp_bulk_max_version", 2)
	}
	l.Client.nodeInfo(p, l.Hub)
	return p
}

// identify adds who is calling, which every method has.
func (c ClientInfo) identify(p *pack.Pack) {
	p.SetStr("client_str", c.Product)
	p.SetInt("client_ver", uint32(c.Version))
	p.SetInt("client_build", uint32(c.Build))
}

// nodeInfo adds what Cedar/Admin.c, OutRpcNodeInfo does. Its integers are swapped
// once before they enter the pack; addresses are not.
func (c ClientInfo) nodeInfo(p *pack.Pack, hub string) {
	p.SetStr("ClientProductName", c.Product)
	p.SetInt("ClientProductVer", swap(c.Version))
	p.SetInt("ClientProductBuild", swap(c.Build))
	p.SetStr("ClientOsName", c.OS)
	p.SetStr("ClientHostname", c.Hostname)
	p.SetIP("ClientIpAddress", c.Local)
	p.SetStr("ServerHostname", c.Server)
	p.SetInt("ServerPort2", swap(c.Port))
	p.SetStr("HubName", hub)
	p.SetData("UniqueId", c.UniqueID[:])
}

func swap(n int) uint32 {
	v := uint32(n)
	return v<<24 | v>>24 | v<<8&0xff0000 | v>>8&0xff00
}

// ParseLogin reads a Login: the server's side. Only what decides is read.
func ParseLogin(p *pack.Pack) (Login, error) {
	l := Login{
		Hub:           p.Str("hubname"),
		User:          p.Str("username"),
		Auth:          AuthType(p.Int("authtype")),
		Secure:        p.Data("secure_password"),
		Plain:         p.Str("plain_password"),
		Cert:          p.Data("cert"),
		Sign:          p.Data("sign"),
		Ticket:        p.Data("ticket"),
		MaxConnection: int(min(MaxConnections, max(1, p.Int("max_connection")))),
		Cleartext:     !p.Bool("use_encrypt"),
		Compress:      p.Bool("use_compress"),
		QoS:           p.Bool("qos"),
		Monitor:       p.Bool("require_monitor_mode"),
		Bridge:        p.Bool("require_bridge_routing_mode"),

		HalfConnection: p.Bool("half_connection"),
		UDP:            parseUDPOffer(p),

		Client: ClientInfo{Product: p.Str("hello"), Build: int(p.Int("client_build"))},
	}
	copy(l.Client.UniqueID[:], p.Data("UniqueId"))
	if l.Hub == "" || l.User == "" {
		return l, CodeProtocolError
	}
	return l, nil
}
