package netstack

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// What all connections of a stack have received and nobody has read stays near
// unreadBudget, however many are not read. Up to unreadFree anybody may have. Beyond it
// each may have a small part of what is left of the budget, which so is never used up;
// when nearly all is, leastBuffer, as with less TCP would hardly go on. (Bytes of payload:
// gVisor's chunks of memory are powers of two, so up to twice that.)
const (
	unreadFree   = 64 << 20 // four connections at their largest
	unreadBudget = 96 << 20
	unreadPart   = 64 // one of so many parts of what is left

	// unreadNear is where connections begin to start with smaller buffers, so that their
	// windows are shut before anything has to be dropped.
	unreadNear = unreadFree / 2

	// unreadStep is the least that arrives between two looks.
	unreadStep = 4 << 20
	// lookAgain is after what time another look is worthwhile though little has arrived.
	lookAgain = 50 * time.Millisecond
)

// gVisor advertises half of the free buffer: 16 MB fill 640 Mbit/s at 100 ms.
const (
	leastBuffer = 16 << 10
	firstBuffer = 1 << 20
	mostBuffer  = 16 << 20
)

// unread keeps what is received and not read within its budget. What is unread can
// grow by no more than what arrives. So nothing is looked at until so much has arrived
// since the last look that the sum may matter, which costs deliver one comparison.
type unread struct {
	s            *Stack
	due          atomic.Uint64 // the inbound bytes at which to look again
	looking      atomic.Bool
	looked       atomic.Int64 // when, in Unix nanoseconds
	sum          atomic.Int64 // at the last look
	limit        atomic.Int64 // of each connection's buffer while sum is more than unreadFree, else 0
	limitedTimes atomic.Uint64
	first        int     // what connections start with now; of whoever is looking
	conns        []*conn // scratch of whoever is looking
}

func (u *unread) init(s *Stack) {
	u.s, u.first = s, firstBuffer
	u.due.Store(unreadNear)
}

// arrived is told after each batch how many bytes have come in all. It does not wait.
func (u *unread) arrived(total uint64) {
	if total >= u.due.Load() && u.looking.CompareAndSwap(false, true) {
		go u.look()
	}
}

// look adds up what is unread, and sees to it that it does not become too much.
func (u *unread) look() {
	defer u.looking.Store(false)
	arrived := u.s.link.in.bytes.Load() // before the sum, which may have some of what comes meanwhile
	u.conns = u.s.connections(u.conns[:0])
	defer u.forget()
	defer func() { u.looked.Store(time.Now().UnixNano()) }()
	sum := 0
	for _, c := range u.conns {
		sum += c.unread()
	}
	u.sum.Store(int64(sum))
	part := max((unreadBudget-sum)/unreadPart, leastBuffer)
	if sum <= unreadFree {
		u.limit.Store(0)
	} else {
		u.limit.Store(int64(part))
		for _, c := range u.conns {
			c.limit(part)
		}
	}
	if sum <= unreadNear {
		part = firstBuffer
	}
	u.startWith(min(part, firstBuffer))
	u.due.Store(arrived + uint64(max(unreadNear-sum, unreadStep)))
}

func (u *unread) forget() {
	clear(u.conns)
	if cap(u.conns) > 1000 {
		u.conns = nil
	}
}

// limit lets c have no more than it has, or part: its window shuts, and what was
// promised before is dropped, and sent again once it reads.
func (c *conn) limit(part int) {
	o := c.ep.SocketOptions()
	most := int64(max(part, c.unread()))
	if o.GetReceiveBufferSize() <= most {
		return
	}
	o.SetReceiveBufferSize(most, false)
	if !c.limited.Swap(true) {
		c.s.unread.limitedTimes.Add(1)
	}
}

// startWith sets what connections start with.
func (u *unread) startWith(first int) {
	if first == u.first {
		return
	}
	o := receiveBuffers(first)
	if terr := u.s.ns.SetTransportProtocolOption(tcp.ProtocolNumber, &o); terr == nil {
		u.first = first
	}
}

func receiveBuffers(first int) tcpip.TCPReceiveBufferSizeRangeOption {
	return tcpip.TCPReceiveBufferSizeRangeOption{Min: leastBuffer, Default: first, Max: mostBuffer}
}

// moderate sets the buffer of a connection of which n bytes were just read.
func (u *unread) moderate(c *conn, n int) {
	switch limit := u.limit.Load(); {
	case limit > 0:
		if o := c.ep.SocketOptions(); o.GetReceiveBufferSize() < limit {
			o.SetReceiveBufferSize(limit, false)
		}
		if time.Now().UnixNano() > u.looked.Load()+int64(lookAgain) {
			u.arrived(^uint64(0)) // there may be room, though nothing arrives
		}
		return
	case c.limited.Load():
		c.limited.Store(false)
		if o := c.ep.SocketOptions(); o.GetReceiveBufferSize() < firstBuffer {
			o.SetReceiveBufferSize(firstBuffer, false)
		}
	}
	c.ep.ModerateRecvBuf(n) // or the window never grows
}

// unread returns how many bytes have been received and wait to be read.
func (c *conn) unread() int {
	if c.ep.Readiness(waiter.ReadableEvents) == 0 {
		return 0 // without the lock of a connection, which most often is idle
	}
	n, terr := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	if terr != nil {
		return 0
	}
	return n
}

// connections appends all that are open.
func (s *Stack) connections(to []*conn) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.tracked {
		if c, ok := t.(*conn); ok {
			to = append(to, c)
		}
	}
	return to
}
