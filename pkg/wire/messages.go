package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"softether-go/pkg/pack"
)

// Hello is the server's first message. (Cedar/Protocol.c, PackHello)
type Hello struct {
	Product string
	Version int
	Build   int
	Random  []byte // HashLen bytes, the challenge
}

// ParseHello reads a Hello. A refusal inside it is a Code.
func ParseHello(p *pack.Pack) (Hello, error) {
	if c := Code(p.Int("error")); c != 0 {
		return Hello{}, c
	}
	h := Hello{
		Product: p.Str("hello"),
		Version: int(p.Int("version")),
		Build:   int(p.Int("build")),
		Random:  p.Data("random"),
	}
	if h.Product == "" || len(h.Random) != HashLen {
		return Hello{}, fmt.Errorf("%w: its hello lacks a name or a challenge", ErrNotVPN)
	}
	return h, nil
}

// Pack returns h as it is sent.
func (h Hello) Pack() *pack.Pack {
	p := &pack.Pack{}
	p.SetStr("hello", h.Product)
	p.SetInt("version", uint32(h.Version))
	p.SetInt("build", uint32(h.Build))
	p.SetData("random", h.Random)
	return p
}

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

// Join asks to add a connection to a session, or to bring one back that has lost all.
// (Cedar/Protocol.c, ClientUploadAuth2)
type Join struct {
	SessionKey []byte // Welcome's: the only credential
	Client     ClientInfo
}

// Pack returns j as it is sent.
func (j Join) Pack() *pack.Pack {
	p := &pack.Pack{}
	p.SetStr("method", MethodAdditional)
	p.SetData("session_key", j.SessionKey)
	j.Client.identify(p)
	return p
}

// Direction says which way a connection carries units, keep-alives among them.
// (Cedar/Connection.h, TCP_BOTH, TCP_SERVER_TO_CLIENT, TCP_CLIENT_TO_SERVER)
type Direction uint32

const (
	BothWays     Direction = 0
	InboundOnly  Direction = 1 // from the server
	OutboundOnly Direction = 2 // to the server
)

// ParseJoined reads the reply to a Join. A refusal is a Code.
func ParseJoined(p *pack.Pack) (Direction, error) {
	if c := Code(p.Int("error")); c != 0 {
		return 0, c
	}
	d := Direction(p.Int("direction"))
	if d > OutboundOnly {
		return 0, fmt.Errorf("the server gave a connection the direction %d, which does not exist", uint32(d))
	}
	return d, nil
}

// Joined returns the reply that lets a connection in: the server's side.
func Joined(d Direction) *pack.Pack {
	p := Refusal(0) // for no reason: none
	p.SetInt("direction", uint32(d))
	return p
}

// MaxConnections is the most that a session can have (Cedar/Cedar.h, MAX_TCP_CONNECTION).
const MaxConnections = 32

// Session timeouts a server can set (Cedar/Cedar.h, TIMEOUT_MIN, _MAX, _DEFAULT).
const (
	minTimeout     = 5 * time.Second
	maxTimeout     = 60 * time.Second
	DefaultTimeout = 20 * time.Second
)

// Welcome opens the data phase. (Cedar/Protocol.c, PackWelcome)
type Welcome struct {
	SessionName    string
	ConnectionName string
	SessionKey     []byte // HashLen bytes, the credential of further connections: a secret
	MaxConnection  int
	Encrypt        bool
	Compress       bool
	HalfConnection bool          // the first connection is then outbound only
	QoS            bool          // the last connection is kept for urgent frames
	Timeout        time.Duration // within it each side must be heard
	VLAN           int
	Policy         Policy
	UDP            *UDPGrant // nil without UDP acceleration
	Message        string    // from the hub's administrator; show it, never act on it

	Bulk *BulkKeys // nil unless frames may go beside an R-UDP stream
}

// BulkKeys protect frames beside an R-UDP stream; each is a secret. Of 20 bytes they mean
// the first version of the format, of 32 bytes the second.
type BulkKeys struct {
	Send, Recv []byte // from the client's point of view
	HMAC       bool   // sign with HMAC; the first version only
}

// parseBulk reads BulkKeys. (Cedar/Protocol.c, ClientConnect)
func parseBulk(p *pack.Pack) *BulkKeys {
	n := HashLen
	if p.Int("rudp_bulk_version") == 2 {
		n = 32
	}
	k := &BulkKeys{Send: p.Data("bulk_on_rudp_send_key"), Recv: p.Data("bulk_on_rudp_recv_key"), HMAC: p.Bool("enable_hmac_on_bulk_of_rudp")}
	if !p.Bool("enable_bulk_on_rudp") || len(k.Send) != n || len(k.Recv) != n {
		return nil
	}
	return k
}

// A Redirect sends us to another member of a cluster. (Cedar/Protocol.c, ServerAccept
// and ClientConnect)
type Redirect struct {
	Member  netip.Addr
	Ports   []uint16 // of the member, in its order
	Ticket  []byte   // HashLen bytes, to log in with there: a secret
	Cert    []byte   // the member's, DER
	Message string   // as Welcome's
}

// Error makes a Redirect an error where it is not followed.
func (r Redirect) Error() string {
	return "the server is a cluster controller and sends us on to " + r.Member.String()
}

// maxPorts bounds the ports of a member (Cedar/Cedar.h, MAX_PUBLIC_PORT_NUM).
const maxPorts = 128

