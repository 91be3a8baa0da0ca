package autoconf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/inet"
	"softether-go/pkg/netcfg"
)

var (
	ourMAC    = mac{0x5e, 0, 0, 0, 0, 1}
	routerMAC = mac{0x5e, 0, 0, 0, 1, 1}
	otherMAC  = mac{0x5e, 0, 0, 0, 1, 2}
	routerLL  = netip.MustParseAddr("fe80::1")
	secondLL  = netip.MustParseAddr("fe80::2")
)

// latency is how long the answer of anybody on a test LAN takes.
const latency = 10 * time.Millisecond

// A lan is the network behind a hub: the Writer the client sends to, and what is answered
// there. Everything sent is checked and noted as text.
type lan struct {
	t       testing.TB
	client  *Client
	inbound frame.Writer
	passed  frametest.Pipe

	mu      sync.Mutex // guards the fields below
	routers []*testRouter
	server  *testServer
	taken   func(netip.Addr) bool // addresses that somebody has
	notes   []string
	times   []time.Time
	told    []netcfg.Config
	stop    context.CancelCauseFunc
	ended   chan error
}

// A testRouter answers solicitations.
type testRouter struct {
	addr    netip.Addr
	mac     mac
	header  []byte // flags and lifetime; see routerHeader
	options [][]byte
	silent  bool
}

// newLAN has a client that is not running yet. To be called in a bubble.
func newLAN(t testing.TB, edit func(*Config)) *lan {
	n := &lan{t: t, taken: func(netip.Addr) bool { return false }}
	cfg := Config{MAC: netMAC(ourMAC), Key: []byte("secret"), Rand: rand.NewChaCha8([32]byte{1})}
	if edit != nil {
		edit(&cfg)
	}
	n.client = New(cfg)
	n.inbound = n.client.Filter(&n.passed)
	return n
}

// start begins a session, which ends with the test or by end.
func (n *lan) start() {
	ctx, cancel := context.WithCancelCause(n.t.Context())
	n.inbound = n.client.Filter(&n.passed)
	n.stop, n.ended = cancel, make(chan error, 1)
	go func() {
		n.ended <- n.client.Run(ctx, n, func(c netcfg.Config) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.told = append(n.told, c)
		})
	}()
}

var errOver = errors.New("the session is over")

// end ends the session.
func (n *lan) end() {
	n.t.Helper()
	n.stop(errOver)
	if err := <-n.ended; !errors.Is(err, errOver) {
		n.t.Errorf("Run: got %v, want %v", err, errOver)
	}
}

// run leads a test in a bubble with a session that has begun.
func run(t *testing.T, edit func(*Config), prepare func(*lan), test func(t *testing.T, n *lan)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, edit)
		if prepare != nil {
			prepare(n)
		}
		n.start()
		test(t, n)
		n.end()
	})
}

// change runs f while nothing is answered.
func (n *lan) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// last returns what was told last.
func (n *lan) last() netcfg.Config {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.told) == 0 {
		return netcfg.Config{}
	}
	return n.told[len(n.told)-1]
}

// config returns what was told last, as text: addresses (~ if deprecated), gateways,
// routes, name servers, domains, MTU. Addresses that we made end with an asterisk.
func (n *lan) config() string {
	c := n.last()
	var parts []string
	for _, a := range c.IPv6.Addresses {
		text := short(a.Addr)
		if a.Deprecated {
			text = "~" + text
		}
		parts = append(parts, text)
	}
	for _, g := range c.IPv6.Gateways {
		parts = append(parts, "gw "+g.String())
	}
	for _, r := range c.IPv6.Routes {
		via := ""
		if r.Via.IsValid() {
			via = " via " + r.Via.String()
		}
		parts = append(parts, "route "+r.Dest.String()+via)
	}
	for _, s := range c.DNS.Servers {
		parts = append(parts, "dns "+s.String())
	}
	for _, s := range c.DNS.Search {
		parts = append(parts, "search "+s)
	}
	if c.MTU != 0 {
		parts = append(parts, fmt.Sprint("mtu ", c.MTU))
	}
	return strings.Join(parts, ", ")
}

