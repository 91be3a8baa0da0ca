package nat

import (
	"encoding/binary"
	"net/netip"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
)

const (
	flagFIN, flagRST = 1, 4

	ttlAt, protoAt, sumAt, srcAt, dstAt = 8, 9, 10, 12, 16 // in an IPv4 header

	echoReply, unreachable, echo, timeExceeded, parameterProblem = 0, 3, 8, 11, 12 // ICMP
)

// An ipPacket is a view of an IPv4 packet that is whole in its frame.
type ipPacket []byte

// parse returns the packet in a frame, without padding. Its header is whole.
func parse(f []byte) (ipPacket, bool) {
	if len(f) < frame.HeaderLen || frame.EtherType(f) != frame.TypeIPv4 {
		return nil, false
	}
	p, ok := inet.ParseIPv4(frame.Payload(f))
	return ipPacket(p), ok
}

func (p ipPacket) src() [4]byte    { return [4]byte(p[srcAt:]) }
func (p ipPacket) dst() [4]byte    { return [4]byte(p[dstAt:]) }
func (p ipPacket) payload() []byte { return p[int(p[0]&15)*4:] }
func (p ipPacket) identity() packet {
	return packet{p.src(), binary.BigEndian.Uint16(p[4:]), p[protoAt]}
}

// fragment reports whether this is not the first of a packet's, and whether more follow.
func (p ipPacket) fragment() (further, more bool) {
	v := binary.BigEndian.Uint16(p[6:])
	return v&0x1fff != 0, v&0x2000 != 0
}

// rewrite changes an address in the header, at srcAt or dstAt, and what depends on it.
func (p ipPacket) rewrite(at int, addr [4]byte, transport bool) {
	old := [4]byte(p[at:])
	copy(p[at:], addr[:])
	adjust(p[sumAt:], old[:], addr[:])
	if !transport {
		return
	}
	if sum := p.sum(); sum != nil {
		adjust(sum, old[:], addr[:])
		p.neverZero(sum)
	}
}

// sum is the checksum of TCP or UDP, which covers addresses; nil if there is none.
func (p ipPacket) sum() []byte {
	switch b := p.payload(); {
	case p[protoAt] == protoTCP && len(b) >= 20:
		return b[16:18]
	case p[protoAt] == protoUDP && len(b) >= 8 && binary.BigEndian.Uint16(b[6:]) != 0:
		return b[6:8]
	}
	return nil
}

// neverZero is for UDP, of which a checksum of zero says that there is none.
func (p ipPacket) neverZero(sum []byte) {
	if p[protoAt] == protoUDP && binary.BigEndian.Uint16(sum) == 0 {
		sum[0], sum[1] = 0xff, 0xff
	}
}

// setPort changes a port, or the identifier of an echo, and its checksum.
func (p ipPacket) setPort(at int, port uint16) {
	b := p.payload()
	old := [2]byte(b[at:])
	binary.BigEndian.PutUint16(b[at:], port)
	sum := p.sum()
	if p[protoAt] == protoICMP {
		sum = b[2:4]
	}
	if sum != nil {
		adjust(sum, old[:], b[at:at+2])
		p.neverZero(sum)
	}
}

// age takes one hop off. It fails when there is none left.
func (p ipPacket) age() bool {
	if p[ttlAt] <= 1 {
		return false
	}
	old := [2]byte(p[ttlAt:])
	p[ttlAt]--
	adjust(p[sumAt:], old[:], p[ttlAt:ttlAt+2])
	return true
}

