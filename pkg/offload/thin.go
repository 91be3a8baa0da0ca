package offload

import (
	"bytes"
	"encoding/binary"
)

// maxThinned bounds how many acknowledgements one may stand for, so that a sender
// still hears of every 32 segments or so by itself: what it hears of at once it sends
// at once.
const maxThinned = 15

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

// isAck reports whether the frame r, of kind flow, is an acknowledgement and nothing
// else: no data, no other flag, no option but a time stamp and selective
// acknowledgements.
func (r *run) isAck() bool {
	if r.proto != protoTCP || !r.plain || r.size() > 0 || r.first[r.l4+tcpFlags] != flagACK {
		return false
	}
	_, ok := r.reported()
	return ok
}

// supersededBy reports whether the acknowledgement f says all that the frame r before it
// does, which is one too: it acknowledges more, with no earlier time stamps. One that is
// repeated says something by being there.
func (r *run) supersededBy(f *run) bool {
	a, b := r.first, f.first
	if r.size() > 0 || r.thinned == maxThinned || !bytes.Equal(a[:r.l3], b[:r.l3]) {
		return false
	}
	if r.v6 && !sameIPv6(a[r.l3:], b[r.l3:]) || !r.v6 && !sameIPv4(a[r.l3:], b[r.l3:]) {
		return false
	}
	const reserved = 0x0f
	a, b = a[r.l4:], b[f.l4:]
	if !same32(a, b) || !same32(a[tcpSeq:], b[tcpSeq:]) || (a[tcpOff]^b[tcpOff])&reserved != 0 || !same16(a[tcpUrgent:], b[tcpUrgent:]) {
		return false
	}
	before, _ := r.reported()
	now, _ := f.reported()
	return before.supersededBy(now)
}

// A report is what an acknowledgement says beyond its window.
type report struct {
	ack    []byte // number of the byte that is expected next
	times  []byte // time stamp and its echo, or nothing
	blocks []byte // received beyond ack: pairs of first byte and the one behind (RFC 2018)
}

const (
	timestamp    = 0x0101080a // how options begin that have one (RFC 7323, appendix A)
	timestampLen = 12
	selective    = 0x010105 // how others begin that have blocks, before their length
	blockLen     = 8
)

// reported returns what the acknowledgement r says, and whether it is in the form
// that everybody uses.
func (r *run) reported() (p report, ok bool) {
	h := r.first[r.l4:r.data]
	p.ack = h[tcpAck : tcpAck+4]
	o := h[tcpLen:]
	if len(o) >= timestampLen && binary.BigEndian.Uint32(o) == timestamp {
		p.times, o = o[4:timestampLen], o[timestampLen:]
	}
	if len(o) > 4 && binary.BigEndian.Uint32(o) == selective<<8|uint32(len(o)-2) && (len(o)-4)%blockLen == 0 {
		p.blocks, o = o[4:], nil
	}
	return p, len(o) == 0
}

// supersededBy reports whether q says all that p does, and more.
func (p report) supersededBy(q report) bool {
	if len(p.times) != len(q.times) || p.duplicate() {
		return false
	}
	if len(p.times) > 0 && (later(p.times, q.times) < 0 || later(p.times[4:], q.times[4:]) < 0) {
		return false
	}
	switch more := later(p.ack, q.ack); {
	case more < 0:
		return false
	case more == 0 && (len(q.blocks) == 0 || bytes.Equal(p.blocks, q.blocks)):
		return false // repeated
	}
	for b := p.blocks; len(b) > 0; b = b[blockLen:] {
		if later(b[4:], q.ack) < 0 && !within(b, q.blocks) {
			return false
		}
	}
	return true
}

// duplicate reports whether p's first block tells of bytes that came twice (RFC 2883, 4):
// they are acknowledged already, or part of the second block.
func (p report) duplicate() bool {
	return len(p.blocks) > 0 && (later(p.blocks, p.ack) > 0 || within(p.blocks, p.blocks[blockLen:]))
}

// within reports whether the block b is part of one of others.
func within(b, others []byte) bool {
	for ; len(others) > 0; others = others[blockLen:] {
		if later(others, b) >= 0 && later(b[4:], others[4:]) >= 0 {
			return true
		}
	}
	return false
}

// later returns by how much the number at b is ahead of that at a (RFC 9293, 3.4).
func later(a, b []byte) int32 {
	return int32(binary.BigEndian.Uint32(b) - binary.BigEndian.Uint32(a))
}
