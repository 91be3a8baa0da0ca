package offload

import (
	"encoding/binary"
	"slices"

	"softether-go/pkg/inet"
)

// Split cuts s into frames. It appends their bytes to arena and views of them to
// frames, and returns both. A Plain super-frame becomes one frame.
//
// The views stay valid if a later call has to move arena to grow it. The lengths in
// s's own IP and UDP headers are not looked at: what counts is how many bytes there
// are.
func Split(arena []byte, frames [][]byte, s Super) ([]byte, [][]byte, error) {
	if s.GSO == Plain {
		return splitPlain(arena, frames, &s)
	}
	var c cutter
	if err := c.prepare(&s); err != nil {
		return arena, frames, err
	}
	arena, frames = c.cut(arena, frames)
	return arena, frames, nil
}

// splitPlain copies the one frame and completes its checksum.
func splitPlain(arena []byte, frames [][]byte, s *Super) ([]byte, [][]byte, error) {
	start := len(arena)
	grown := append(arena, s.Header...)
	for _, p := range s.Payload {
		grown = append(grown, p...)
	}
	f := grown[start:len(grown):len(grown)]
	if err := Complete(f, s.Meta); err != nil {
		return grown[:start], frames, err
	}
	return grown, append(frames, f), nil
}

// Complete writes the checksum that m says is missing into the Plain frame f. That
// is all there is to do for such a frame, so a reader that has it where it wants it
// needs no copy by Split.
func Complete(f []byte, m Meta) error {
	if !m.NeedsCsum {
		return nil
	}
	at := m.CsumStart + m.CsumOffset
	if m.CsumStart < 0 || m.CsumOffset < 0 || at+2 > len(f) {
		return ErrChecksum
	}
	// The field holds the sum of the pseudo header and is part of the range.
	putChecksum(f[at:], inet.Sum(f[m.CsumStart:]), m.CsumOffset == udpCsum)
	return nil
}

// putChecksum completes a sum into a checksum. UDP writes zero as its equal 0xffff
// because zero says that there is none (RFC 768).
func putChecksum(b []byte, s uint64, udp bool) {
	c := ^inet.Fold(s)
	if c == 0 && udp {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b, c)
}

// A cutter is a super-frame on its way to being frames. Each frame's checksums are
// the sum of what all frames have in common, found once, and of what is its own.
type cutter struct {
	layout
	header  []byte // all headers, up to the payload
	payload reader
	left    int // payload bytes not yet cut
	size    int // payload bytes in a full frame

	ipSum  uint64 // of the IPv4 header without length, identification, checksum
	l4Sum  uint64 // of pseudo and transport header without lengths, sequence number, flags, checksum
	id     uint16 // of the next IPv4 packet
	seq    uint32 // of the next TCP segment
	offset uint16 // the word of the TCP header that ends in the flags, without them
	flags  byte   // of TCP
}

// prepare checks that s is what its metadata say, and sums up what all frames share.
func (c *cutter) prepare(s *Super) error {
	if c.locate(s.Header) != flow || !c.locateData(s.Header) {
		return ErrHeader
	}
	switch s.GSO {
	case TCPv4, TCPv6:
		if c.proto != protoTCP || c.v6 != (s.GSO == TCPv6) {
			return ErrHeader
		}
	case UDP:
		if c.proto != protoUDP {
			return ErrHeader
		}
	default:
		return ErrType
	}
	if s.NeedsCsum && (s.CsumStart != c.l4 || s.CsumOffset != c.csum()) {
		return ErrChecksum
	}
	c.size = s.Size
	if c.size <= 0 {
		return ErrSize
	}
	c.left = s.Len() - c.data
	if c.data-c.l3+min(c.size, c.left) > maxPacket {
		return ErrTooLong
	}
	c.header = s.Header[:c.data]
	c.payload = reader{current: s.Header[c.data:], rest: s.Payload}
	c.sumCommon()
	return nil
}

// sumCommon sums both headers and takes the fields that vary out again. To add the
// complement of a word is to subtract it.
func (c *cutter) sumCommon() {
	if !c.v6 {
		ip := c.header[c.l3:c.l4]
		c.id = binary.BigEndian.Uint16(ip[4:])
		c.ipSum = inet.Sum(ip) + without(ip[2:]) + without(ip[4:]) + without(ip[10:])
	}
	l4 := c.header[c.l4:]
	c.l4Sum = c.pseudo(c.header, 0) + inet.Sum(l4) + without(l4[c.csum():])
	if c.proto == protoUDP {
		c.l4Sum += without(l4[udpLength:])
		return
	}
	c.seq = binary.BigEndian.Uint32(l4[tcpSeq:])
	c.flags = l4[tcpFlags]
	c.offset = uint16(l4[tcpOff]) << 8
	c.l4Sum += without(l4[tcpSeq:]) + without(l4[tcpSeq+2:]) + without(l4[tcpOff:])
}

func without(b []byte) uint64 { return uint64(^binary.BigEndian.Uint16(b)) }

// cut makes the frames.
func (c *cutter) cut(arena []byte, frames [][]byte) ([]byte, [][]byte) {
	count := max(1, (c.left+c.size-1)/c.size)
	arena = slices.Grow(arena, c.left+count*len(c.header))
	frames = slices.Grow(frames, count)
	for i := range count {
		n := min(c.size, c.left)
		start := len(arena)
		end := start + len(c.header) + n
		arena = arena[:end]
		f := arena[start:end:end]
		copy(f, c.header)
		c.payload.copy(f[len(c.header):])
		c.left -= n
		c.finish(f, i == 0)
		frames = append(frames, f)
	}
	return arena, frames
}

// finish writes what is special about the frame f.
//
// The payload is summed where it was copied to. It is in the first-level cache now,
// and the copy could use vector registers, as a loop that also adds could not: one
// pass that does both has been slower.
func (c *cutter) finish(f []byte, first bool) {
	ip, l4 := f[c.l3:], f[c.l4:]
	if c.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6Len))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[4:], c.id)
		putChecksum(ip[10:], c.ipSum+uint64(len(ip))+uint64(c.id), false)
		c.id++
	}
	s := c.l4Sum + inet.Sum(f[c.data:]) + uint64(len(l4)) // the length is the pseudo header's
	if c.proto == protoUDP {
		binary.BigEndian.PutUint16(l4[udpLength:], uint16(len(l4)))
		putChecksum(l4[udpCsum:], s+uint64(len(l4)), true)
		return
	}
	flags := c.flags
	if !first {
		flags &^= flagCWR
	}
	if c.left > 0 {
		flags &^= flagFIN | flagPSH
	}
	binary.BigEndian.PutUint32(l4[tcpSeq:], c.seq)
	l4[tcpFlags] = flags
	s += uint64(c.seq>>16) + uint64(c.seq&0xffff) + uint64(c.offset) + uint64(flags)
	putChecksum(l4[tcpCsum:], s, false)
	c.seq += uint32(c.size)
}

// A reader reads through a list of slices.
type reader struct {
	current []byte
	rest    [][]byte
}

// copy fills dst, which is no longer than what is left.
func (r *reader) copy(dst []byte) {
	for {
		n := copy(dst, r.current)
		dst, r.current = dst[n:], r.current[n:]
		if len(dst) == 0 {
			return
		}
		r.current, r.rest = r.rest[0], r.rest[1:]
	}
}
