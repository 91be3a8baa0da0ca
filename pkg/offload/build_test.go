package offload

import (
	"bytes"
	"encoding/binary"
	"slices"

	"softether-go/pkg/inet"
)

// A packet describes a frame for tests. The zero value, with a payload, is a TCP
// segment over IPv4 with ACK and DF set.
type packet struct {
	flow    byte   // varies addresses and ports
	tags    []byte // VLAN tags, as bytes in front of the EtherType
	v6, udp bool
	payload []byte

	tos, ttl byte // ttl zero means 64
	id       uint16
	frag     uint16 // IPv4 flags and offset; zero means DF
	noDF     bool
	label    byte   // IPv6 flow label
	options  []byte // IPv4
	ext      []byte // IPv6 extension headers; the first one's number is extProto
	extProto byte

	seq, ack uint32
	flags    byte // zero means ACK
	window   uint16
	urgent   uint16
	tcpOpts  []byte

	pad      int    // Ethernet padding
	badL4    bool   // spoil the transport checksum
	badIP    bool   // spoil the IPv4 header checksum
	noCsum   bool   // UDP without a checksum
	slack    []byte // between the end of the UDP datagram and that of the packet
	transfer func(f []byte)
}

// frame makes the frame, with a checksum that is made word by word.
func (p packet) frame() []byte {
	f := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, p.tags...)
	l4 := p.transport()
	if p.v6 {
		f = p.appendIPv6(f, l4)
	} else {
		f = p.appendIPv4(f, l4)
	}
	f = append(f, make([]byte, p.pad)...)
	if p.transfer != nil {
		p.transfer(f)
	}
	return slices.Clip(f) // so that reading behind the end panics
}

func (p packet) proto() byte {
	if p.udp {
		return protoUDP
	}
	return protoTCP
}

func (p packet) addresses() []byte {
	if !p.v6 {
		return []byte{10, 0, 0, 1, 10, 0, 1, p.flow}
	}
	a := make([]byte, 32)
	a[0], a[15], a[16], a[31] = 0xfd, 1, 0xfd, p.flow
	return a
}

// transport makes the TCP or UDP header and the payload.
func (p packet) transport() []byte {
	h := make([]byte, tcpLen, 2000)
	at := tcpCsum
	binary.BigEndian.PutUint16(h[0:], 443)
	binary.BigEndian.PutUint16(h[2:], 1000+uint16(p.flow))
	if p.udp {
		h, at = h[:udpLen], udpCsum
		binary.BigEndian.PutUint16(h[udpLength:], uint16(udpLen+len(p.payload)))
	} else {
		binary.BigEndian.PutUint32(h[tcpSeq:], p.seq)
		binary.BigEndian.PutUint32(h[tcpAck:], p.ack)
		h[tcpOff] = byte((tcpLen + len(p.tcpOpts)) / 4 << 4)
		h[tcpFlags] = p.flags
		if p.flags == 0 {
			h[tcpFlags] = flagACK
		}
		binary.BigEndian.PutUint16(h[tcpWindow:], p.window)
		binary.BigEndian.PutUint16(h[tcpUrgent:], p.urgent)
		h = append(h, p.tcpOpts...)
	}
	h = append(h, p.payload...)
	c := naiveChecksum(p.addresses(), p.proto(), h)
	if p.udp && c == 0 {
		c = 0xffff
	}
	if p.badL4 {
		c ^= 0x1000
	}
	if !p.noCsum {
		binary.BigEndian.PutUint16(h[at:], c)
	}
	return append(h, p.slack...)
}

// naiveChecksum is that of h, whose checksum field is zero, after a pseudo header.
func naiveChecksum(addresses []byte, proto byte, h []byte) uint16 {
	pseudo := slices.Clone(addresses)
	pseudo = append(pseudo, 0, proto, byte(len(h)>>8), byte(len(h)))
	return inet.Checksum(append(pseudo, h...))
}

func (p packet) hops() byte {
	if p.ttl == 0 {
		return 64
	}
	return p.ttl
}