// adjust changes a checksum by what has changed under it (RFC 1624). The parts are of
// even length.
func adjust(sum, old, changed []byte) {
	s := uint32(^binary.BigEndian.Uint16(sum))
	for i := 0; i < len(old); i += 2 {
		s += uint32(^binary.BigEndian.Uint16(old[i:])) + uint32(binary.BigEndian.Uint16(changed[i:]))
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	binary.BigEndian.PutUint16(sum, ^uint16(s))
}

// fromInside translates what the stations send.
func (r *Router) fromInside(frames [][]byte) error {
	now := time.Now()
	var asked [][]byte // questions and answers of our own
	r.outside.begin()
	for _, f := range frames {
		switch {
		case len(f) < frame.HeaderLen:
		case frame.EtherType(f) == frame.TypeARP:
			if reply := r.answerInside(f); reply != nil {
				r.inside.write(reply)
			}
		case mac(frame.Dst(f)) == mac(r.cfg.Inside):
			if question := r.outward(f, now); question != nil {
				asked = append(asked, question)
			}
		}
	}
	r.outside.end()
	r.outside.write(asked...)
	return nil
}

// outward translates one frame into the batch, or leaves it with its neighbor. It may
// return a question for that.
func (r *Router) outward(f []byte, now time.Time) (question []byte) {
	p, ok := parse(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !ok:
		r.stats.DroppedProtocol++
		return nil
	case !r.config.Address.IsValid():
		r.stats.DroppedNoWay++
		return nil
	case !r.network.Contains(netip.AddrFrom4(p.src())):
		r.stats.DroppedProtocol++
		return nil
	}
	to := netip.AddrFrom4(p.dst())
	hop := r.config.NextHop(to)
	if to.IsMulticast() || r.network.Contains(to) || !hop.IsValid() {
		r.stats.DroppedNoWay++
		return nil
	}
	own := r.outside.add(f[:frame.HeaderLen+len(p)])
	p, _ = parse(own)
	if !r.translateOut(p, mac(frame.Src(f)), now) {
		r.outside.undo()
		return nil
	}
	r.stats.OutFrames++
	copy(own[6:], r.cfg.Outside)
	station, known := r.neighborAt(hop, now)
	if known {
		copy(own, station[:])
		return nil
	}
	r.outside.undo()
	return r.await(hop, own, now)
}

// translateOut makes a packet one of ours. It counts what cannot be.
func (r *Router) translateOut(p ipPacket, station mac, now time.Time) bool {
	outside := r.config.Address.Addr().As4()
	if !p.age() {
		r.stats.DroppedTTL++
		return false
	}
	if further, _ := p.fragment(); further {
		p.rewrite(srcAt, outside, false)
		return true
	}
	at, ok := portAt(p, srcAt)
	if !ok {
		if p.isError() && r.translateError(p, dstAt, outside, now) {
			p.rewrite(srcAt, outside, false)
			return true
		}
		r.stats.DroppedProtocol++
		return false
	}
	m := r.table.outward(source{p[protoAt], p.src(), binary.BigEndian.Uint16(p.payload()[at:])}, station, now)
	if m == nil {
		r.stats.DroppedFull++
		return false
	}
	if p[protoAt] == protoTCP {
		flags := p.payload()[13]
		m.closedOut, m.reset = m.closedOut || flags&flagFIN != 0, m.reset || flags&flagRST != 0
	}
	p.rewrite(srcAt, outside, true)
	p.setPort(at, m.port)
	return true
}

// portAt returns where in the payload the port of a side is, or the identifier of an echo
// that goes that way.
func portAt(p ipPacket, side int) (at int, ok bool) {
	b := p.payload()
	switch {
	case p[protoAt] == protoTCP && len(b) >= 20, p[protoAt] == protoUDP && len(b) >= 8:
		return (side - srcAt) / 2, true
	case p[protoAt] == protoICMP && len(b) >= 8 && (side == srcAt && b[0] == echo || side == dstAt && b[0] == echoReply):
		return 4, true
	}
	return 0, false
}

// isError reports whether a packet is an ICMP error about another one.
func (p ipPacket) isError() bool {
	b := p.payload()
	return p[protoAt] == protoICMP && len(b) >= 8 && (b[0] == unreachable || b[0] == timeExceeded || b[0] == parameterProblem)
}

// quoted returns the packet that an error is about; its end may be missing.
func (p ipPacket) quoted() (q ipPacket, ok bool) {
	b := p.payload()[8:]
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, false
	}
	header := int(b[0]&15) * 4
	return ipPacket(b), header >= 20 && len(b) >= header+8 // 8 bytes at least, RFC 792
}

