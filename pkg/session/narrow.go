package session

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
)

// A session that moves to UDP has connections inside from before, whose segments are too
// long for a datagram: ours would go on by TCP, and the server's be cut into two packets,
// each of which can get lost. What a router says in that case (RFC 1191), a narrower says:
// to whoever sent the segment, that its path is narrower than he thinks.
type narrower struct {
	wake chan struct{}
	told atomic.Uint64

	mu   sync.Mutex // guards next
	next [2]notice  // by direction: of frames that go out, and that come in
}

// A notice is the beginning of a frame that was too long.
type notice struct {
	full bool
	head [noticeLen]byte
}

const (
	ipv4Len   = inet.IPv4Len
	quoteLen  = ipv4Len + 8 // what a message of ICMP quotes (RFC 792)
	noticeLen = frame.HeaderLen + quoteLen
	icmpLen   = 8

	// noticeEvery bounds what is said: one that is lost or too late is said again.
	noticeEvery = 10 * time.Millisecond
)

const (
	outward = iota // a frame that we send
	inward         // one that we receive
)

func newNarrower() *narrower { return &narrower{wake: make(chan struct{}, 1)} }

// note takes a frame that is too long. It never waits.
func (n *narrower) note(direction int, f []byte) {
	if !isLongSegment(f) || !n.mu.TryLock() {
		return
	}
	defer n.mu.Unlock()
	to := &n.next[direction]
	if to.full {
		return
	}
	copy(to.head[:], f)
	to.full = true
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// isLongSegment reports whether f is IPv4's TCP that asks not to be cut to pieces, without
// options of IP.
func isLongSegment(f []byte) bool {
	if len(f) < noticeLen || frame.EtherType(f) != frame.TypeIPv4 {
		return false
	}
	ip := frame.Payload(f)
	return ip[0] == 0x45 && ip[9] == protoTCP && binary.BigEndian.Uint16(ip[6:]) == 0x4000
}

// take returns what waits in a direction.
func (n *narrower) take(direction int) (head [noticeLen]byte, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	from := &n.next[direction]
	head, ok = from.head, from.full
	from.full = false
	return head, ok
}

// run says what there is to say until ctx ends: to our end about frames that go out, to the
// hub about those that come in. What cannot be said is not missed.
func (n *narrower) run(ctx context.Context, mtu func() int, end, hub frame.Writer) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		}
		for direction, to := range []frame.Writer{outward: end, inward: hub} {
			if head, ok := n.take(direction); ok {
				n.told.Add(1)
				_ = to.WriteFrames([][]byte{tooBig(head, mtu())})
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(noticeEvery):
		}
	}
}

// tooBig is the message to the sender of a frame that begins like this: destination
// unreachable, fragmentation needed, and how long a packet may be.
func tooBig(head [noticeLen]byte, mtu int) []byte {
	f := make([]byte, frame.HeaderLen+ipv4Len+icmpLen+quoteLen)
	frame.PutHeader(f, frame.Src(head[:]), frame.Dst(head[:]), frame.TypeIPv4)
	was := frame.Payload(head[:])
	ip := frame.Payload(f)
	inet.PutIPv4(ip, protoICMP, [4]byte(was[16:]), [4]byte(was[12:]))
	icmp := ip[ipv4Len:]
	icmp[0], icmp[1] = 3, 4
	binary.BigEndian.PutUint16(icmp[6:], uint16(mtu))
	copy(icmp[icmpLen:], was)
	binary.BigEndian.PutUint16(icmp[2:], inet.Checksum(icmp))
	return f
}