func (p packet) appendIPv4(f, l4 []byte) []byte {
	f = append(f, 8, 0)
	ip := make([]byte, ipv4Len)
	ip[0] = 0x40 | byte((ipv4Len+len(p.options))/4)
	ip[1] = p.tos
	binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Len+len(p.options)+len(l4)))
	binary.BigEndian.PutUint16(ip[4:], p.id)
	frag := p.frag
	if frag == 0 && !p.noDF {
		frag = dontFragment
	}
	binary.BigEndian.PutUint16(ip[6:], frag)
	ip[8], ip[9] = p.hops(), p.proto()
	copy(ip[12:], p.addresses())
	ip = append(ip, p.options...)
	binary.BigEndian.PutUint16(ip[10:], inet.Checksum(ip))
	if p.badIP {
		ip[10] ^= 0x10
	}
	return append(append(f, ip...), l4...)
}

func (p packet) appendIPv6(f, l4 []byte) []byte {
	f = append(f, 0x86, 0xdd)
	ip := make([]byte, 8)
	ip[0], ip[1], ip[3] = 0x60|p.tos>>4, p.tos<<4, p.label
	binary.BigEndian.PutUint16(ip[4:], uint16(len(p.ext)+len(l4)))
	ip[6], ip[7] = p.proto(), p.hops()
	if p.ext != nil {
		ip[6] = p.extProto
	}
	f = append(append(f, ip...), p.addresses()...)
	return append(append(f, p.ext...), l4...)
}

// text returns n bytes of payload that differ from place to place.
func text(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7+i>>8) ^ seed
	}
	return b
}

// naiveSplit cuts s as the definition says, from scratch for every frame. It is what
// Split is compared with.
func naiveSplit(s Super) [][]byte {
	whole := slices.Clone(s.Header)
	for _, p := range s.Payload {
		whole = append(whole, p...)
	}
	if s.GSO == Plain {
		if s.NeedsCsum {
			c := inet.Checksum(whole[s.CsumStart:])
			if c == 0 && s.CsumOffset == udpCsum {
				c = 0xffff
			}
			binary.BigEndian.PutUint16(whole[s.CsumStart+s.CsumOffset:], c)
		}
		return [][]byte{whole}
	}
	l3 := naiveL3(whole)
	header, payload := whole[:s.HdrLen], whole[s.HdrLen:]
	var frames [][]byte
	for i := 0; i == 0 || len(payload) > 0; i++ {
		n := min(s.Size, len(payload))
		f := append(slices.Clone(header), payload[:n]...)
		payload = payload[n:]
		naiveFinish(f[l3:], f[s.CsumStart:], i, s.Size, len(payload) == 0)
		frames = append(frames, f)
	}
	return frames
}

// naiveL3 finds the IP header behind up to two tags.
func naiveL3(f []byte) int {
	l3 := 14
	for l3 < 22 && (bytes.Equal(f[l3-2:l3], []byte{0x81, 0}) || bytes.Equal(f[l3-2:l3], []byte{0x88, 0xa8})) {
		l3 += 4
	}
	return l3
}

// naiveFinish makes the ith of the frames: ip and l4 are the frame from its IP and
// its transport header.
func naiveFinish(ip, l4 []byte, i, size int, last bool) {
	var addresses []byte
	proto := byte(protoTCP)
	if ip[0]>>4 == 6 {
		addresses = ip[8:40]
		if ip[6] == protoUDP {
			proto = protoUDP
		}
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
	} else {
		addresses, proto = ip[12:20], ip[9]
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(i))
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], inet.Checksum(ip[:len(ip)-len(l4)]))
	}
	if proto == protoUDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		l4[6], l4[7] = 0, 0
		c := naiveChecksum(addresses, proto, l4)
		if c == 0 {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(l4[6:], c)
		return
	}
	binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(l4[4:])+uint32(i*size))
	if i > 0 {
		l4[13] &^= flagCWR
	}
	if !last {
		l4[13] &^= flagFIN | flagPSH
	}
	l4[16], l4[17] = 0, 0
	binary.BigEndian.PutUint16(l4[16:], naiveChecksum(addresses, proto, l4))
}
