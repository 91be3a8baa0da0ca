package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const associate = "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00" // from wherever it will be

// associated is a client with an association, whose socket in the tunnel is far.
type associated struct {
	t       *testing.T
	srv     *SOCKS5
	far     *memSocket
	control *net.TCPConn
	relay   *net.UDPAddr
	sock    *net.UDPConn // the client's
}

func newAssociated(t *testing.T, c Config, request string) *associated {
	t.Helper()
	a := &associated{t: t, far: newMemSocket("10.0.0.5:40000")}
	c.Dialer = newNever()
	c.PacketListener = packetFunc(func(_ context.Context, network, address string) (net.PacketConn, error) {
		if network != "udp" || address != ":0" {
			t.Errorf("listened on %s %s", network, address)
		}
		return a.far, nil
	})
	a.srv = NewSOCKS5(c)
	a.control = connect(t, serve(t, a.srv))
	send(t, a.control, hello)
	expect(t, a.control, helloReply)
	a.sock = a.socket()
	if request == "" { // announces the socket
		port := a.sock.LocalAddr().(*net.UDPAddr).Port
		request = associate[:8] + string([]byte{byte(port >> 8), byte(port)})
	}
	send(t, a.control, request)
	expect(t, a.control, "\x05\x00\x00\x01\x7f\x00\x00\x01")
	port := make([]byte, 2)
	if _, err := io.ReadFull(a.control, port); err != nil {
		t.Fatal(err)
	}
	a.relay = &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port[0])<<8 | int(port[1])}
	return a
}

// socket opens another socket of the client's host.
func (a *associated) socket() *net.UDPConn {
	a.t.Helper()
	s, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { s.Close() })
	return s
}

func (a *associated) send(from *net.UDPConn, b string) {
	a.t.Helper()
	if _, err := from.WriteTo([]byte(b), a.relay); err != nil {
		a.t.Fatal(err)
	}
}

// expect reads a datagram from the relay.
func (a *associated) expect(want string) {
	a.t.Helper()
	a.sock.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1<<16)
	n, from, err := a.sock.ReadFrom(b)
	if err != nil || string(b[:n]) != want || from.String() != a.relay.String() {
		a.t.Fatalf("got %d bytes %.60q from %v, %v; want %.60q from %v", n, b[:n], from, err, want, a.relay)
	}
}

// dropped waits for what was dropped to be want.
func (a *associated) dropped(want map[Drop]uint64) {
	a.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cmp.Equal(a.srv.Stats().Dropped, want) {
		if time.Now().After(deadline) {
			a.t.Fatalf("dropped: %s", cmp.Diff(want, a.srv.Stats().Dropped))
		}
		time.Sleep(time.Millisecond)
	}
}

// to4, to6 and toHost are the headers of datagrams to an address or a name, port 53.
const (
	to4 = "\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35" // 192.0.2.1
	to6 = "\x00\x00\x00\x04" + ipv6Bytes + "\x00\x35"
)

func toHost(name string) string {
	return "\x00\x00\x00\x03" + string(rune(len(name))) + name + "\x00\x35"
}

