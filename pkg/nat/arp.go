package nat

import (
	"bytes"
	"net/netip"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
)

const (
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
	return r.arp(inet.ARPRequest, r.cfg.Outside, r.config.Address.Addr(), mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, addr)
}

// arp makes a frame. A question does not say whose address it asks for.
func (r *Router) arp(op uint16, from []byte, own netip.Addr, to mac, addr netip.Addr) []byte {
	f := make([]byte, frame.HeaderLen+inet.ARPLen)
	frame.PutHeader(f, to[:], from, frame.TypeARP)
	a := inet.ARP{Op: op, FromMAC: mac(from), From: own, To: addr}
	if op == inet.ARPReply {
		a.ToMAC = to
	}
	a.Put(frame.Payload(f))
	return f
}

// parseARP reads a message, which is a question or an answer.
func parseARP(f []byte) (a inet.ARP, ok bool) {
	a, ok = inet.ParseARP(frame.Payload(f))
	return a, ok && (a.Op == inet.ARPRequest || a.Op == inet.ARPReply)
}

// answerInside answers a station that looks for its gateway.
func (r *Router) answerInside(f []byte) []byte {
	a, ok := parseARP(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !ok || a.Op != inet.ARPRequest || !r.network.IsValid() || a.To != inNetwork(r.network, 1) {
		return nil
	}
	return r.arp(inet.ARPReply, r.cfg.Inside, a.To, a.FromMAC, a.From)
}

// hear learns where neighbors are, and returns what is to be sent: an answer to who looks
// for us, and what has waited.
func (r *Router) hear(f []byte, now time.Time) (out [][]byte) {
	a, ok := parseARP(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !ok || !r.config.Address.IsValid() || frame.IsGroup(a.FromMAC[:]) || a.FromMAC == mac(r.cfg.Outside) {
		return nil
	}
	if n := r.neighbors[a.From]; n != nil {
		n.mac, n.known = a.FromMAC, now
		for _, w := range n.waiting {
			copy(w, a.FromMAC[:])
			out = append(out, w)
		}
		n.waiting = nil
	}
	if a.Op == inet.ARPRequest && a.To == r.config.Address.Addr() {
		out = append(out, r.arp(inet.ARPReply, r.cfg.Outside, a.To, a.FromMAC, a.From))
	}
	return out
}
