package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"softether-go/pkg/pack"
)

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