// A client that wrote to one peer hears from any, each by its own address, of either
// family.
func TestAssociateIsFullCone(t *testing.T) {
	a := newAssociated(t, Config{}, associate)
	a.send(a.sock, to4+"question")
	if got, want := a.far.await(0), (packet{mustAddrPort("192.0.2.1:53"), "question"}); got != want {
		t.Fatalf("sent %v, want %v", got, want)
	}
	a.send(a.sock, to6+"sixth")
	if got, want := a.far.await(1), (packet{mustAddrPort("[2001:db8::1]:53"), "sixth"}); got != want {
		t.Fatalf("sent %v, want %v", got, want)
	}
	a.send(a.sock, "\x00\x00\x00\x04"+mappedIPv6+"\x00\x35mapped")
	if got, want := a.far.await(2), (packet{mustAddrPort("192.0.2.1:53"), "mapped"}); got != want {
		t.Fatalf("sent %v, want %v", got, want)
	}
	a.far.deliver("192.0.2.1:53", "answer")
	a.expect(to4 + "answer")
	a.far.deliver("192.0.2.1:99", "another port")
	a.expect("\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x63another port")
	a.far.deliver("198.51.100.7:258", "another host")
	a.expect("\x00\x00\x00\x01\xc6\x33\x64\x07\x01\x02another host")
	a.far.deliver("[2001:db8::1]:53", "another family")
	a.expect(to6 + "another family")
	a.far.deliver("[::ffff:192.0.2.1]:53", "in IPv6 form")
	a.expect(to4 + "in IPv6 form")
	a.far.deliver("192.0.2.1:53", "")
	a.expect(to4)
	eventually(t, "all are counted", func() bool { return a.srv.Stats().InboundDatagrams >= 6 })
	st := a.srv.Stats()
	if st.Associations != 1 || st.InboundDatagrams != 6 || st.OutboundDatagrams != 3 || st.Requests != 1 {
		t.Errorf("counters: got %+v", st)
	}
	if st.Outbound != uint64(len("questionsixthmapped")) {
		t.Errorf("outbound bytes: got %d", st.Outbound)
	}
	a.dropped(map[Drop]uint64{})
}

func TestAssociateDropsWhatIsHostile(t *testing.T) {
	a := newAssociated(t, Config{}, associate)
	stranger, elsewhere := a.socket(), a.socket()
	if far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}); err != nil {
		t.Logf("no second loopback address here: %v", err)
	} else {
		elsewhere.Close()
		elsewhere = far
		t.Cleanup(func() { far.Close() })
		a.send(elsewhere, to4+"from another host, first of all") // is not latched
		a.dropped(map[Drop]uint64{DropForeign: 1})
	}
	before := a.srv.Stats().Dropped[DropForeign]
	a.far.deliver("192.0.2.1:53", "too early")
	a.dropped(map[Drop]uint64{DropForeign: before, DropEarly: 1})

	a.send(a.sock, to4+"first")
	a.far.await(0)
	for _, b := range []string{
		"\x00\x00\x01" + to4[3:] + "first fragment", "\x00\x00\x81" + to4[3:] + "last fragment",
	} {
		a.send(a.sock, b)
	}
	for n := range len(to4) { // cut short anywhere
		a.send(a.sock, to4[:n])
	}
	for _, b := range []string{to6[:21], toHost("files.corp")[:16], "\x00\x00\x00\x03\xffshort\x00\x35", "\x00\x00\x00\x02" + to4[4:]} {
		a.send(a.sock, b)
	}
	for _, b := range []string{
		"\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x35loopback", "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x35nowhere",
		"\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x00port 0", "\x00\x00\x00\x01\xa9\xfe\xa9\xfe\x00\x50link-local",
		"\x00\x00\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x35loopback", toHost("a\x00b") + "bad name", toHost("") + "no name",
	} {
		a.send(a.sock, b)
	}
	a.send(stranger, to4+"from another port")
	a.send(elsewhere, to4+"from another host")
	a.send(a.sock, to4+"last")
	if got := a.far.await(1); got.data != "last" {
		t.Errorf("sent %q, want only the first and the last", got.data)
	}
	a.dropped(map[Drop]uint64{DropForeign: before + 2, DropEarly: 1, DropFragment: 2, DropMalformed: 10 + 4, DropDestination: 7})
	if n := a.srv.Stats().Open; n != 1 {
		t.Errorf("clients: got %d, want 1: hostile datagrams end nothing", n)
	}
}

// The port that a client announces is its own from the start, unless the address shows
// that it does not know how it is seen.
func TestAssociateAnnouncedPort(t *testing.T) {
	t.Run("announced", func(t *testing.T) {
		a := newAssociated(t, Config{}, "")
		a.far.deliver("192.0.2.1:53", "before anything was sent")
		a.expect(to4 + "before anything was sent")
		a.send(a.socket(), to4+"from another port")
		a.dropped(map[Drop]uint64{DropForeign: 1})
	})
	for name, request := range map[string]string{
		"of another host": "\x05\x03\x00\x01\xc0\x00\x02\x09\x12\x34", "by a name": "\x05\x03\x00\x03\x05a.org\x12\x34",
	} {
		t.Run(name, func(t *testing.T) {
			a := newAssociated(t, Config{}, request)
			a.send(a.sock, to4+"hello")
			if got := a.far.await(0).data; got != "hello" {
				t.Errorf("sent %q", got)
			}
		})
	}
}

