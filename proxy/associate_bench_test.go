package proxy

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"softether-go/netstack"
	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

// stacks joins two network stacks, of which the second is behind the tunnel.
func stacks(b *testing.B) (near, far *netstack.Stack) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	all := make([]*netstack.Stack, 2)
	for i, mac := range []string{"02:00:00:00:00:01", "02:00:00:00:00:02"} {
		hw, _ := net.ParseMAC(mac)
		s, err := netstack.New(netstack.Config{MAC: hw})
		if err != nil {
			b.Fatal(err)
		}
		cfg := netcfg.Config{Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 24)}
		if err := s.Apply(ctx, cfg); err != nil {
			b.Fatal(err)
		}
		all[i] = s
	}
	joined := make(chan error, 1)
	go func() { joined <- frame.Join(ctx, all[0], all[1]) }()
	b.Cleanup(func() {
		cancel()
		<-joined
		all[0].Close()
		all[1].Close()
	})
	return all[0], all[1]
}

// BenchmarkAssociate measures datagrams of QUIC's size from a client's socket through the
// relay and two stacks, or back, as fast as none is lost: a window of them is under way.
func BenchmarkAssociate(b *testing.B) {
	const size, window = 1200, 32
	for _, inbound := range []bool{false, true} {
		name := map[bool]string{false: "outbound", true: "inbound"}[inbound]
		b.Run(name, func(b *testing.B) {
			stack, behind := stacks(b)
			peer, err := behind.ListenPacket(netip.MustParseAddrPort("10.0.0.2:9"))
			if err != nil {
				b.Fatal(err)
			}
			defer peer.Close()
			s := NewSOCKS5(Config{Dialer: newNever(), PacketListener: packetFunc(func(context.Context, string, string) (net.PacketConn, error) {
				return stack.ListenPacket(netip.MustParseAddrPort("[::]:0"))
			})})
			control := connect(b, serve(b, s))
			control.SetDeadline(time.Time{})
			send(b, control, hello+associate)
			expect(b, control, helloReply+"\x05\x00\x00\x01\x7f\x00\x00\x01")
			port := make([]byte, 2)
			if _, err := control.Read(port); err != nil {
				b.Fatal(err)
			}
			client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			relay := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port[0])<<8|uint16(port[1]))
			out := append([]byte("\x00\x00\x00\x01\x0a\x00\x00\x02\x00\x09"), make([]byte, size)...)
			if _, err := client.WriteToUDPAddrPort(out, relay); err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 2048)
			_, us, err := peer.ReadFrom(buf)
			if err != nil {
				b.Fatal(err)
			}
			to := us.(*net.UDPAddr).AddrPort()
			type writer interface {
				WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
			}
			type reader interface {
				ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
			}
			write := func() error { _, err := client.WriteToUDPAddrPort(out, relay); return err }
			read := peer.(reader)
			if inbound {
				write = func() error { _, err := peer.(writer).WriteToUDPAddrPort(out[:size], to); return err }
				read = client
			}
			b.SetBytes(size)
			b.ReportAllocs()
			under := 0
			for b.Loop() {
				if err := write(); err != nil {
					b.Fatal(err)
				}
				if under++; under == window {
					for ; under > window/2; under-- {
						if _, _, err := read.ReadFromUDPAddrPort(buf); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			runtime.KeepAlive(control)
		})
	}
}
