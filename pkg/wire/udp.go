package wire

import (
	"net/netip"

	"softether-go/pkg/pack"
)

// Lengths of the keys of UDP acceleration. (Cedar/UdpAccel.h)
const (
	udpKeyLen   = 20
	udpKeyV2Len = 128
)

// A UDPOffer asks in a Login for UDP acceleration. (Cedar/Protocol.c, ClientUploadAuth)
type UDPOffer struct {
	MaxVersion int        // 1 or 2
	Local      netip.Addr // of our socket, if it is known and others may reach it
	Port       uint16
	Key, KeyV2 []byte // of what we send: secrets
}

func (o *UDPOffer) pack(p *pack.Pack) {
	p.SetBool("use_udp_acceleration", true)
	p.SetInt("udp_acceleration_version", 1) // what it is called since; the next is the one that counts
	p.SetInt("udp_acceleration_max_version", uint32(o.MaxVersion))
	local := o.Local
	if !local.IsValid() || local.IsLoopback() {
		local = netip.IPv4Unspecified()
	}
	p.SetIP("udp_acceleration_client_ip", local)
	p.SetInt("udp_acceleration_client_port", uint32(o.Port))
	p.SetData("udp_acceleration_client_key", o.Key)
	p.SetData("udp_acceleration_client_key_v2", o.KeyV2)
	p.SetBool("support_hmac_on_udp_acceleration", true) // without effect in every version
	p.SetBool("support_udp_accel_fast_disconnect_detect", true)
}

// parseUDPOffer is the server's side; nil without a whole offer.
func parseUDPOffer(p *pack.Pack) *UDPOffer {
	o := &UDPOffer{
		MaxVersion: int(min(2, max(1, p.Int("udp_acceleration_max_version")))),
		Local:      p.IP("udp_acceleration_client_ip"),
		Port:       uint16(p.Int("udp_acceleration_client_port")),
		Key:        p.Data("udp_acceleration_client_key"),
		KeyV2:      p.Data("udp_acceleration_client_key_v2"),
	}
	if !p.Bool("use_udp_acceleration") || o.Port == 0 || len(o.Key) != udpKeyLen {
		return nil
	}
	if len(o.KeyV2) != udpKeyV2Len {
		o.MaxVersion = 1
	}
	return o
}

// A UDPGrant is a Welcome's answer. (Cedar/Protocol.c, PackWelcome)
type UDPGrant struct {
	Version    int        // 1 or 2
	Server     netip.Addr // as the server sees itself; may be unspecified
	Port       uint16
	Key, KeyV2 []byte // of what the server sends: secrets
	// ServerCookie is in what we send, ClientCookie in what the server does.
	ServerCookie, ClientCookie uint32
	Encrypt                    bool
	Fast                       bool // keep-alives by the shorter times
}

func (g *UDPGrant) pack(p *pack.Pack) {
	p.SetBool("use_udp_acceleration", true)
	p.SetInt("udp_acceleration_version", uint32(g.Version))
	server := g.Server
	if !server.IsValid() {
		server = netip.IPv4Unspecified()
	}
	p.SetIP("udp_acceleration_server_ip", server)
	p.SetInt("udp_acceleration_server_port", uint32(g.Port))
	p.SetData("udp_acceleration_server_key", g.Key)
	p.SetData("udp_acceleration_server_key_v2", g.KeyV2)
	p.SetInt("udp_acceleration_server_cookie", g.ServerCookie)
	p.SetInt("udp_acceleration_client_cookie", g.ClientCookie)
	p.SetBool("udp_acceleration_use_encryption", g.Encrypt)
	p.SetBool("udp_accel_fast_disconnect_detect", g.Fast)
}

// parseUDPGrant reads a grant; nil if anything is missing, which is to go on without.
func parseUDPGrant(p *pack.Pack) *UDPGrant {
	g := &UDPGrant{
		Version:      int(max(1, p.Int("udp_acceleration_version"))),
		Server:       p.IP("udp_acceleration_server_ip"),
		Port:         uint16(p.Int("udp_acceleration_server_port")),
		Key:          p.Data("udp_acceleration_server_key"),
		KeyV2:        p.Data("udp_acceleration_server_key_v2"),
		ServerCookie: p.Int("udp_acceleration_server_cookie"),
		ClientCookie: p.Int("udp_acceleration_client_cookie"),
		Encrypt:      p.Bool("udp_acceleration_use_encryption"),
		Fast:         p.Bool("udp_accel_fast_disconnect_detect"),
	}
	switch {
	case !p.Bool("use_udp_acceleration"), g.Version > 2, g.Port == 0, g.ServerCookie == 0, g.ClientCookie == 0,
		len(g.Key) != udpKeyLen, g.Version == 2 && len(g.KeyV2) != udpKeyV2Len:
		return nil
	}
	return g
}
