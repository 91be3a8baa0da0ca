package rudp

import (
	"crypto/sha1"
	"encoding/binary"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"

	"softether-go/pkg/inet"
)

// The types of messages. (RFC 792)
const (
	echoReply  = 0
	echo       = 8
	infoAsked  = 15
	infoReply  = 16
	icmpHead   = 8 // type, code, checksum, identifier, number
	ipHeadMin  = 20
	icmpPacket = icmpHead + hashLen
)

// ICMP sends datagrams as ICMP messages, over a raw socket: requests for information,
// which hardly anybody answers any more, and echo replies, which nobody has asked for.
// The server answers to whichever gets through in the same manner. Each message begins
// with the hash of the rest, to be told from others.
type ICMP struct {
	id, number uint16
	kind       atomic.Uint32 // of what we send: what the server answers to
}

// NewICMP returns a Carrier for one stream.
func NewICMP() *ICMP {
	c := &ICMP{id: uint16(mathrand.Uint32()), number: uint16(mathrand.Uint32())}
	c.kind.Store(infoAsked)
	return c
}

func (*ICMP) String() string { return "rudp-icmp" }
func (*ICMP) mask() *hash    { return &service }

// open tries both kinds, and an echo request before, which lets replies through a NAT.
func (c *ICMP) open(b []byte) [][]byte {
	return [][]byte{c.message(nil, echo, b[hashLen:]), c.message(nil, echoReply, b), c.message(nil, infoAsked, b)}
}

func (c *ICMP) wrap(dst, b []byte) []byte { return c.message(dst, byte(c.kind.Load()), b) }

func (c *ICMP) message(dst []byte, kind byte, b []byte) []byte {
	at := len(dst)
	dst = append(dst, kind, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, c.id)
	dst = binary.BigEndian.AppendUint16(dst, c.number)
	sum := sha1.Sum(b)
	dst = append(append(dst, sum[:]...), b...)
	binary.BigEndian.PutUint16(dst[at+2:], inet.Checksum(dst[at:]))
	return dst
}

// unwrap takes messages with their IP header, as raw sockets yield them.
func (c *ICMP) unwrap(b []byte) ([]byte, bool) {
	if len(b) < ipHeadMin || b[0]>>4 != 4 {
		return nil, false
	}
	n := int(b[0]&0xf) * 4
	if n < ipHeadMin || len(b) < n+icmpPacket {
		return nil, false
	}
	b = b[n:]
	if b[0] != echoReply && b[0] != infoReply || binary.BigEndian.Uint16(b[4:]) != c.id || binary.BigEndian.Uint16(b[6:]) != c.number {
		return nil, false
	}
	if sum := sha1.Sum(b[icmpPacket:]); string(sum[:]) != string(b[icmpHead:icmpPacket]) {
		return nil, false
	}
	if b[0] == infoReply {
		c.kind.Store(infoAsked)
	} else {
		c.kind.Store(echoReply)
	}
	return b[icmpPacket:], true
}

// withPort gives an address a port, as others expect one.
func withPort(a net.Addr) string {
	if ip, err := netip.ParseAddr(a.String()); err == nil {
		return netip.AddrPortFrom(ip, 0).String()
	}
	return a.String()
}