// short writes an address that we made as its prefix and an asterisk.
func short(a netip.Addr) string {
	b := a.As16()
	if binary.BigEndian.Uint64(b[8:]) < 1<<32 {
		return a.String()
	}
	p, _ := a.Prefix(64)
	return strings.TrimSuffix(p.Addr().String(), ":") + ":*"
}

func (n *lan) wantConfig(want string) {
	n.t.Helper()
	if got := n.config(); got != want {
		n.t.Errorf("configured\n got %s\nwant %s", got, want)
	}
}

// wantTrail compares what was sent since the last call, a word for each frame.
func (n *lan) wantTrail(want string) {
	n.t.Helper()
	synctest.Wait()
	n.mu.Lock()
	got := strings.Join(n.notes, ", ")
	n.notes, n.times = nil, nil
	n.mu.Unlock()
	if got != want {
		n.t.Errorf("sent\n got %s\nwant %s", got, want)
	}
}

// WriteFrames is what the client sends to.
func (n *lan) WriteFrames(frames [][]byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range frames {
		n.times = append(n.times, time.Now())
		n.notes = append(n.notes, n.serve(f))
	}
	return nil
}

// serve reads a frame with code other than the client's, answers, and returns its note.
func (n *lan) serve(f []byte) string {
	ip := f[14:]
	src, dst := netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	if mac(f[6:12]) != ourMAC || binary.BigEndian.Uint16(f[12:]) != 0x86dd || int(binary.BigEndian.Uint16(ip[4:])) != len(ip)-40 {
		n.t.Errorf("bad frame % x", f)
	}
	if dst.IsMulticast() && string(f[:6]) != string(append([]byte{0x33, 0x33}, ip[36:40]...)) {
		n.t.Errorf("to %v at % x", dst, f[:6])
	}
	if got := referenceSum(ip); got != 0 {
		n.t.Errorf("checksum is wrong by %#x: % x", got, f)
	}
	if ip[6] == 17 {
		return n.serveDHCP(ip[40:], src, dst)
	}
	icmp := ip[40:]
	if ip[6] != 58 || ip[7] != 255 {
		n.t.Errorf("protocol %d, hop limit %d", ip[6], ip[7])
	}
	switch icmp[0] {
	case 133:
		if dst.String() != "ff02::2" || src.IsUnspecified() != (len(icmp) == 8) {
			n.t.Errorf("solicitation from %v to %v with % x", src, dst, icmp)
		}
		for _, r := range n.routers {
			if !r.silent {
				n.deliver(latency, r.advert())
			}
		}
		return "RS from " + short(src)
	case 135:
		target := netip.AddrFrom16([16]byte(icmp[8:24]))
		if !src.IsUnspecified() || len(icmp) != 24 {
			n.t.Errorf("probe from %v with % x", src, icmp)
		}
		if n.taken(target) {
			n.deliver(latency, defense(target))
		}
		return "PROBE " + short(target)
	case 136:
		return fmt.Sprintf("NA %s to %v, flags %#x", short(netip.AddrFrom16([16]byte(icmp[8:24]))), dst, icmp[4])
	}
	n.t.Errorf("sent ICMP of type %d", icmp[0])
	return "?"
}

// referenceSum is what the checksum is off by: the sum of all is a multiple of 0xffff.
func referenceSum(ip []byte) uint16 {
	sum := len(ip) - 40 + int(ip[6])
	for i, b := range ip[8:] {
		if i%2 == 0 {
			sum += int(b) << 8
		} else {
			sum += int(b)
		}
	}
	return uint16(sum % 0xffff)
}

// deliver makes a frame arrive later.
func (n *lan) deliver(after time.Duration, f []byte) {
	time.AfterFunc(after, func() { n.hears(f) })
}

