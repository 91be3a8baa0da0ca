package netstack

import (
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/offload"
)

// link is the Ethernet interface as gVisor sees it. Packets leave through the
// outqueue, not through link: gVisor only asks link for the header.
type link struct {
	mac tcpip.LinkAddress
	mtu atomic.Uint32 // IP bytes
	ip6 atomic.Bool   // whether IPv6 may be received and sent

	// inMu guards in the order of delivery: coalescer, emit's use of dispatcher and
	// checked. Delivery never waits for anything outbound.
	inMu      sync.Mutex
	coalescer offload.Coalescer
	emit      func(offload.Super) // deliverOne, made once

	// checked says that the checksums of the packet being delivered are known to be
	// right. gVisor asks for it through Capabilities, for each packet.
	checked atomic.Bool

	// dispatcher is where inbound packets go; nil before New is done and after Close.
	dispatcher atomic.Pointer[stack.NetworkDispatcher]

	in      inboundCounters
	refused refusals
}

type inboundCounters struct {
	frames, bytes, batches, packets  atomic.Uint64
	supers, segments, thinned        atomic.Uint64
	malformed, notForUs, unknownType atomic.Uint64
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(mac net.HardwareAddr) *link {
	l := &link{mac: tcpip.LinkAddress(mac)}
	l.coalescer.Thin = true
	l.emit = l.deliverOne
	l.mtu.Store(netcfg.DefaultMTU)
	return l
}

// deliver passes frames up, TCP segments that follow each other as one: gVisor's
// work is for packets, whatever their size. Each frame is copied once, because
// gVisor keeps payloads.
func (l *link) deliver(frames [][]byte) error {
	if l.dispatcher.Load() == nil {
		return net.ErrClosed
	}
	l.inMu.Lock()
	defer l.inMu.Unlock()
	l.in.batches.Add(1)
	for _, f := range frames {
		if l.accepts(f) {
			l.in.frames.Add(1)
			l.in.bytes.Add(uint64(len(f)))
			l.coalescer.Push(l.refused.note(f))
		}
	}
	l.coalescer.Flush(l.emit)
	return nil
}

// accepts reports whether f is worth copying. A hub floods frames for unknown
// destinations to every session, so most of what is not ours ends here.
func (l *link) accepts(f []byte) bool {
	if len(f) <= frame.HeaderLen || len(f) > frame.MaxLen {
		l.in.malformed.Add(1)
		return false
	}
	if string(frame.Src(f)) == string(l.mac) {
		l.in.notForUs.Add(1) // our own frame, sent back by a loop
		return false
	}
	if !frame.IsGroup(f) && string(frame.Dst(f)) != string(l.mac) {
		l.in.notForUs.Add(1)
		return false
	}
	switch frame.EtherType(f) {
	case frame.TypeIPv4, frame.TypeARP:
		return true
	case frame.TypeIPv6:
		if l.ip6.Load() {
			return true
		}
	}
	l.in.unknownType.Add(1)
	return false
}

// deliverOne hands gVisor a packet of one frame or of a run of them.
func (l *link) deliverOne(s offload.Super) {
	d := l.dispatcher.Load()
	if d == nil {
		return // closed meanwhile
	}
	l.in.packets.Add(1)
	if n := s.Frames(); n > 1 {
		l.in.supers.Add(1)
		l.in.segments.Add(uint64(n))
	}
	if s.Thinned > 0 {
		l.in.thinned.Add(uint64(s.Thinned))
	}
	f := s.Header
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: copyOf(&s)})
	pkt.LinkHeader().Consume(frame.HeaderLen)
	switch {
	case !frame.IsGroup(f):
		pkt.PktType = tcpip.PacketHost
	case string(frame.Dst(f)) == string(header.EthernetBroadcastAddress):
		pkt.PktType = tcpip.PacketBroadcast
	default:
		pkt.PktType = tcpip.PacketMulticast
	}
	l.checked.Store(s.Checksums == offload.Correct)
	(*d).DeliverNetworkPacket(tcpip.NetworkProtocolNumber(frame.EtherType(f)), pkt)
	pkt.DecRef()
}