func TestAssociateCarriesLargestDatagrams(t *testing.T) {
	a := newAssociated(t, Config{}, "")
	const largest = longestNear - headerIPv4
	data := strings.Repeat("0123456789abcdef", largest/16+1)[:largest]
	a.send(a.sock, to4+data)
	if got := a.far.await(0).data; got != data {
		t.Errorf("sent %d bytes that are not the %d of the client", len(got), largest)
	}
	a.far.deliver("192.0.2.1:53", data)
	a.expect(to4 + data)
	a.far.deliver("192.0.2.1:53", data+"x") // cannot reach the client in one piece
	a.far.deliver("[2001:db8::1]:53", data)
	a.dropped(map[Drop]uint64{DropTooLong: 2})
}

// A tunnel that takes no more holds up nothing: what is too much is dropped.
func TestAssociateNeverWaitsForTheTunnel(t *testing.T) {
	a := newAssociated(t, Config{}, "")
	for addr, err := range map[string]error{"192.0.2.1": syscall.EAGAIN, "192.0.2.2": opError(syscall.ENETUNREACH), "192.0.2.3": opError(syscall.EMSGSIZE)} {
		a.far.change(func() { a.far.refuse[netip.MustParseAddr(addr)] = err })
	}
	for host := range 5 {
		a.send(a.sock, "\x00\x00\x00\x01\xc0\x00\x02"+string(rune(host))+"\x00\x35hello")
	}
	a.far.await(1)
	a.dropped(map[Drop]uint64{DropFull: 1, DropUnsent: 1, DropTooLong: 1})
}

func TestAssociateEndsWithItsConnection(t *testing.T) {
	for name, end := range map[string]func(*associated){
		"client closes":        func(a *associated) { a.control.Close() },
		"client half-closes":   func(a *associated) { a.control.CloseWrite() },
		"server closes":        func(a *associated) { a.srv.Close() },
		"tunnel's socket ends": func(a *associated) { a.far.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAssociated(t, Config{}, "")
			a.send(a.sock, to4+"hello")
			a.far.await(0)
			end(a)
			eventually(t, "the association ends", func() bool { return a.srv.Stats().Open+a.srv.Stats().Associations == 0 })
			if _, _, err := a.far.ReadFromUDPAddrPort(nil); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the socket in the tunnel: got %v, want it closed", err)
			}
			if n := a.srv.buffers.Lent(); n != 0 {
				t.Errorf("buffers lent: got %d, want 0", n)
			}
		})
	}
}

func TestAssociateIsRefused(t *testing.T) {
	fails := packetFunc(func(context.Context, string, string) (net.PacketConn, error) {
		return nil, opError(syscall.ENETUNREACH)
	})
	works := packetFunc(func(context.Context, string, string) (net.PacketConn, error) { return newMemSocket("10.0.0.5:1"), nil })
	for _, tt := range []struct {
		name, input, want string
		packets           PacketListener
	}{
		{"where there are no datagrams", hello + associate, helloReply + failure(7), nil},
		{"where the client has no IP address", hello + associate, helloReply + failure(7), works},
		{"in SOCKS4", "\x04\x03\x00\x50\xc0\x00\x02\x01\x00", rejected, works},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if output, _ := dialed(t, Config{PacketListener: tt.packets}, tt.input, nil); output != tt.want {
				t.Errorf("answer: got %q, want %q", output, tt.want)
			}
		})
	}
	t.Run("where the tunnel is down", func(t *testing.T) {
		c := connect(t, serve(t, NewSOCKS5(Config{Dialer: newNever(), PacketListener: fails})))
		send(t, c, hello+associate)
		expect(t, c, helloReply+failure(3))
	})
}

