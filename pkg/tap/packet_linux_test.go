package tap

import (
	"encoding/binary"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
	"softether-go/pkg/offload"
)

// A packet describes a frame with TCP or UDP. The zero value is an empty TCP segment
// over IPv4 with ACK, between addresses of the documentation (RFC 5737, RFC 3849).
type packet struct {
	to      net.HardwareAddr // nil means everybody
	v6, udp bool
	tags    []byte // VLAN tags, as bytes before the type
	port    uint16 // the source's; the destination's is 5000
	from    string // addresses; empty means those of the documentation
	host    string

	id      uint16
	tos     byte
	more    bool // a fragment: more of the packet follows
	seq     uint32
	ack     uint32 // beyond 9
	flags   byte   // zero means ACK
	options []byte
	payload []byte

	pad   int  // Ethernet padding
	spoil bool // the transport checksum
}

const (
	fin, psh, ack, ece, cwr = 0x01, 0x08, 0x10, 0x40, 0x80

	mss = 1448 // of Linux at an MTU of 1500
)

var timestamps = []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}

func (p packet) with(change func(*packet)) packet {
	change(&p)
	return p
}

// frame returns the frame, complete.
func (p packet) frame() []byte {
	f, m := p.partial()
	c := wordSum(f[m.CsumStart:])
	if c != 0xffff || p.udp {
		c = ^c
	}
	if p.udp && c == 0 {
		c = 0xffff
	}
	if p.spoil {
		c ^= 0x0100
	}
	binary.BigEndian.PutUint16(f[m.CsumStart+m.CsumOffset:], c)
	return slices.Clip(append(f, make([]byte, p.pad)...))
}

// super returns the frame as one to be cut into segments of size bytes, with a
// virtio header before it.
func (p packet) super(size int) []byte {
	f, m := p.partial()
	if m.Size = size; size > 0 {
		switch {
		case p.udp:
			m.GSO = offload.UDP
		case p.v6:
			m.GSO = offload.TCPv6
		default:
			m.GSO = offload.TCPv4
		}
	}
	m.ECN = !p.udp && size > 0 && p.flags&cwr != 0
	b := make([]byte, offload.VirtioLen, offload.VirtioLen+len(f))
	m.PutVirtio(b)
	return append(b, f...)
}

// partial returns the frame with the sum of the pseudo header in place of its
// checksum, and what there is to say about it.
func (p packet) partial() ([]byte, offload.Meta) {
	l4, m := p.transport()
	proto := byte(unix.IPPROTO_TCP)
	if p.udp {
		proto = unix.IPPROTO_UDP
	}
	ip, addresses := p.header(len(l4), proto)
	pseudo := append(slices.Clone(addresses), 0, proto, byte(len(l4)>>8), byte(len(l4)))
	binary.BigEndian.PutUint16(l4[m.CsumOffset:], wordSum(pseudo))

	to := p.to
	if to == nil {
		to = everybody
	}
	f := append(slices.Concat(to, somebody), p.tags...)
	f = append(f, 8, 0)
	if p.v6 {
		binary.BigEndian.PutUint16(f[len(f)-2:], frame.TypeIPv6)
	}
	m.NeedsCsum = true
	m.CsumStart = len(f) + len(ip)
	m.HdrLen += m.CsumStart
	return slices.Concat(f, ip, l4), m
}

func (p packet) transport() ([]byte, offload.Meta) {
	if p.port == 0 {
		p.port = 5000
	}
	h := binary.BigEndian.AppendUint16(nil, p.port)
	h = binary.BigEndian.AppendUint16(h, 5000)
	if p.udp {
		h = append(h, byte((8+len(p.payload))>>8), byte(8+len(p.payload)), 0, 0)
		return append(h, p.payload...), offload.Meta{HdrLen: 8, CsumOffset: 6}
	}
	if p.flags == 0 {
		p.flags = ack
	}
	h = binary.BigEndian.AppendUint32(h, p.seq)
	h = binary.BigEndian.AppendUint32(h, 9+p.ack)
	h = append(h, byte(20+len(p.options))<<2, p.flags, 1, 0, 0, 0, 0, 0)
	h = append(h, p.options...)
	return append(h, p.payload...), offload.Meta{HdrLen: 20 + len(p.options), CsumOffset: 16}
}

// header returns the IP header and the addresses in it.
func (p packet) header(length int, proto byte) (h, addresses []byte) {
	if p.v6 {
		h = make([]byte, 40)
		h[0], h[1], h[6], h[7] = 0x60|p.tos>>4, p.tos<<4, proto, 64
		binary.BigEndian.PutUint16(h[4:], uint16(length))
		copy(h[8:], net.ParseIP(or(p.from, "2001:db8::9")).To16())
		copy(h[24:], net.ParseIP(or(p.host, "2001:db8::1")).To16())
		return h, h[8:40]
	}
	h = make([]byte, 20)
	h[0], h[1], h[8], h[9] = 0x45, p.tos, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+length))
	binary.BigEndian.PutUint16(h[4:], p.id)
	if p.more {
		h[6] = 0x20
	}
	copy(h[12:], net.ParseIP(or(p.from, "192.0.2.9")).To4())
	copy(h[16:], net.ParseIP(or(p.host, "192.0.2.1")).To4())
	binary.BigEndian.PutUint16(h[10:], ^wordSum(h))
	return h, h[12:20]
}

func or(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

// wordSum is the ones' complement sum of RFC 1071, the slow way.
func wordSum(b []byte) uint16 {
	var s uint32
	for i, x := range b {
		s += uint32(x) << (8 * (1 - i%2))
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// text returns n bytes of payload that differ from place to place.
func text(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// train returns n frames that continue p, each with size bytes of payload.
func train(p packet, n, size int) [][]byte {
	frames := make([][]byte, n)
	p.payload = text(size)
	for i := range frames {
		frames[i] = p.frame()
		p.seq += uint32(size)
		p.id++
	}
	return frames
}