// chunk is the most payload put into one piece of gVisor's memory. It comes in
// powers of two and is cleared when taken, so that larger pieces waste more.
const chunk = 16 << 10

// copyOf copies s into gVisor's pooled memory. The headers of a run get a piece of
// their own: gVisor copies the whole piece in which it looks at a header while
// somebody else holds the packet too.
func copyOf(s *offload.Super) buffer.Buffer {
	v := buffer.NewView(len(s.Header))
	v.Grow(v.AvailableSize()) // to the end of the piece: what is appended to a full one is not copied
	v.TrimFront(v.Size() - len(s.Header))
	copy(v.AsSlice(), s.Header)
	b := buffer.MakeWithView(v)
	if len(s.Payload) == 0 {
		return b
	}
	left := s.Len() - len(s.Header)
	v = buffer.NewView(min(left, chunk))
	for _, p := range s.Payload {
		for len(p) > 0 {
			if v.Full() {
				_ = b.Append(v) // cannot fail: nobody else has the view
				v = buffer.NewView(min(left, chunk))
			}
			n := min(len(p), v.AvailableSize())
			_, _ = v.Write(p[:n]) // cannot fail: there is room
			p, left = p[n:], left-n
		}
	}
	_ = b.Append(v)
	return b
}

// Attach implements stack.LinkEndpoint; a nil dispatcher detaches.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

// AddHeader writes the Ethernet header in front of an outbound packet.
func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	h := pkt.LinkHeader().Push(frame.HeaderLen)
	copy(h[0:6], pkt.EgressRoute.RemoteLinkAddress)
	copy(h[6:12], l.mac)
	h[12], h[13] = byte(pkt.NetworkProtocolNumber>>8), byte(pkt.NetworkProtocolNumber)
}

// ParseHeader consumes the Ethernet header of an inbound packet.
func (l *link) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(frame.HeaderLen)
	return ok
}

// WritePackets is never reached: the interface has its own queueing discipline.
func (l *link) WritePackets(stack.PacketBufferList) (int, tcpip.Error) {
	return 0, &tcpip.ErrNotSupported{}
}

// MTU returns the largest IP packet, without the Ethernet header.
func (l *link) MTU() uint32 { return l.mtu.Load() }

// SetMTU implements stack.LinkEndpoint.
func (l *link) SetMTU(mtu uint32) { l.mtu.Store(mtu) }

// LinkAddress returns our MAC address.
func (l *link) LinkAddress() tcpip.LinkAddress { return l.mac }

// SetLinkAddress does nothing: the address belongs to Config.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// MaxHeaderLength implements stack.LinkEndpoint.
func (l *link) MaxHeaderLength() uint16 { return frame.HeaderLen }

// Capabilities asks for address resolution, and says of the packet being delivered
// whether its checksums have been verified. What is not a run of TCP segments has
// not been: gVisor verifies it.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	c := stack.CapabilityResolutionRequired
	if l.checked.Load() {
		c |= stack.CapabilityRXChecksumOffload
	}
	return c
}

// maxSuper is the largest super-segment that gVisor may hand out.
const maxSuper = 64<<10 - 1

// GSOMaxSize implements stack.GSOEndpoint.
func (l *link) GSOMaxSize() uint32 { return maxSuper }

// SupportedGSO says that we cut super-segments, and complete their checksums.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// ARPHardwareType implements stack.LinkEndpoint.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// IsAttached reports whether packets can be delivered.
func (l *link) IsAttached() bool { return l.dispatcher.Load() != nil }

// Wait has nothing to wait for: link has no goroutine.
func (l *link) Wait() {}

// Close has nothing to close.
func (l *link) Close() {}

// SetOnCloseAction is not needed: nothing outside the stack closes link.
func (l *link) SetOnCloseAction(func()) {}
