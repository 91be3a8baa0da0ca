package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"softether-go/pkg/frame"
)

// router stands in the way of what a stack sends, and answers some of it by ICMP errors.
type router struct {
	*Stack                                    // whose frames it sees
	refuse func(ip header.IPv4) (icmp []byte) // nil lets the packet pass
	never6 []byte                             // with what TCP is refused by IPv6; nil lets it pass

	mu      sync.Mutex
	refused int
	longest int // packet that passed
}

func (r *router) Run(ctx context.Context, dst frame.Writer) error {
	return r.Stack.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
		var pass [][]byte
		for _, f := range frames {
			if !r.stop(f) {
				pass = append(pass, f)
			}
		}
		return dst.WriteFrames(pass)
	}))
}

func (r *router) stop(f []byte) bool {
	if ip6 := header.IPv6(f[frame.HeaderLen:]); frame.EtherType(f) == frame.TypeIPv6 && ip6.NextHeader() == 6 && r.never6 != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refused++
		_ = r.WriteFrames([][]byte{icmpError6(ip6, r.never6)})
		return true
	}
	if frame.EtherType(f) != frame.TypeIPv4 {
		return false
	}
	ip := header.IPv4(f[frame.HeaderLen:])
	icmp := r.refuse(ip)
	r.mu.Lock()
	defer r.mu.Unlock()
	if icmp == nil {
		r.longest = max(r.longest, len(ip))
		return false
	}
	r.refused++
	_ = r.WriteFrames([][]byte{icmpError(ip, icmp)})
	return true
}

func (r *router) seen() (refused, longest int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused, r.longest
}

// icmpError makes the frame with an error about a packet of macA's, from 10.0.0.254. The
// first eight bytes of it are given.
func icmpError(about header.IPv4, icmp []byte) []byte {
	body := append(bytes.Clone(icmp), about[:min(len(about), 28)]...)
	binary.BigEndian.PutUint16(body[2:], ^checksum.Checksum(body, 0))
	b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(body))
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b) + len(body)), TTL: 64, Protocol: 1,
		SrcAddr: tcpip.AddrFrom4([4]byte{10, 0, 0, 254}), DstAddr: about.SourceAddress()})
	ip.SetChecksum(^ip.CalculateChecksum())
	f := append(append(append([]byte{}, macA...), macB...), 8, 0)
	return append(append(f, b...), body...)
}

// icmpError6 is icmpError for IPv6, from 2001:db8::fe.
func icmpError6(about header.IPv6, icmp []byte) []byte {
	body := append(bytes.Clone(icmp), about[:min(len(about), 48)]...)
	src := tcpip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 0xfe})
	h := header.ICMPv6(body)
	h.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: h, Src: src, Dst: about.SourceAddress()}))
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(body))
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(body)), TransportProtocol: 58, HopLimit: 64,
		SrcAddr: src, DstAddr: about.SourceAddress()})
	f := append(append(append([]byte{}, macA...), macB...), 0x86, 0xdd)
	return append(append(f, b...), body...)
}

// behind returns two joined hosts with a router between that refuses what the first sends.
func behind(t *testing.T, refuse func(header.IPv4) []byte) (a, b *Stack, r *router) {
	t.Helper()
	a, b = newStack(t, macA), newStack(t, macB)
	apply(t, a, prefix("10.0.0.1/24"))
	apply(t, b, prefix("10.0.0.2/24"))
	r = &router{Stack: a, refuse: refuse}
	join(t, r, b)
	return a, b, r
}

// What routers say of an attempt is what the dial fails with, so what a proxy replies.
func TestICMPErrorsEndADial(t *testing.T) {
	for _, row := range []struct {
		name string
		code byte
		want syscall.Errno
	}{
		{"network unreachable", 0, syscall.ENETUNREACH},
		{"host unreachable", 1, syscall.EHOSTUNREACH},
		{"port unreachable", 3, syscall.ECONNREFUSED},
		{"network unknown", 6, syscall.ENETUNREACH},
		{"network prohibited", 9, syscall.EACCES},
		{"host prohibited", 10, syscall.EACCES},
		{"prohibited by the administrator", 13, syscall.EACCES},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, _, r := behind(t, func(ip header.IPv4) []byte {
				if ip.Protocol() != 6 {
					return nil
				}
				return []byte{unreachable4, row.code, 0, 0, 0, 0, 0, 0}
			})
			begun := time.Now()
			_, err := a.DialContext(t.Context(), "tcp", "10.0.0.2:80")
			if !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
			if n, _ := r.seen(); n != 1 || time.Since(begun) > 10*time.Second {
				t.Errorf("after %d segments and %v, want the first to be the last", n, time.Since(begun))
			}
		})
	}
}