// parseRedirect reads a Redirect, which it returns as an error.
func parseRedirect(p *pack.Pack) error {
	r := Redirect{Member: p.IP("Ip"), Ticket: p.Data("Ticket"), Cert: p.Data("Cert"), Message: message(p)}
	for _, port := range p.Ints("Port") {
		if port > 0 && port <= 65535 && len(r.Ports) < maxPorts {
			r.Ports = append(r.Ports, uint16(port))
		}
	}
	switch {
	case !r.Member.IsValid() || r.Member.IsUnspecified():
		return errors.New("the cluster controller sends us on to a member without an address")
	case len(r.Ports) == 0:
		return fmt.Errorf("the cluster controller sends us on to %v without a port", r.Member)
	case len(r.Ticket) != HashLen:
		return fmt.Errorf("the cluster controller sends us on to %v without a ticket", r.Member)
	case len(r.Cert) == 0:
		return fmt.Errorf("the cluster controller sends us on to %v without its certificate, so that it cannot be told from an impostor", r.Member)
	}
	return r
}

// Pack returns r as it is sent: the controller's side.
func (r Redirect) Pack() *pack.Pack {
	p := &pack.Pack{}
	p.SetInt("Redirect", 1)
	p.SetIP("Ip", r.Member)
	ports := make([]uint32, len(r.Ports))
	for i, port := range r.Ports {
		ports[i] = uint32(port)
	}
	p.SetInt("Port", ports...)
	p.SetData("Ticket", r.Ticket)
	p.SetData("Cert", r.Cert)
	if r.Message != "" {
		p.SetData("Msg", []byte(r.Message))
	}
	return p
}

// message is the hub's message in a Welcome or Redirect.
func message(p *pack.Pack) string {
	return strings.ToValidUTF8(string(p.Data("Msg")), "\uFFFD")
}

// ParseWelcome reads the reply to a Login. A refusal is a Code, a redirection a
// Redirect.
func ParseWelcome(p *pack.Pack) (Welcome, error) {
	if c := Code(p.Int("error")); c != 0 {
		return Welcome{}, c
	}
	if p.Bool("Redirect") {
		return Welcome{}, parseRedirect(p)
	}
	w := Welcome{
		SessionName:    p.Str("session_name"),
		ConnectionName: p.Str("connection_name"),
		SessionKey:     p.Data("session_key"),
		MaxConnection:  int(min(MaxConnections, max(1, p.Int("max_connection")))),
		Encrypt:        p.Bool("use_encrypt"),
		Compress:       p.Bool("use_compress"),
		HalfConnection: p.Bool("half_connection"),
		QoS:            p.Bool("qos"),
		Timeout:        clampTimeout(p.Int("timeout")),
		VLAN:           int(p.Int("vlan_id")),
		Policy:         parsePolicy(p),
		UDP:            parseUDPGrant(p),
		Message:        message(p),
		Bulk:           parseBulk(p),
	}
	switch {
	case w.SessionName == "" || w.ConnectionName == "":
		return Welcome{}, errors.New("the server's welcome names no session")
	case len(w.SessionKey) != HashLen:
		return Welcome{}, errors.New("the server's welcome has no session key")
	}
	return w, nil
}

// clampTimeout never trusts a server's 0, nor a span that would never notice a
// dead peer.
func clampTimeout(ms uint32) time.Duration {
	if ms == 0 {
		return DefaultTimeout
	}
	return min(maxTimeout, max(minTimeout, time.Duration(ms)*time.Millisecond))
}

// Pack returns w as it is sent: the server's side.
func (w Welcome) Pack() *pack.Pack {
	p := &pack.Pack{}
	p.SetStr("session_name", w.SessionName)
	p.SetStr("connection_name", w.ConnectionName)
	p.SetData("session_key", w.SessionKey)
	p.SetInt("max_connection", uint32(w.MaxConnection))
	p.SetBool("use_encrypt", w.Encrypt)
	p.SetBool("use_compress", w.Compress)
	p.SetBool("half_connection", w.HalfConnection)
	p.SetInt("timeout", uint32(w.Timeout.Milliseconds()))
	p.SetBool("qos", w.QoS)
	for _, f := range w.Policy {
		p.SetInt(policyPrefix+f.Name, f.Value)
	}
	if w.UDP != nil {
		w.UDP.pack(p)
	}
	if w.Message != "" {
		p.SetData("Msg", []byte(w.Message))
	}
	return p
}

// Refusal returns the reply that refuses a request for reason c.
func Refusal(c Code) *pack.Pack {
	p := &pack.Pack{}
	p.SetInt("error", uint32(c))
	return p
}

// Filler returns the pack that keeps a negotiation alive.
func Filler() *pack.Pack {
	p := &pack.Pack{}
	p.SetInt("error", 0)
	p.SetInt("noop", 1)
	return p
}

// Policy lists what the hub permits this session, in the server's order.
type Policy []PolicyItem

// A PolicyItem is one named value; booleans are 0 or 1.
type PolicyItem struct {
	Name  string
	Value uint32
}

const policyPrefix = "policy:"

// maxPolicy bounds the items kept; the longest known policy has 38.
const maxPolicy = 64

func parsePolicy(p *pack.Pack) Policy {
	var items Policy
	for _, e := range p.Elements() {
		name, ok := strings.CutPrefix(e.Name, policyPrefix)
		if ok && e.Type == pack.Int && len(items) < maxPolicy {
			items = append(items, PolicyItem{Name: name, Value: p.Int(e.Name)})
		}
	}
	return items
}

// Value returns the value of a policy item, 0 if the server did not name it.
func (p Policy) Value(name string) uint32 {
	for _, f := range p {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return 0
}

// String lists what the policy restricts, readably: items that are not zero.
func (p Policy) String() string {
	var b strings.Builder
	for _, f := range p {
		if f.Value == 0 || f.Name == "Access" || f.Name == "Ver3" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		if f.Value == 1 {
			fmt.Fprintf(&b, "%s", f.Name)
		} else {
			fmt.Fprintf(&b, "%s=%d", f.Name, f.Value)
		}
	}
	return b.String()
}