// hears makes a frame arrive now.
func (n *lan) hears(f []byte) {
	if err := n.inbound.WriteFrames([][]byte{f}); err != nil {
		n.t.Errorf("inbound: %v", err)
	}
}

// defense is how the owner of an address answers a probe.
func defense(target netip.Addr) []byte {
	b := target.As16()
	m := append([]byte{neighborAdvertisement, 0, 0, 0, 0x20, 0, 0, 0}, b[:]...)
	return icmpFrame(otherMAC, inet.GroupMAC(allNodes), target, allNodes, m)
}

func (r *testRouter) advert() []byte {
	return icmpFrame(r.mac, inet.GroupMAC(allNodes), r.addr, allNodes, advertMessage(r.header, r.options...))
}

func advertMessage(header []byte, options ...[]byte) []byte {
	return append(append([]byte{routerAdvertisement, 0, 0, 0}, header...), slices.Concat(options...)...)
}

// routerHeader is the beginning of an advertisement. flags are M, O, and high or low.
func routerHeader(lifetime time.Duration, flags string) []byte {
	h := make([]byte, 12)
	h[0] = 64
	for flag, bit := range map[string]byte{"M": 0x80, "O": 0x40, "high": 0x08, "low": 0x18} {
		if strings.Contains(flags, flag) {
			h[1] |= bit
		}
	}
	binary.BigEndian.PutUint16(h[2:], uint16(lifetime/time.Second))
	return h
}

func lifetime(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))
}

func prefixOption(prefix string, valid, preferred time.Duration) []byte {
	p := netip.MustParsePrefix(prefix)
	a := p.Addr().As16()
	return slices.Concat([]byte{3, 4, byte(p.Bits()), 0xc0}, lifetime(valid), lifetime(preferred), make([]byte, 4), a[:])
}

func mtuOption(mtu uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{5, 1, 0, 0}, mtu)
}

func routeOption(prefix string, d time.Duration) []byte {
	p := netip.MustParsePrefix(prefix)
	a := p.Addr().As16()
	return slices.Concat([]byte{24, 3, byte(p.Bits()), 0}, lifetime(d), a[:])
}

func dnsOption(d time.Duration, servers ...string) []byte {
	b := slices.Concat([]byte{25, byte(1 + 2*len(servers)), 0, 0}, lifetime(d))
	for _, s := range servers {
		a := netip.MustParseAddr(s).As16()
		b = append(b, a[:]...)
	}
	return b
}

func searchOption(d time.Duration, domains ...string) []byte {
	var names []byte
	for _, domain := range domains {
		for label := range strings.SplitSeq(domain, ".") {
			names = append(append(names, byte(len(label))), label...)
		}
		names = append(names, 0)
	}
	for len(names)%8 != 0 {
		names = append(names, 0)
	}
	return slices.Concat([]byte{31, byte(1 + len(names)/8), 0, 0}, lifetime(d), names)
}

// aRouter advertises one prefix for addresses, and more if there are more options.
func aRouter(options ...[]byte) *testRouter {
	return &testRouter{
		addr: routerLL, mac: routerMAC, header: routerHeader(30*time.Minute, ""),
		options: append([][]byte{prefixOption("2001:db8:1::/64", 24*time.Hour, 4*time.Hour)}, options...),
	}
}

// A testServer is a DHCPv6 server. The zero value of each field but gives is the
// well-behaved one.
type testServer struct {
	gives            []string
	valid, preferred time.Duration
	rapid            bool
	silent           map[string]bool            // kinds not answered
	status           map[string]iana.StatusCode // of the addresses, by kind
	id               byte                       // tells servers apart
	edit             func(*dhcpv6.Message)      // the last word
}

func aServer(gives ...string) *testServer {
	return &testServer{gives: gives, valid: 4 * time.Hour, preferred: 2 * time.Hour,
		silent: map[string]bool{}, status: map[string]iana.StatusCode{}}
}

