package autoconf

import (
	"net/netip"
	"slices"

	"softether-go/pkg/frame"
)

// inboxFrames bounds what may wait for Run. A link has one or two routers; more than a
// handful of messages at once is an attack.
const inboxFrames = 32

// A heard is a message as it came, before any of it is believed.
type heard struct {
	from mac
	src  netip.Addr
	kind byte   // of neighbour discovery; zero is DHCPv6
	body []byte // our own copy
}

// Filter returns a Writer for the inbound path of a session. DHCPv6 replies to us end
// there; all else goes to next in order, while Run gets copies of what concerns it. It
// never blocks by itself and does not allocate for other frames. A batch without a
// reply is passed on as it is.
func (c *Client) Filter(next frame.Writer) frame.Writer {
	c.yielded.Store(false)
	return frame.Except(next, c.take)
}

// take looks at a frame, and reports whether it was for nobody else.
func (c *Client) take(f []byte) bool {
	if len(f) < frame.HeaderLen+ipLen+icmpLen || frame.EtherType(f) != frame.TypeIPv6 {
		return false
	}
	switch next, first := f[frame.HeaderLen+6], f[frame.HeaderLen+ipLen]; {
	case next == protoICMP && first >= routerAdvertisement && first <= neighborAdvertisement:
		c.takeNDP(f)
	case next == protoUDP && f[frame.HeaderLen+ipLen+2] == clientPort>>8 && f[frame.HeaderLen+ipLen+3] == clientPort&0xff:
		// Also when nothing is awaited: what is behind would answer with an ICMP error.
		return c.takeDHCP(f)
	}
	return false
}

// takeNDP copies what Run wants to know. A solicitation or an advertisement of neighbours
// is of interest if it is about an address under probe, or a question that only we answer.
func (c *Client) takeNDP(f []byte) {
	p, ok := parse(f)
	if !ok || p.srcMAC == c.mac || frame.IsGroup(p.srcMAC[:]) {
		return
	}
	first := p.payload[:min(len(p.payload), icmpLen+20)]
	if len(first) < icmpLen+12 {
		return
	}
	if first[0] != routerAdvertisement {
		if len(first) < icmpLen+20 || !c.concerned(first[0], p.src, netip.AddrFrom16([16]byte(first[icmpLen+4:]))) {
			return
		}
	} else if c.watched.Load() == nil || !p.src.IsLinkLocalUnicast() {
		return
	}
	kind, body, ok := p.ndp()
	if !ok {
		c.ignored.Add(1)
		return
	}
	c.queue(heard{from: p.srcMAC, src: p.src, kind: kind, body: slices.Clone(body)})
}

// concerned reports whether a message about target is one for Run: who has the address,
// or probes it too, is of interest to our own probe; who asks for it wants an answer.
func (c *Client) concerned(kind byte, src, target netip.Addr) bool {
	if watched := c.watched.Load(); watched != nil && slices.Contains(*watched, target) &&
		(kind == neighborAdvertisement || src == unspecified) {
		return true
	}
	own := c.answered.Load()
	return kind == neighborSolicitation && !c.yielded.Load() && own != nil && *own == target && src != unspecified
}

func (c *Client) takeDHCP(f []byte) bool {
	p, ok := parse(f)
	if !ok || mac(frame.Dst(f)) != c.mac || p.srcMAC == c.mac {
		return false
	}
	m, ok := p.dhcp()
	if !ok {
		return false
	}
	if len(m) < 4 || awaits(m[1:4]) != c.awaited.Load() {
		c.ignored.Add(1)
		return true
	}
	c.queue(heard{from: p.srcMAC, src: p.src, body: slices.Clone(m)})
	return true
}

func (c *Client) queue(h heard) {
	select {
	case c.inbox <- h:
	default:
		c.overflow.Add(1)
	}
}

// awaits is how Client.awaited says that answers to a transaction are waited for; zero
// says that none are.
func awaits(xid []byte) uint32 {
	return 1<<24 | uint32(xid[0])<<16 | uint32(xid[1])<<8 | uint32(xid[2])
}
