package offload

import (
	"bytes"
	"encoding/binary"
)

// The rules of who may join whom. Each of them keeps the promise that Split gives
// back the very frames that were glued together.

// mayJoin reports whether the frame r, of kind flow, may be part of a run at all, as
// far as can be said without summing it.
func (c *Coalescer) mayJoin(r *run) bool {
	if !r.plain || r.size() == 0 {
		return false
	}
	f := r.first
	if !r.v6 && binary.BigEndian.Uint16(f[r.l3+10:]) == 0xffff {
		return false // a header checksum nobody computes; Split would write zero
	}
	l4 := f[r.l4:]
	if r.proto == protoUDP {
		return c.UDP && !r.slack && binary.BigEndian.Uint16(l4[udpCsum:]) != 0
	}
	const unusual = flagSYN | flagFIN | flagRST | flagURG
	return l4[tcpFlags]&(flagACK|unusual) == flagACK && binary.BigEndian.Uint16(l4[tcpCsum:]) != 0xffff
}

// begin makes r a run of one frame.
func (r *run) begin() {
	r.bytes = r.size()
	if r.proto == protoTCP {
		r.next = sequence(r) + uint32(r.size())
	}
}

// continuedBy reports whether the frame f continues the run r exactly.
func (r *run) continuedBy(f *run) bool {
	// Both are plain, so equal addresses, tags and types mean that the offsets up
	// to the transport header are equal too.
	if r.data != f.data || f.size() > r.size() {
		return false
	}
	if r.data-r.l3+r.bytes+f.size() > maxPacket {
		return false
	}
	a, b := r.first, f.first
	if !bytes.Equal(a[:r.l3], b[:r.l3]) { // addresses, tags, type
		return false
	}
	if r.v6 {
		if !sameIPv6(a[r.l3:], b[r.l3:]) {
			return false
		}
	} else if !nextIPv4(a[r.l3:], b[r.l3:], r.n) {
		return false
	}
	if r.proto == protoUDP {
		return r.n < maxDatagrams && same32(a[r.l4:], b[r.l4:]) // ports
	}
	return r.n < maxSegments && r.next == sequence(f) && sameTCP(a[r.l4:r.data], b[r.l4:r.data])
}

// sameIPv4 compares all but the length and the identification.
func sameIPv4(a, b []byte) bool {
	return same16(a, b) && // header length, ToS with ECN
		same32(a[6:], b[6:]) && // fragmentation, TTL, protocol
		same64(a[12:], b[12:]) // addresses
}

// nextIPv4 reports whether b is the header of the nth packet after a.
func nextIPv4(a, b []byte, n int) bool {
	if !sameIPv4(a, b) {
		return false
	}
	if binary.BigEndian.Uint16(a[6:])&dontFragment != 0 {
		return true
	}
	return binary.BigEndian.Uint16(b[4:]) == binary.BigEndian.Uint16(a[4:])+uint16(n)
}

// sameIPv6 compares all but the payload length.
func sameIPv6(a, b []byte) bool {
	return same32(a, b) && // traffic class with ECN, flow label
		same16(a[6:], b[6:]) && // next header, hop limit
		same64(a[8:], b[8:]) && same64(a[16:], b[16:]) && // source
		same64(a[24:], b[24:]) && same64(a[32:], b[32:]) // destination
}

// sameTCP reports whether b is the header of a later segment in a run that a begins,
// its sequence number and checksum aside. That b may have PSH and a may not, since
// PSH ends a run, and that CWR is the other way round, are one comparison.
//
// The window must not differ: it could be taken from the last segment, but then
// Split would not give the same segments back. It rarely changes without the
// acknowledgement, which has to begin a new run anyway.
func sameTCP(a, b []byte) bool {
	flags := b[tcpFlags] &^ flagPSH
	return same32(a, b) && // ports
		same32(a[tcpAck:], b[tcpAck:]) &&
		a[tcpOff] == b[tcpOff] && // header length and reserved bits
		flags == a[tcpFlags]&^flagCWR &&
		same16(a[tcpWindow:], b[tcpWindow:]) &&
		same16(a[tcpUrgent:], b[tcpUrgent:]) &&
		bytes.Equal(a[tcpLen:], b[tcpLen:]) // options
}

func sequence(r *run) uint32 { return binary.BigEndian.Uint32(r.first[r.l4+tcpSeq:]) }

func same16(a, b []byte) bool {
	return binary.LittleEndian.Uint16(a) == binary.LittleEndian.Uint16(b)
}

func same32(a, b []byte) bool {
	return binary.LittleEndian.Uint32(a) == binary.LittleEndian.Uint32(b)
}

func same64(a, b []byte) bool {
	return binary.LittleEndian.Uint64(a) == binary.LittleEndian.Uint64(b)
}
