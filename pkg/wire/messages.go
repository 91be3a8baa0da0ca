package wire

import (
	"fmt"

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