// nowSocket is a memSocket that can say that there is no more.
type nowSocket struct{ *memSocket }

func (s nowSocket) ReadNowFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.inbox) == 0 {
		return 0, netip.AddrPort{}, syscall.EAGAIN
	}
	p := s.inbox[0]
	s.inbox = s.inbox[1:]
	return copy(b, p.data), p.peer, nil
}

// rowCounter is a socket near the client that counts how datagrams go by it.
type rowCounter struct {
	*net.UDPConn
	refuse      error // of rows, in place of sending them
	rows, alone int
}

func (c *rowCounter) WriteMsgUDPAddrPort(b, control []byte, to netip.AddrPort) (int, int, error) {
	c.rows++
	if c.refuse != nil {
		return 0, 0, c.refuse
	}
	return c.UDPConn.WriteMsgUDPAddrPort(b, control, to)
}

func (c *rowCounter) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	c.alone++
	return c.UDPConn.WriteToUDPAddrPort(b, to)
}

// What is equal goes by one system call, as long as the system does not refuse: a way that
// cannot cut is not tried again, a row that does not fit into a packet says nothing of others.
func TestAssociateSendsARowAtOnce(t *testing.T) {
	const n = maxSegments + 3 // two rows
	for _, row := range []struct {
		name        string
		refuse      error
		rows, alone int
		single      bool
	}{
		{"cut by the system", nil, 2, 0, false},
		{"not cut on that way", syscall.EIO, 1, n, true},
		{"too long for a packet", syscall.EINVAL, 2, n, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := newAssociated(t, Config{}, "")
			a.sock.SetReadBuffer(4 << 20)
			sock, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			if !canSegment(sock) {
				sock.Close()
				t.Skip("needs a system that cuts rows of datagrams: Linux 4.18")
			}
			a.relay = sock.LocalAddr().(*net.UDPAddr)
			client := a.sock.LocalAddr().(*net.UDPAddr).AddrPort()
			near, far := &rowCounter{UDPConn: sock, refuse: row.refuse}, nowSocket{newMemSocket("10.0.0.5:1")}
			as := &association{srv: newServer(Config{Dialer: newNever()}), near: near, far: far}
			as.from.Store(&client)
			for i := range n {
				far.inbox = append(far.inbox, packet{mustAddrPort("192.0.2.1:53"), fmt.Sprintf("%04d", i)})
			}
			ended := make(chan error, 1)
			go func() { ended <- as.inbound() }()
			for i := range n {
				a.expect(to4 + fmt.Sprintf("%04d", i))
			}
			far.Close()
			<-ended
			near.Close()
			if near.rows != row.rows || near.alone != row.alone || as.single != row.single {
				t.Errorf("%d rows and %d datagrams alone, cutting given up %v; want %d, %d, %v", near.rows, near.alone, as.single, row.rows, row.alone, row.single)
			}
			if got := as.srv.Stats().InboundDatagrams; got != n {
				t.Errorf("counted %d datagrams, want %d", got, n)
			}
		})
	}
}

