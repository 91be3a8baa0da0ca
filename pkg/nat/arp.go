package nat

import (
	"bytes"
	"net/netip"
	"time"

	"softether-go/pkg/frame"
)

const (
	arpLen     = 28 // for Ethernet and IPv4 (RFC 826)
	arpRequest = 1
	arpReply   = 2

	// neighborTime is after how long a neighbor is asked for again; until it answers,
	// packets go to where it was.
	neighborTime = 5 * time.Minute
	// askEvery is after how long an unanswered question is repeated, if there is a packet.
	askEvery = time.Second
	// maxNeighbors bounds the table, and maxWaiting the packets for one of them: the
	// first ones of a few connections.
	maxNeighbors, maxWaiting = 1024, 8
)

// A neighbor is a station of the VPN that we send to.
type neighbor struct {
	mac     mac
	known   time.Time // when it last said so; zero is never
	asked   time.Time
	waiting [][]byte // frames for it, copies
}

// neighborAt returns where a neighbor is, if that is known.
func (r *Router) neighborAt(addr netip.Addr, now time.Time) (mac, bool) {
	n := r.neighbors[addr]
	if n == nil || n.known.IsZero() || now.Sub(n.known) > neighborTime && now.Sub(n.asked) > askEvery {
		return mac{}, false // the last: to be asked, once in a while
	}
	return n.mac, true
}

// await keeps a frame until a neighbor has answered, and returns the question if it is
// time for one.
func (r *Router) await(addr netip.Addr, f []byte, now time.Time) (question []byte) {
	n := r.neighbors[addr]
	if n == nil {
		if len(r.neighbors) >= maxNeighbors {
			clear(r.neighbors) // somebody walks through a network; all will be asked again
		}
		n = &neighbor{}
		r.neighbors[addr] = n
	}
	if len(n.waiting) < maxWaiting {
		n.waiting = append(n.waiting, bytes.Clone(f))
	} else {
		r.stats.DroppedNoWay++
	}
	if now.Sub(n.asked) < askEvery {
		return nil
	}
	n.asked = now
	return r.arp(arpRequest, r.cfg.Outside, r.config.Address.Addr(), mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, addr)
}

// arp makes a frame. A question does not say whose address it asks for.
func (r *Router) arp(op byte, from []byte, own netip.Addr, to mac, addr netip.Addr) []byte {
	f := make([]byte, frame.HeaderLen+arpLen)
	frame.PutHeader(f, to[:], from, frame.TypeARP)
	p := frame.Payload(f)
	copy(p, []byte{0, 1, 8, 0, 6, 4, 0, op})
	copy(p[8:], from)
	a, b := own.As4(), addr.As4()
	copy(p[14:], a[:])
	if op == arpReply {
		copy(p[18:], to[:])
	}
	copy(p[24:], b[:])
	return f
}

// An arpMessage is what one says.
type arpMessage struct {
	op         byte
	from       mac
	sender, of netip.Addr
}

func parseARP(f []byte) (a arpMessage, ok bool) {
	p := frame.Payload(f)
	if len(p) < arpLen || [7]byte(p) != [7]byte{0, 1, 8, 0, 6, 4, 0} {
		return a, false
	}
	return arpMessage{p[7], mac(p[8:14]), netip.AddrFrom4([4]byte(p[14:])), netip.AddrFrom4([4]byte(p[24:]))}, true
}

// answerInside answers a station that looks for its gateway.
func (r *Router) answerInside(f []byte) []byte {
	a, ok := parseARP(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !ok || a.op != arpRequest || !r.network.IsValid() || a.of != inNetwork(r.network, 1) {
		return nil
	}
	return r.arp(arpReply, r.cfg.Inside, a.of, a.from, a.sender)
}

// hear learns where neighbors are, and returns what is to be sent: an answer to who looks
// for us, and what has waited.
func (r *Router) hear(f []byte, now time.Time) (out [][]byte) {
	a, ok := parseARP(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !ok || !r.config.Address.IsValid() || frame.IsGroup(a.from[:]) || a.from == mac(r.cfg.Outside) {
		return nil
	}
	if n := r.neighbors[a.sender]; n != nil {
		n.mac, n.known = a.from, now
		for _, w := range n.waiting {
			copy(w, a.from[:])
			out = append(out, w)
		}
		n.waiting = nil
	}
	if a.op == arpRequest && a.of == r.config.Address.Addr() {
		out = append(out, r.arp(arpReply, r.cfg.Outside, a.of, a.from, a.sender))
	}
	return out
}