// The same of ICMPv6, most of which gVisor does not know.
func TestICMPv6ErrorsEndADial(t *testing.T) {
	for _, row := range []struct {
		name string
		code byte
		want syscall.Errno
	}{
		{"no route", 0, syscall.ENETUNREACH},
		{"prohibited by the administrator", 1, syscall.EACCES},
		{"beyond the scope", 2, syscall.ENETUNREACH},
		{"address unreachable", 3, syscall.EHOSTUNREACH},
		{"port unreachable", 4, syscall.ECONNREFUSED},
		{"a source that a policy refuses", 5, syscall.EACCES},
		{"a route that rejects", 6, syscall.EACCES},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, b := newStack(t, macA), newStack(t, macB)
			r := &router{Stack: a, never6: []byte{unreachable6, row.code, 0, 0, 0, 0, 0, 0}}
			join(t, r, b)
			apply(t, a, dual("10.0.0.1/24", "2001:db8::1"))
			apply(t, b, dual("10.0.0.2/24", "2001:db8::2"))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := a.DialContext(ctx, "tcp", "[2001:db8::2]:80"); !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
			if n, _ := r.seen(); n != 1 {
				t.Errorf("after %d segments, want the first to be the last", n)
			}
		})
	}
}

// A refusal by a router is about the attempt that it names, and no other.
func TestRefusalsAreForThoseTheyName(t *testing.T) {
	syn := make(header.IPv4, 28)
	syn.Encode(&header.IPv4Fields{TotalLength: 40, TTL: 64, Protocol: 6,
		SrcAddr: tcpip.AddrFrom4([4]byte{10, 0, 0, 1}), DstAddr: tcpip.AddrFrom4([4]byte{10, 0, 0, 2})})
	syn6 := make(header.IPv6, 48)
	syn6.Encode(&header.IPv6Fields{PayloadLength: 20, HopLimit: 64, TransportProtocol: 6,
		SrcAddr: tcpip.AddrFrom16([16]byte{15: 9}), DstAddr: tcpip.AddrFrom16([16]byte{0: 0x20, 15: 2})})
	for _, ports := range [][]byte{syn[20:], syn6[40:]} {
		binary.BigEndian.PutUint16(ports, 4000)
		binary.BigEndian.PutUint16(ports[2:], 80)
	}
	for _, row := range []struct {
		to string
		f  []byte
	}{
		{"10.0.0.2:80", icmpError(syn, []byte{unreachable4, 13, 0, 0, 0, 0, 0, 0})},
		{"[2000::2]:80", icmpError6(syn6, []byte{unreachable6, 1, 0, 0, 0, 0, 0, 0})},
	} {
		var r refusals
		key := attemptKey{netip.MustParseAddrPort(row.to), 4000}
		for n := frame.HeaderLen; n < len(row.f)-4; n++ { // the ports are cut off
			if r.note(row.f[:n]); r.take(key) != 0 {
				t.Errorf("%s: %d bytes were enough", row.to, n)
			}
		}
		r.note(row.f)
		if r.take(attemptKey{key.to, 4001}) != 0 || r.take(key) != syscall.EACCES || r.take(key) != 0 {
			t.Errorf("%s: the attempt was not told from another, or not forgotten", row.to)
		}
	}
}

// What is said of others than connections, such as pings, comes as it was sent.
func TestOtherRefusalsAreLeftAsTheyAre(t *testing.T) {
	echo := make(header.IPv6, 48)
	echo.Encode(&header.IPv6Fields{PayloadLength: 8, HopLimit: 64, TransportProtocol: 58})
	f := icmpError6(echo, []byte{unreachable6, 1, 0, 0, 0, 0, 0, 0})
	if got := new(refusals).note(f); !bytes.Equal(got, f) {
		t.Errorf("got %x, want %x", got, f)
	}
}

// UDP hears of a port that nobody has, and goes on.
func TestICMPErrorsReachUDP(t *testing.T) {
	a, b := pair(t)
	c := dial(t, a, "udp", "10.0.0.2:53")
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %v, want a refusal", err)
	}
	pc, err := b.ListenPacket(netip.MustParseAddrPort("10.0.0.2:53"))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if _, err := c.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	_ = pc.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, _, err := pc.ReadFrom(make([]byte, 10)); n != 1 || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
}

