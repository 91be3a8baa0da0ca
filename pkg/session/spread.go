package session

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
	"softether-go/pkg/wire"
)

// A spreader distributes outbound frames over several links by flow. The peers'
// connections reorder nothing within themselves, so a flow stays on its link for as
// long as it has something to say.
type spreader struct {
	mu    sync.Mutex // guards flows
	flows [flowBuckets]flow
	pool  sync.Pool // of *shares
}

const (
	// flowBuckets is how many flows can be told apart, a power of two.
	flowBuckets = 1 << 12
	// flowPause is a silence after which a flow may go another way: what it sent before
	// has long arrived, whichever way that was.
	flowPause = time.Second
)

// A flow is a bucket of them: they share their fate.
type flow struct {
	link *link
	last int64 // when it last sent, in Unix nanoseconds
}

// shares are the parts of one batch.
type shares struct {
	parts [wire.MaxConnections + 1]share
}

type share struct {
	link   *link
	frames [][]byte
}

// An outbound is a state of the links that send. It does not change.
type outbound struct {
	only    *link         // if there is just one
	bulk    []*link       // else all, or all but urgent
	urgent  *link         // for frames that should not wait behind others; may be nil
	changed chan struct{} // closed when there is another outbound
}

// newOutbound chooses those of all that send.
func newOutbound(all []*link, qos bool) *outbound {
	o := &outbound{changed: make(chan struct{})}
	for _, l := range all {
		if l.sends() {
			o.bulk = append(o.bulk, l)
		}
	}
	if len(o.bulk) == 1 {
		o.only = o.bulk[0]
	} else if n := len(o.bulk); qos && n > 1 {
		o.urgent, o.bulk = o.bulk[n-1], o.bulk[:n-1]
	}
	return o
}

// empty reports whether nothing can be sent.
func (o *outbound) empty() bool { return len(o.bulk) == 0 }

// split divides a batch among the links. The caller gives the shares back to the pool.
func (d *spreader) split(o *outbound, frames [][]byte) *shares {
	parts, _ := d.pool.Get().(*shares)
	if parts == nil {
		parts = &shares{}
	}
	now := time.Now().UnixNano()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range frames {
		l := o.urgent
		if l == nil || !isUrgent(f) {
			l = d.choose(o.bulk, flowOf(f), now)
		}
		parts.add(l, f)
	}
	return parts
}

// choose returns the link of a flow. The caller holds mu.
func (d *spreader) choose(links []*link, hash uint32, now int64) *link {
	b := &d.flows[hash%flowBuckets]
	// Of another number of links is another choice made, but not amid what a flow says.
	if b.link == nil || now-b.last >= int64(flowPause) || !slices.Contains(links, b.link) {
		b.link = links[int(hash%flowBuckets)%len(links)]
	}
	b.last = now
	return b.link
}

func (p *shares) add(l *link, f []byte) {
	for i := range p.parts {
		s := &p.parts[i]
		if s.link == nil {
			s.link = l
		}
		if s.link == l {
			s.frames = append(s.frames, f)
			return
		}
	}
}

// recycle forgets the frames, which are lent, and keeps the room for others.
func (d *spreader) recycle(p *shares) {
	for i := range p.parts {
		s := &p.parts[i]
		if s.link == nil {
			break
		}
		clear(s.frames)
		s.link, s.frames = nil, s.frames[:0]
	}
	d.pool.Put(p)
}

const (
	protoICMP = inet.ProtoICMP
	protoTCP  = inet.ProtoTCP
	protoUDP  = inet.ProtoUDP
)

// isUrgent reports whether f is of those that the reference implementation lets pass
// the others: IPv4 that asks for it by its type of service, and small ICMP.
// (Cedar/Session.c, IsPriorityHighestPacketForQoS)
func isUrgent(f []byte) bool {
	if len(f) < frame.HeaderLen+20 || frame.EtherType(f) != frame.TypeIPv4 {
		return false
	}
	ip := frame.Payload(f)
	tos := ip[1]
	return tos != 0 && tos != 8 || ip[9] == protoICMP && len(f) <= 128
}

// flowOf returns a number that frames of one flow share: by addresses and ports, or
// what there is of them. Fragments go by their addresses, as only the first has ports.
func flowOf(f []byte) uint32 {
	if len(f) < frame.HeaderLen {
		return 0
	}
	p := frame.Payload(f)
	switch frame.EtherType(f) {
	case frame.TypeIPv4:
		if len(p) >= 20 {
			h := mix(seed, binary.BigEndian.Uint64(p[12:]))
			fragment := binary.BigEndian.Uint16(p[6:])&0x3fff != 0
			return ports(h, p[9], p, int(p[0]&0xf)*4, fragment)
		}
	case frame.TypeIPv6:
		if len(p) >= 40 {
			h := seed
			for i := 8; i < 40; i += 8 {
				h = mix(h, binary.BigEndian.Uint64(p[i:]))
			}
			return ports(h, p[6], p, 40, false) // what has extension headers goes by its addresses
		}
	}
	return fold(mix(mix(seed, binary.BigEndian.Uint64(f)), uint64(binary.BigEndian.Uint32(f[8:]))))
}

// ports adds the ports at offset at of packet p, if its protocol has any and the
// header can be that long.
func ports(h uint64, proto byte, p []byte, at int, fragment bool) uint32 {
	h = mix(h, uint64(proto))
	if (proto == protoTCP || proto == protoUDP) && !fragment && at >= 20 && len(p) >= at+4 {
		h = mix(h, uint64(binary.BigEndian.Uint32(p[at:])))
	}
	return fold(h)
}

const seed = uint64(0x9e3779b97f4a7c15)

// mix is a step of a hash: a multiplication by an odd number and a shift, which spreads
// addresses that differ in their last bits (the finalizer of MurmurHash3).
func mix(h, v uint64) uint64 {
	h = (h ^ v) * 0xff51afd7ed558ccd
	return h ^ h>>33
}

func fold(h uint64) uint32 { return uint32(h>>32) ^ uint32(h) }