// translateError translates the packet in an error. With srcAt an inbound error is about
// what we sent: what is ours there becomes the station's again, whose mapping is
// returned by errorOf. With dstAt it is the reverse.
func (r *Router) translateError(p ipPacket, side int, outside [4]byte, now time.Time) bool {
	q, ok := p.quoted()
	if !ok {
		return false
	}
	var addr [4]byte
	var port uint16
	at := quotedPort(q, side)
	if at < 0 {
		return false
	}
	if side == dstAt { // outbound: about what we passed in
		m := r.table.out[source{q[protoAt], q.dst(), binary.BigEndian.Uint16(q.payload()[at:])}]
		if m == nil || m.expired(now) {
			return false
		}
		addr, port = outside, m.port
	} else {
		m := r.errorOf(p, now)
		if m == nil {
			return false
		}
		addr, port = m.source.addr, m.source.port
	}
	old := [4]byte(q[side:])
	copy(q[side:], addr[:])
	adjust(q[sumAt:], old[:], addr[:])
	binary.BigEndian.PutUint16(q.payload()[at:], port)
	b := p.payload()
	b[2], b[3] = 0, 0
	binary.BigEndian.PutUint16(b[2:], inet.Checksum(b))
	return true
}

// quotedPort is where in a quoted packet the port of a side is, or -1.
func quotedPort(q ipPacket, side int) int {
	switch q[protoAt] {
	case protoTCP, protoUDP:
		return (side - srcAt) / 2
	case protoICMP:
		return 4
	}
	return -1
}

// errorOf returns the mapping of the packet that an inbound error is about.
func (r *Router) errorOf(p ipPacket, now time.Time) *mapping {
	q, ok := p.quoted()
	if !ok || q.src() != p.dst() {
		return nil
	}
	at := quotedPort(q, srcAt)
	if at < 0 {
		return nil
	}
	return r.table.inward(target{q[protoAt], binary.BigEndian.Uint16(q.payload()[at:])}, now)
}

// fromOutside translates what comes for us.
func (r *Router) fromOutside(frames [][]byte) error {
	now := time.Now()
	r.inside.begin()
	for _, f := range frames {
		switch {
		case len(f) < frame.HeaderLen:
		case frame.EtherType(f) == frame.TypeARP:
			r.outside.write(r.hear(f, now)...)
		case mac(frame.Dst(f)) == mac(r.cfg.Outside):
			r.inward(f, now)
		}
	}
	r.inside.end()
	return nil
}

// inward translates one frame into the batch.
func (r *Router) inward(f []byte, now time.Time) {
	p, ok := parse(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !ok {
		r.stats.DroppedProtocol++
		return
	}
	if !r.config.Address.IsValid() || p.dst() != r.config.Address.Addr().As4() {
		r.stats.DroppedNoMapping++
		return
	}
	own := r.inside.add(f[:frame.HeaderLen+len(p)])
	p, _ = parse(own)
	m := r.translateIn(p, now)
	if m == nil {
		r.inside.undo()
		return
	}
	r.stats.InFrames++
	copy(own, m.station[:])
	copy(own[6:], r.cfg.Inside)
}

// translateIn makes a packet one for a station, whose mapping it returns. It counts
// what is for none.
func (r *Router) translateIn(p ipPacket, now time.Time) *mapping {
	if !p.age() {
		r.stats.DroppedTTL++
		return nil
	}
	identity := p.identity()
	further, more := p.fragment()
	if further {
		m := r.table.further(identity, now)
		if m == nil {
			r.stats.DroppedNoMapping++
			return nil
		}
		p.rewrite(dstAt, m.source.addr, false)
		return m
	}
	at, ok := portAt(p, dstAt)
	if !ok {
		return r.translateErrorIn(p, now)
	}
	m := r.table.inward(target{p[protoAt], binary.BigEndian.Uint16(p.payload()[at:])}, now)
	if m == nil {
		r.stats.DroppedNoMapping++
		return nil
	}
	if p[protoAt] == protoTCP {
		flags := p.payload()[13]
		m.answered, m.closedIn, m.reset = true, m.closedIn || flags&flagFIN != 0, m.reset || flags&flagRST != 0
	}
	if more {
		r.table.remember(identity, m, now)
	}
	p.rewrite(dstAt, m.source.addr, true)
	p.setPort(at, m.source.port)
	return m
}

func (r *Router) translateErrorIn(p ipPacket, now time.Time) *mapping {
	var m *mapping
	if p.isError() {
		m = r.errorOf(p, now)
	}
	if m == nil || !r.translateError(p, srcAt, m.source.addr, now) {
		r.stats.DroppedNoMapping++
		return nil
	}
	p.rewrite(dstAt, m.source.addr, false)
	return m
}
