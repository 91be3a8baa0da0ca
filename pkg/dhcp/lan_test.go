package dhcp

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/inet"
)

var (
	ourMAC    = mac{0x5e, 0, 0, 0, 0, 1}
	serverMAC = mac{0x5e, 0, 0, 0, 1, 1}
	otherMAC  = mac{0x5e, 0, 0, 0, 1, 2}
	serverIP  = netip.MustParseAddr("10.0.0.1")
	otherIP   = netip.MustParseAddr("10.0.0.2")
	leasedIP  = netip.MustParseAddr("10.0.0.50")
	secondIP  = netip.MustParseAddr("10.0.0.51")
)

// latency is how long the answer of anybody on a test LAN takes.
const latency = 10 * time.Millisecond

// compareAddrs lets cmp look at addresses.
var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
var comparePrefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// A lan is the network behind a hub: it is the Writer the client sends to, and
// what its servers and hosts answer comes back through the client's Filter.
// Everything sent is checked against RFC 2131 table 5 and noted as text.
type lan struct {
	t       *testing.T
	client  *Client
	inbound frame.Writer // the client's Filter
	passed  frametest.Pipe

	mu      sync.Mutex // guards the fields below
	servers []*server
	owners  map[netip.Addr]mac // who answers ARP probes
	slow    time.Duration      // how much later they do
	onFrame func(f []byte)     // sees every frame sent
	notes   []string           // what was sent
	times   []time.Time        // and when
	sent    []*dhcpv4.DHCPv4   // the messages among it
}

// A server answers on a lan. The zero value of each field is the well-behaved one.
type server struct {
	ip      netip.Addr
	mac     mac
	gives   netip.Addr
	lease   time.Duration
	options []dhcpv4.Option
	silent  map[string]bool // kinds of message, as noted, not answered
	refuses map[string]bool // kinds answered with a NAK
	delay   time.Duration
	edit    func(m *dhcpv4.DHCPv4) // the last word on each reply
}

func newServer() *server {
	return &server{
		ip: serverIP, mac: serverMAC, gives: leasedIP, lease: 2 * time.Hour,
		silent: map[string]bool{}, refuses: map[string]bool{},
		options: []dhcpv4.Option{
			dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)),
			dhcpv4.OptRouter(serverIP.AsSlice()),
			dhcpv4.OptDNS(serverIP.AsSlice()),
		},
	}
}

// newLAN returns a network with the given servers and a client on it.
func newLAN(t *testing.T, servers ...*server) *lan {
	t.Helper()
	n := &lan{t: t, servers: servers, owners: map[netip.Addr]mac{}}
	n.client = New(Config{
		MAC: net.HardwareAddr(ourMAC[:]), Hostname: "laptop",
		Rand: rand.NewChaCha8([32]byte{1}),
	})
	n.inbound = n.client.Filter(&n.passed)
	return n
}

// acquire is Acquire with a limit.
func (n *lan) acquire(limit time.Duration) (Lease, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), limit)
	defer cancel()
	return n.client.Acquire(ctx, n)
}

func (n *lan) mustAcquire() Lease {
	n.t.Helper()
	l, err := n.acquire(time.Minute)
	if err != nil {
		n.t.Fatalf("acquire: %v", err)
	}
	return l
}

// trail returns what was sent since the last call, one entry a frame.
func (n *lan) trail() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := strings.Join(n.notes, ", ")
	n.notes, n.times = nil, nil
	return s
}

func (n *lan) wantTrail(want string) {
	n.t.Helper()
	if got := n.trail(); got != want {
		n.t.Errorf("sent\n got %s\nwant %s", got, want)
	}
}

// change runs f while nothing is answered.
func (n *lan) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// WriteFrames is what the client sends to.
func (n *lan) WriteFrames(frames [][]byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range frames {
		n.times = append(n.times, time.Now())
		if n.onFrame != nil {
			n.onFrame(slices.Clone(f))
		}
		if frame.EtherType(f) == frame.TypeARP {
			n.takeProbe(f)
			continue
		}
		m, p := n.parseSent(f)
		note := n.describe(m, p)
		n.notes = append(n.notes, note)
		n.sent = append(n.sent, m)
		for _, s := range n.servers {
			n.serve(s, strings.Fields(note)[0], m, p)
		}
	}
	return nil
}

func (n *lan) takeProbe(f []byte) {
	arp := frame.Payload(f)
	target := netip.AddrFrom4([4]byte(arp[24:28]))
	n.notes = append(n.notes, fmt.Sprintf("ARP %v", target))
	who, sender, ok := arpSender(f)
	if !ok || who != ourMAC || !sender.IsUnspecified() || mac(frame.Dst(f)) != broadcastMAC {
		n.t.Errorf("bad probe % x", f)
	}
	if owner, ok := n.owners[target]; ok {
		n.deliver(latency+n.slow, arpAnswer(owner, target))
	}
}

// arpAnswer is what the owner of addr answers to our probe.
func arpAnswer(owner mac, addr netip.Addr) []byte {
	arp := make([]byte, inet.ARPLen)
	inet.ARP{Op: inet.ARPReply, FromMAC: owner, From: addr, ToMAC: ourMAC, To: netip.IPv4Unspecified()}.Put(arp)
	return frametest.Frame(ourMAC[:], owner[:], frame.TypeARP, arp)
}

// deliver makes frames arrive at the client later.
func (n *lan) deliver(after time.Duration, frames ...[]byte) {
	time.AfterFunc(after, func() {
		if err := n.inbound.WriteFrames(frames); err != nil {
			n.t.Errorf("inbound: %v", err)
		}
	})
}