// Whatever comes in a row arrives as it came: each datagram by itself, whole, in order and
// by its peer's address.
func TestAssociateKeepsDatagramsApartInRows(t *testing.T) {
	peer4, other4, peer6 := "192.0.2.1:53", "198.51.100.7:53", "[2001:db8::1]:53"
	head := map[string]string{peer4: to4, other4: "\x00\x00\x00\x01\xc6\x33\x64\x07\x00\x35", peer6: to6}
	text := func(n, size int) string {
		s := fmt.Sprintf("%d ", n) + strings.Repeat("0123456789", size/10+1)
		return s[:size]
	}
	tests := map[string][]struct {
		peer string
		size int
	}{
		"equal":                {{peer4, 1200}, {peer4, 1200}, {peer4, 1200}},
		"the last is shorter":  {{peer4, 1200}, {peer4, 1200}, {peer4, 7}},
		"a shorter in between": {{peer4, 1200}, {peer4, 7}, {peer4, 1200}, {peer4, 1200}, {peer4, 1201}, {peer4, 1200}},
		"longer and longer":    {{peer4, 1}, {peer4, 10}, {peer4, 100}, {peer4, 1000}, {peer4, 10_000}, {peer4, 60_000}},
		"several peers":        {{peer4, 100}, {other4, 100}, {peer4, 100}, {other4, 50}},
		"two families":         {{peer4, 100}, {peer6, 100}, {peer6, 100}, {peer4, 100}, {peer4, 112}, {peer6, 100}},
		"empty":                {{peer4, 0}, {peer4, 0}, {peer4, 1}, {peer4, 0}},
		"too long":             {{peer4, 100}, {peer4, 65507}, {peer4, 100}, {peer4, 100}},
		"no room for two":      {{peer4, 40_000}, {peer4, 40_000}, {peer4, 40_000}},
	}
	many := tests["equal"][:0:0]
	for len(many) < 3*maxSegments+5 { // small, for all to fit into the client's buffer
		many = append(many, struct {
			peer string
			size int
		}{peer4, 100})
	}
	tests["more than fit into a row"] = many
	for name, datagrams := range tests {
		t.Run(name, func(t *testing.T) {
			a := newAssociated(t, Config{}, "")
			a.sock.SetReadBuffer(4 << 20)
			near, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			a.relay = near.LocalAddr().(*net.UDPAddr)
			client := a.sock.LocalAddr().(*net.UDPAddr).AddrPort()
			far := nowSocket{newMemSocket("10.0.0.5:1")}
			as := &association{srv: newServer(Config{Dialer: newNever()}), near: near, far: far}
			as.from.Store(&client)
			want := uint64(0)
			for i, d := range datagrams {
				far.inbox = append(far.inbox, packet{mustAddrPort(d.peer), text(i, d.size)})
			}
			ended := make(chan error, 1)
			go func() { ended <- as.inbound() }()
			for i, d := range datagrams {
				if d.size+headerIPv4 > longestNear {
					continue
				}
				want++
				a.expect(head[d.peer] + text(i, d.size))
			}
			far.Close()
			<-ended
			near.Close()
			if got := as.srv.Stats(); got.InboundDatagrams != want || got.Dropped[DropTooLong] != uint64(len(datagrams))-want || as.single {
				t.Errorf("counted %d datagrams, dropped %v, cutting given up %v; want %d", got.InboundDatagrams, got.Dropped, as.single, want)
			}
		})
	}
}

// between is an association in memory, for virtual time.
type between struct {
	*association
	near, far *memSocket
	control   *memConn // the client's end
	ended     chan error
}

func newBetween(t *testing.T, c Config) *between {
	c.Dialer = newNever()
	near, far := newMemSocket("127.0.0.1:1"), newMemSocket("10.0.0.5:40000")
	b := &between{near: near, far: far, ended: make(chan error, 1),
		association: &association{srv: newServer(c), host: netip.MustParseAddr("127.0.0.1"), near: near, far: far}}
	b.names.known = make(map[string]*name)
	client, control := memPipe()
	b.control = client
	over := make(chan struct{})
	go func() {
		defer close(over)
		b.ended <- b.run(t.Context(), control)
	}()
	t.Cleanup(func() {
		client.Close()
		control.Close()
		<-over
	})
	return b
}

func (b *between) fromClient(data string) { b.near.deliver("127.0.0.1:5000", data) }

func TestAssociateIdleEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBetween(t, Config{AssociateTimeout: 4 * time.Minute})
		begin := time.Now()
		for range 10 { // lives as long as it is used, by either side
			b.fromClient(to4 + "x")
			time.Sleep(3 * time.Minute)
			b.far.deliver("192.0.2.1:53", "y")
			time.Sleep(3 * time.Minute)
		}
		if err := <-b.ended; err != errIdle {
			t.Errorf("ended by %v, want %v", err, errIdle)
		}
		if got := time.Since(begin) - (9*6+3)*time.Minute; got < 4*time.Minute || got > 5*time.Minute {
			t.Errorf("ended after %v of silence, want 4 to 5 minutes", got)
		}
	})
}