// A narrower link on the way makes TCP send shorter segments, in time to lose nothing.
func TestTCPHonoursThePathMTU(t *testing.T) {
	const mtu = 1300
	a, b, r := behind(t, func(ip header.IPv4) []byte {
		if len(ip) <= mtu {
			return nil
		}
		if ip.Flags()&header.IPv4FlagDontFragment == 0 {
			return nil
		}
		return []byte{unreachable4, 4, 0, 0, 0, 0, mtu >> 8, mtu & 0xff}
	})
	client, server := connected(t, a, b)
	const size = 1 << 20
	go func() {
		_, _ = io.Copy(client, noise(1, size))
		_ = client.Close()
	}()
	_ = server.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, want := sum(t, server), sum(t, noise(1, size)); got != want {
		t.Error("other bytes arrived than were sent")
	}
	if refused, longest := r.seen(); refused == 0 || longest > mtu {
		t.Errorf("the router refused %d packets and passed one of %d, want some refused and none above %d", refused, longest, mtu)
	}
}

func TestICMPConnsSendAndReceive(t *testing.T) {
	a, b := pair(t)
	apply(t, a, prefix6("fd00::1/64"))
	apply(t, b, prefix6("fd00::2/64"))
	for _, row := range []struct {
		network, to string
		msg         []byte // a request
		reply       byte
	}{
		{"ip4", "10.0.0.2", []byte{8, 0, 0, 0, 1, 2, 0, 1, 'x'}, 0},
		{"ip6", "fd00::2", []byte{128, 0, 0, 0, 1, 2, 0, 1, 'x'}, 129},
	} {
		if row.network == "ip4" {
			apply(t, a, prefix("10.0.0.1/24"))
			apply(t, b, prefix("10.0.0.2/24"))
			binary.BigEndian.PutUint16(row.msg[2:], ^checksum.Checksum(row.msg, 0))
		} else {
			apply(t, a, prefix6("fd00::1/64"))
			apply(t, b, prefix6("fd00::2/64"))
		}
		c, err := a.ListenICMP(row.network)
		if err != nil {
			t.Fatal(err)
		}
		to := netip.MustParseAddr(row.to)
		if err := c.Send(row.msg, to, 9, false); err != nil {
			t.Fatalf("%s: %v", row.network, err)
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		buf := make([]byte, 1500)
		for {
			n, from, hops, err := c.Receive(buf)
			if err != nil {
				t.Fatalf("%s: %v", row.network, err)
			}
			if buf[0] != row.reply { // neighbours say other things by ICMPv6
				continue
			}
			if from != to || hops < 1 || !bytes.Equal(buf[4:n], row.msg[4:]) {
				t.Errorf("%s: got % x from %v with %d hops left", row.network, buf[:n], from, hops)
			}
			break
		}
		if err := c.Send(make([]byte, 1600), to, 9, false); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("%s: longer than the MTU: %v, want EMSGSIZE", row.network, err)
		}
		if err := c.Send(row.msg, netip.MustParseAddr("127.0.0.1"), 9, false); err == nil {
			t.Errorf("%s: sent to loopback", row.network)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, _, _, err := c.Receive(buf); err == nil {
			t.Errorf("%s: received after Close", row.network)
		}
	}
	if _, err := a.ListenICMP("ip"); err == nil {
		t.Error("took a network that is no family")
	}
}

// Of what nobody was there to take the stack says so itself, once for each message.
func TestICMPConnsHearOfNeighboursThatAreNotThere(t *testing.T) {
	for _, row := range []struct {
		network, own, to string
		request          byte
		says             []byte // type and code
		inner            int    // header of what it is about
	}{
		{"ip4", "10.0.0.1", "10.0.0.99", 8, []byte{unreachable4, 1}, header.IPv4MinimumSize},
		{"ip6", "2001:db8::1", "2001:db8::99", 128, []byte{unreachable6, 3}, header.IPv6MinimumSize},
	} {
		t.Run(row.network, func(t *testing.T) {
			t.Parallel()
			a, b := newStack(t, macA), newStack(t, macB)
			join(t, a, b)
			apply(t, a, dual("10.0.0.1/24", "2001:db8::1"))
			c, err := a.ListenICMP(row.network)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for seq := byte(1); seq <= 2; seq++ {
				if err := c.Send([]byte{row.request, 0, 0, 0, 7, 7, 0, seq, 'x'}, netip.MustParseAddr(row.to), 9, false); err != nil {
					t.Fatal(err)
				}
			}
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			buf := make([]byte, 1500)
			for seq := byte(1); seq <= 2; seq++ {
				n, from, _, err := c.Receive(buf)
				if err != nil {
					t.Fatalf("after %d: %v", seq-1, err)
				}
				about := buf[8:n]
				if from.String() != row.own || !bytes.Equal(buf[:2], row.says) || len(about) != row.inner+8 ||
					!bytes.Equal(about[row.inner+4:], []byte{7, 7, 0, seq}) {
					t.Errorf("of message %d: % x from %v", seq, buf[:n], from)
				}
			}
		})
	}
}