// parseSent reads a frame of the client with code other than the client's.
func (n *lan) parseSent(f []byte) (*dhcpv4.DHCPv4, path) {
	n.t.Helper()
	ip := f[14:]
	if ip[0] != 0x45 || int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || ip[9] != 17 {
		n.t.Fatalf("not a plain UDP packet: % x", f)
	}
	if binary.BigEndian.Uint16(ip[20:]) != 68 || binary.BigEndian.Uint16(ip[22:]) != 67 {
		n.t.Errorf("ports are not 68 and 67: % x", ip[20:24])
	}
	m, err := dhcpv4.FromBytes(ip[28:])
	if err != nil {
		n.t.Fatalf("sent message: %v", err)
	}
	return m, path{
		dstMAC: mac(f[0:6]), srcMAC: mac(f[6:12]),
		src: netip.AddrFrom4([4]byte(ip[12:16])), dst: netip.AddrFrom4([4]byte(ip[16:20])),
	}
}

// describe returns a message as text and checks it against RFC 2131 table 5.
func (n *lan) describe(m *dhcpv4.DHCPv4, p path) string {
	n.t.Helper()
	asked, id, ciaddr := toAddr(m.RequestedIPAddress()), toAddr(m.ServerIdentifier()), toAddr(m.ClientIPAddr)
	kind, isRequest := m.MessageType(), m.MessageType() == dhcpv4.MessageTypeRequest
	var note string
	switch {
	case kind == dhcpv4.MessageTypeDiscover && asked.IsValid():
		note = fmt.Sprintf("DISCOVER wish %v", asked)
	case kind == dhcpv4.MessageTypeDiscover:
		note = "DISCOVER"
	case isRequest && id.IsValid():
		note = fmt.Sprintf("SELECT %v of %v", asked, id)
	case isRequest && asked.IsValid():
		note = fmt.Sprintf("REBOOT %v", asked)
	case isRequest && p.dst != broadcastIP:
		note = fmt.Sprintf("RENEW %v with %v", ciaddr, p.dst)
	case isRequest:
		note = fmt.Sprintf("REBIND %v", ciaddr)
	case kind == dhcpv4.MessageTypeDecline:
		note = fmt.Sprintf("DECLINE %v of %v", asked, id)
	case kind == dhcpv4.MessageTypeRelease:
		note = fmt.Sprintf("RELEASE %v of %v", ciaddr, id)
	}
	if m.IsBroadcast() {
		note += " broadcast"
	}
	wantSrc := netip.IPv4Unspecified()
	if ciaddr != netip.IPv4Unspecified() {
		wantSrc = ciaddr
	}
	if p.src != wantSrc || p.srcMAC != ourMAC || mac(m.ClientHWAddr) != ourMAC {
		n.t.Errorf("%s: from %v %v for %v", note, p.srcMAC, p.src, m.ClientHWAddr)
	}
	if (p.dst == broadcastIP) != (p.dstMAC == broadcastMAC) {
		n.t.Errorf("%s: to %v at %x", note, p.dst, p.dstMAC)
	}
	if got, want := m.Options.Get(dhcpv4.OptionClientIdentifier), append([]byte{1}, ourMAC[:]...); !slices.Equal(got, want) {
		n.t.Errorf("%s: client id % x, want % x", note, got, want)
	}
	asks := kind == dhcpv4.MessageTypeDiscover || isRequest
	if (m.HostName() == "laptop") != asks || (len(m.ParameterRequestList()) > 0) != asks {
		n.t.Errorf("%s: host name %q, options %v", note, m.HostName(), m.ParameterRequestList())
	}
	return note
}

// serve answers m as s would. kind is the first word of its note.
func (n *lan) serve(s *server, kind string, m *dhcpv4.DHCPv4, p path) {
	id := toAddr(m.ServerIdentifier())
	if kind == "DECLINE" || kind == "RELEASE" || s.silent[kind] || id.IsValid() && id != s.ip ||
		p.dstMAC != broadcastMAC && p.dstMAC != s.mac {
		return
	}
	r := s.reply(kind, m)
	to := path{srcMAC: s.mac, dstMAC: ourMAC, src: s.ip, dst: s.gives}
	if m.IsBroadcast() {
		to.dstMAC, to.dst = broadcastMAC, broadcastIP
	}
	n.deliver(latency+s.delay, serverFrame(to, r.ToBytes()))
}

func (s *server) reply(kind string, m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	r := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: m.HWType, TransactionID: m.TransactionID,
		Flags: m.Flags, ClientHWAddr: m.ClientHWAddr, YourIPAddr: s.gives.AsSlice(),
	}
	r.UpdateOption(dhcpv4.OptServerIdentifier(s.ip.AsSlice()))
	switch {
	case s.refuses[kind]:
		r.YourIPAddr = nil
		r.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak))
		r.UpdateOption(dhcpv4.OptMessage("not today"))
	case kind == "DISCOVER":
		r.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeOffer))
	default:
		r.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeAck))
	}
	if !s.refuses[kind] {
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(s.lease))
		for _, o := range s.options {
			r.UpdateOption(o)
		}
	}
	if s.edit != nil {
		s.edit(r)
	}
	return r
}

// serverFrame is a frame from a server's port to the client's.
func serverFrame(p path, payload []byte) []byte {
	f := appendDatagram(nil, p, payload)
	ports := f[frame.HeaderLen+inet.IPv4Len:]
	binary.BigEndian.PutUint16(ports, serverPort) // swapping two words keeps the sum
	binary.BigEndian.PutUint16(ports[2:], clientPort)
	return f
}