// An association that rests holds no large buffer.
func TestAssociateRestsWithoutBuffers(t *testing.T) {
	a := newAssociated(t, Config{}, "")
	a.send(a.sock, to4+"hello")
	a.far.await(0)
	// The socket in memory cannot wait without a buffer; that near the client can.
	eventually(t, "one buffer at most is lent", func() bool { return a.srv.buffers.Lent() <= 1 })
	a.send(a.sock, to4+"again")
	if got := a.far.await(1).data; got != "again" {
		t.Errorf("after the rest: sent %q", got)
	}
}

func TestAssociateResolvesNames(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	resolver := func(t *testing.T, asked *[]string, answer func(n int, host string) ([]netip.Addr, error)) Resolver {
		var mu sync.Mutex
		return resolveFunc(func(ctx context.Context, network, host string) ([]netip.Addr, error) {
			mu.Lock()
			*asked = append(*asked, network+" "+host)
			n := len(*asked)
			mu.Unlock()
			select {
			case <-time.After(time.Second):
				return answer(n, host)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
	}
	texts := func(ps []packet) string {
		var all []string
		for _, p := range ps {
			all = append(all, p.data+"→"+p.peer.String())
		}
		return strings.Join(all, " ")
	}

	t.Run("once, in order, while others pass", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var asked []string
			b := newBetween(t, Config{Resolver: resolver(t, &asked, func(int, string) ([]netip.Addr, error) { return []netip.Addr{addr}, nil })})
			b.fromClient(toHost("a.corp") + "1")
			b.fromClient(toHost("a.corp") + "2")
			b.fromClient("\x00\x00\x00\x01\xc0\x00\x02\x09\x00\x35passes")
			time.Sleep(time.Second / 2)
			if got, want := texts(b.far.sentSoFar()), "passes→192.0.2.9:53"; got != want {
				t.Errorf("while the name is looked up: sent %s, want %s", got, want)
			}
			time.Sleep(time.Second)
			for i := range 100 {
				b.fromClient(toHost("a.corp") + fmt.Sprint(i+3))
			}
			synctest.Wait()
			sent := b.far.sentSoFar()
			if len(sent) != 103 || texts(sent[1:4]) != "1→192.0.2.1:53 2→192.0.2.1:53 3→192.0.2.1:53" {
				t.Errorf("sent %d: %s", len(sent), texts(sent[:min(5, len(sent))]))
			}
			if got := strings.Join(asked, ","); got != "ip a.corp" {
				t.Errorf("asked %s, want it once", got)
			}
			// The answer is asked for anew in time, and meanwhile goes on.
			time.Sleep(nameTime)
			b.fromClient(toHost("a.corp") + "later")
			synctest.Wait()
			if sent := b.far.sentSoFar(); sent[len(sent)-1].data != "later" || len(asked) != 2 {
				t.Errorf("after a minute: last sent %q, asked %v", sent[len(sent)-1].data, asked)
			}
		})
	})
	t.Run("an answer that is lost later goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var asked []string
			b := newBetween(t, Config{Resolver: resolver(t, &asked, func(n int, _ string) ([]netip.Addr, error) {
				if n > 1 {
					return nil, &net.DNSError{Err: "timeout", IsTimeout: true}
				}
				return []netip.Addr{addr}, nil
			})})
			for i := range 3 {
				b.fromClient(toHost("a.corp") + fmt.Sprint(i))
				time.Sleep(nameTime + 2*time.Second)
			}
			if got, want := texts(b.far.sentSoFar()), "0→192.0.2.1:53 1→192.0.2.1:53 2→192.0.2.1:53"; got != want {
				t.Errorf("sent %s, want %s", got, want)
			}
		})
	})
	t.Run("a name that is not there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var asked []string
			b := newBetween(t, Config{Resolver: resolver(t, &asked, func(int, string) ([]netip.Addr, error) { return nil, &net.DNSError{IsNotFound: true} })})
			for range 10 { // asked for again after a while only
				b.fromClient(toHost("a.corp") + "x")
				time.Sleep(time.Second)
			}
			if got := b.srv.Stats().Dropped; !cmp.Equal(got, map[Drop]uint64{DropUnresolved: 10}) || len(asked) != 2 {
				t.Errorf("dropped %v, asked %d times; want 10 unresolved and twice", got, len(asked))
			}
		})
	})
	t.Run("no more wait than may", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var asked []string
			b := newBetween(t, Config{Resolver: resolver(t, &asked, func(int, string) ([]netip.Addr, error) { return []netip.Addr{addr}, nil })})
			for i := range maxLookups + 4 {
				b.fromClient(toHost(fmt.Sprintf("n%d.corp", i)) + "x")
			}
			for range 100 {
				b.fromClient(toHost("n0.corp") + "y")
			}
			time.Sleep(3 * time.Second)
			sent := len(b.far.sentSoFar())
			if want := (map[Drop]uint64{DropWaiting: 4 + 100 + maxLookups - maxWaiting}); sent != maxWaiting || !cmp.Equal(b.srv.Stats().Dropped, want) {
				t.Errorf("sent %d, want %d; dropped: %s", sent, maxWaiting, cmp.Diff(want, b.srv.Stats().Dropped))
			}
			for i := range 2 * maxNames {
				b.fromClient(toHost(fmt.Sprintf("m%d.corp", i)) + "x")
				time.Sleep(2 * time.Second)
			}
			b.names.mu.Lock()
			defer b.names.mu.Unlock()
			if got := len(b.names.known); got > maxNames {
				t.Errorf("names kept: got %d, want at most %d", got, maxNames)
			}
		})
	})
	t.Run("the address that works", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var asked []string
			b := newBetween(t, Config{Resolver: resolver(t, &asked, func(int, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.7"), addr}, nil
			})})
			b.far.refuse[netip.MustParseAddr("192.0.2.7")] = opError(syscall.EHOSTUNREACH)
			b.fromClient(toHost("a.corp") + "1")
			time.Sleep(2 * time.Second)
			b.fromClient(toHost("a.corp") + "2")
			synctest.Wait()
			if got, want := texts(b.far.sentSoFar()), "1→192.0.2.1:53 2→192.0.2.1:53"; got != want {
				t.Errorf("sent %s, want %s", got, want)
			}
		})
	})
}

