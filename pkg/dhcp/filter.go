package dhcp

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"softether-go/pkg/frame"
)

// replyQueue bounds what may wait for Acquire or Keep. A hub has one or two DHCP
// servers; more than a handful of answers to one question is an attack.
const replyQueue = 16

const (
	bootpReply  = 2
	chaddrStart = 28
	headerEnd   = 236 // the fixed part of a message, RFC 2131 §2; the cookie follows
)

// A reply is a DHCP message to us as it was heard, before any of it is believed.
type reply struct {
	from    mac
	src     netip.Addr
	payload []byte // our own copy, at least headerEnd bytes
}

// Filter returns a Writer for the inbound path of a session. It takes out the
// DHCP replies to our hardware address and listens to ARP while an address is
// being probed; all else, ARP included, goes to next in order. It never blocks
// by itself and does not allocate for frames it passes. A batch without a reply
// is passed on as it is.
//
// Replies are taken out even when nothing waits for them: whatever is behind
// next does not expect them and would answer with an ICMP error.
func (c *Client) Filter(next frame.Writer) frame.Writer {
	return frame.Except(next, c.take)
}

// take reports whether fr was a DHCP reply to us, and so is not for anybody else.
func (c *Client) take(fr []byte) bool {
	if len(fr) < frame.HeaderLen {
		return false
	}
	switch frame.EtherType(fr) {
	case frame.TypeARP:
		c.watch(fr)
		return false
	case frame.TypeIPv4:
		return maybeReply(fr) && c.takeReply(fr)
	}
	return false
}

func (c *Client) takeReply(fr []byte) bool {
	d, ok := parseDatagram(fr)
	if !ok || d.dstMAC != c.mac && d.dstMAC != broadcastMAC || !c.addressed(d.payload) {
		return false
	}
	// The sender's MAC will be where renewals are sent to.
	if frame.IsGroup(d.srcMAC[:]) || d.srcMAC == c.mac || c.awaited.Load() != awaits(xid(d.payload[4:8])) {
		c.ignored.Add(1)
		return true
	}
	select {
	case c.replies <- reply{from: d.srcMAC, src: d.src, payload: slices.Clone(d.payload)}:
	default:
		c.overflow.Add(1)
	}
	return true
}

// addressed reports whether p is a BOOTP reply for our hardware address.
func (c *Client) addressed(p []byte) bool {
	return len(p) >= headerEnd && p[0] == bootpReply && mac(p[chaddrStart:chaddrStart+6]) == c.mac
}

// watch notes when somebody else says that the address under probe is theirs.
//
// A probe by somebody else for the same address is not counted, although RFC 5227
// would: switches that track their hosts send such probes all the time, while two
// clients rarely get one address in the same second.
func (c *Client) watch(fr []byte) {
	probed := c.probed.Load()
	if probed == 0 {
		return
	}
	who, addr, ok := arpSender(fr)
	if !ok || who == c.mac || mac(frame.Src(fr)) == c.mac || ipKey(addr) != probed {
		return
	}
	select {
	case c.conflicts <- who:
	default: // one is enough
	}
}

// awaits is how Client.awaited says that x is waited for; zero says that nothing is.
func awaits(x xid) uint64 { return 1<<32 | uint64(binary.BigEndian.Uint32(x[:])) }

// ipKey is how Client.probed says that addr is probed; zero says that nothing is.
func ipKey(addr netip.Addr) uint32 {
	b := addr.As4()
	return binary.BigEndian.Uint32(b[:])
}