// serveDHCP checks a message against RFC 8415 section 16, and answers it.
func (n *lan) serveDHCP(udp []byte, src, dst netip.Addr) string {
	if dst.String() != "ff02::1:2" || !src.IsLinkLocalUnicast() ||
		binary.BigEndian.Uint16(udp) != 546 || binary.BigEndian.Uint16(udp[2:]) != 547 || int(binary.BigEndian.Uint16(udp[4:])) != len(udp) {
		n.t.Errorf("from %v to %v: % x", src, dst, udp[:8])
	}
	m, err := dhcpv6.MessageFromBytes(udp[8:])
	if err != nil {
		n.t.Fatalf("sent message: %v", err)
	}
	kind := strings.ToUpper(m.MessageType.String())
	duid, ok := m.Options.ClientID().(*dhcpv6.DUIDLL)
	if !ok || string(duid.LinkLayerAddr) != string(ourMAC[:]) || m.GetOneOption(dhcpv6.OptionElapsedTime) == nil {
		n.t.Errorf("%s: client %v", kind, m.Options.ClientID())
	}
	toOne := strings.Contains("REQUEST RENEW RELEASE DECLINE", kind)
	if (m.Options.ServerID() != nil) != toOne {
		n.t.Errorf("%s: for server %v", kind, m.Options.ServerID())
	}
	if asked := kind != "RELEASE" && kind != "DECLINE"; m.IsOptionRequested(dhcpv6.OptionDNSRecursiveNameServer) != asked {
		n.t.Errorf("%s: asks for %v", kind, m.Options.RequestedOptions())
	}
	note := kind
	if ia := m.Options.OneIANA(); ia != nil {
		for _, a := range ia.Options.Addresses() {
			note += " " + a.IPv6Addr.String()
		}
	}
	if s := n.server; s != nil && !s.silent[kind] {
		if r := s.reply(n.t, kind, m); r != nil {
			n.deliver(latency, serverFrame(src, r.ToBytes()))
		}
	}
	return note
}

func serverFrame(to netip.Addr, message []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, serverPort)
	udp = binary.BigEndian.AppendUint16(udp, clientPort)
	udp = binary.BigEndian.AppendUint16(udp, uint16(udpLen+len(message)))
	udp = append(udp, 0, 0)
	p := packet{srcMAC: routerMAC, src: routerLL, dst: to, next: protoUDP, hops: 64, payload: append(udp, message...)}
	return p.encode(ourMAC, 6)
}

func (s *testServer) duid() dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: []byte{2, 2, 2, 2, 2, s.id}}
}

func (s *testServer) reply(t testing.TB, kind string, m *dhcpv6.Message) *dhcpv6.Message {
	if id := m.Options.ServerID(); id != nil && !id.Equal(s.duid()) {
		return nil
	}
	r := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	r.AddOption(dhcpv6.OptClientID(m.Options.ClientID()))
	r.AddOption(dhcpv6.OptServerID(s.duid()))
	if kind == "SOLICIT" {
		if s.rapid && m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			r.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		} else {
			r.MessageType = dhcpv6.MessageTypeAdvertise
		}
	}
	if ask := m.Options.OneIANA(); ask != nil && kind != "RELEASE" && kind != "DECLINE" {
		ia := &dhcpv6.OptIANA{IaId: ask.IaId, T1: s.preferred / 2, T2: s.preferred / 5 * 4}
		if code, ok := s.status[kind]; ok {
			ia.Options.Add(&dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: "not today"})
		} else {
			for _, a := range s.gives {
				ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: netip.MustParseAddr(a).AsSlice(), PreferredLifetime: s.preferred, ValidLifetime: s.valid})
			}
		}
		r.AddOption(ia)
	}
	r.AddOption(dhcpv6.OptDNS(netip.MustParseAddr("2001:db8:53::53").AsSlice()))
	if s.edit != nil {
		s.edit(r)
	}
	return r
}