// Nothing is allocated for a datagram, either way, to an address or a known name.
func TestAssociateAllocatesNothing(t *testing.T) {
	a := newAssociated(t, Config{}, "")
	far := newMemSocket("10.0.0.5:1")
	far.silent = true
	near, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	client := a.sock.LocalAddr().(*net.UDPAddr).AddrPort()
	as := &association{srv: newServer(Config{Dialer: newNever()}), host: client.Addr(), near: near, far: far}
	as.from.Store(&client)
	as.names.known = map[string]*name{"files.corp": {text: "files.corp", addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, until: time.Now().Add(time.Hour)}}
	take := as.fromClient(t.Context())
	for what, b := range map[string][]byte{"IPv4": []byte(to4 + "hello"), "IPv6": []byte(to6 + "hello"), "a name": []byte(toHost("files.corp") + "hello")} {
		if n := testing.AllocsPerRun(100, func() { take(b, client) }); n != 0 {
			t.Errorf("to %s: got %v allocations, want 0", what, n)
		}
	}
	peer := mustAddrPort("192.0.2.1:53")
	buf := make([]byte, headerIPv6+1200)
	if n := testing.AllocsPerRun(100, func() { as.fromPeer(buf, peer) }); n != 0 {
		t.Errorf("to the client: got %v allocations, want 0", n)
	}
	row := row{buf: new([rowBuffer]byte)}
	if n := testing.AllocsPerRun(100, func() {
		row.start(1200, peer)
		row.add(1200, peer)
		as.sendRow(&row)
	}); n != 0 {
		t.Errorf("to the client in a row: got %v allocations, want 0", n)
	}
}
