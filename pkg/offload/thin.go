package offload

import (
	"bytes"
	"encoding/binary"
)

// maxThinned bounds how many acknowledgements one may stand for, so that a sender
// still hears of every 32 segments or so by itself: what it hears of at once it sends
// at once.
const maxThinned = 15

// timestamp is how options begin that are a time stamp and nothing else (RFC 7323,
// appendix A).
const timestamp, timestampLen = 0x0101080a, 12

// isAck reports whether the frame r, of kind flow, is an acknowledgement and nothing
// else: no data, no other flag, no option but the time stamp. So it tells of no loss,
// as selective acknowledgements do, and of no congestion.
func (r *run) isAck() bool {
	if r.proto != protoTCP || !r.plain || r.size() > 0 {
		return false
	}
	h := r.first[r.l4:r.data]
	switch len(h) {
	case tcpLen:
	case tcpLen + timestampLen:
		if binary.BigEndian.Uint32(h[tcpLen:]) != timestamp {
			return false
		}
	default:
		return false
	}
	return h[tcpFlags] == flagACK
}

// thin lets the frame r, a correct acknowledgement, take the place of the one before it
// in its flow if that says nothing more.
func (c *Coalescer) thin(r *run) {
	slot := &c.table[r.hash()]
	if i := int(*slot) - 1; i >= c.barrier && c.runs[i].supersededBy(r) {
		r.thinned = c.runs[i].thinned + 1
		c.runs[i] = *r
		return
	}
	c.runs = append(c.runs, *r)
	*slot = uint32(len(c.runs))
}

// supersededBy reports whether the acknowledgement f says all that the frame r before it
// does, which is one too: it acknowledges more, with no earlier time stamps. One that is
// repeated says something by being there.
func (r *run) supersededBy(f *run) bool {
	a, b := r.first, f.first
	if r.size() > 0 || r.thinned == maxThinned || r.data != f.data || !bytes.Equal(a[:r.l3], b[:r.l3]) {
		return false
	}
	if r.v6 && !sameIPv6(a[r.l3:], b[r.l3:]) || !r.v6 && !sameIPv4(a[r.l3:], b[r.l3:]) {
		return false
	}
	a, b = a[r.l4:r.data], b[r.l4:r.data]
	if !same32(a, b) || !same32(a[tcpSeq:], b[tcpSeq:]) || a[tcpOff] != b[tcpOff] ||
		!same16(a[tcpUrgent:], b[tcpUrgent:]) || later(a[tcpAck:], b[tcpAck:]) <= 0 {
		return false
	}
	times := tcpLen + 4
	return len(a) == tcpLen || later(a[times:], b[times:]) >= 0 && later(a[times+4:], b[times+4:]) >= 0
}

// later returns by how much the number at b is ahead of that at a (RFC 9293, 3.4).
func later(a, b []byte) int32 {
	return int32(binary.BigEndian.Uint32(b) - binary.BigEndian.Uint32(a))
}
