package udpaccel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"softether-go/pkg/frame"
)

// loopback joins two Paths by real sockets, and runs the second.
func loopback(t testing.TB, v Version, network, address string) (from, to *Path, arrived *atomic.Int64) {
	t.Helper()
	listen := func() net.PacketConn {
		c, err := net.ListenPacket(network, address)
		if err != nil {
			t.Skipf("no %s here: %v", network, err)
		}
		return c
	}
	a, b := listen(), listen()
	make1 := func(c net.PacketConn, peer net.Addr, send, receive byte) *Path {
		p, err := New(c, Config{Version: v, Fast: true, Wanted: true, SendKey: count(send, v.keyLen()), ReceiveKey: count(receive, v.keyLen()),
			SendCookie: 5, ReceiveCookie: 5, Peers: []netip.AddrPort{addrPortOf(peer)}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	from, to = make1(a, b.LocalAddr(), 1, 2), make1(b, a.LocalAddr(), 2, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	arrived = new(atomic.Int64)
	go func() {
		done <- to.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
			arrived.Add(int64(len(frames)))
			return nil
		}))
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		from.Close()
		to.Close()
	})
	return from, to, arrived
}

// Proves the system's sockets in both families, with runs cut by the kernel and without.
func TestRealSockets(t *testing.T) {
	for _, row := range []struct{ network, address string }{{"udp4", "127.0.0.1:0"}, {"udp6", "[::1]:0"}} {
		for _, v := range versions {
			for _, segment := range []bool{true, false} {
				t.Run(fmt.Sprint(row.network, " ", v, " segment=", segment), func(t *testing.T) {
					from, to, arrived := loopback(t, v, row.network, row.address)
					whole(from, segment)
					frames := [][]byte{testFrame(1, 60), testFrame(2, 1000), testFrame(3, 1000), testFrame(3, 990), testFrame(4, 46)}
					const batches = 20
					for range batches {
						if err := from.WriteFrames(frames); err != nil {
							t.Fatal(err)
						}
					}
					end := time.Now().Add(10 * time.Second)
					for arrived.Load() < int64(batches*len(frames)) && time.Now().Before(end) {
						time.Sleep(time.Millisecond)
					}
					if got, want := arrived.Load(), int64(batches*len(frames)); got != want {
						t.Errorf("arrived: got %d, want %d; %+v", got, want, to.Stats())
					}
					if got := to.Peer().Port(); got != from.LocalPort() {
						t.Errorf("the sender's port: got %d, want %d", got, from.LocalPort())
					}
				})
			}
		}
	}
}

func TestSendingAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	from, _, _ := loopback(t, V2, "udp4", "127.0.0.1:0")
	frames := [][]byte{testFrame(1, 60), testFrame(2, 1000), testFrame(3, 1000)}
	// The receiver's goroutine counts too: it must not allocate either.
	if n := testing.AllocsPerRun(200, func() { from.WriteFrames(frames) }); n >= 1 {
		t.Errorf("got %v allocations for a batch, want 0", n)
	}
}

// One way over loopback, both ends' work together. Run with -cpu 2 for what a session
// between two machines can do.
func BenchmarkLoopback(b *testing.B) {
	for _, v := range []Version{V2, V1, Plain} {
		for _, segment := range []bool{true, false} {
			b.Run(fmt.Sprint(v, " segment=", segment), func(b *testing.B) {
				from, _, arrived := loopback(b, v, "udp4", "127.0.0.1:0")
				whole(from, segment)
				frames := make([][]byte, 64)
				for i := range frames {
					frames[i] = testFrame(byte(i), 1309)
				}
				b.SetBytes(int64(len(frames) * len(frames[0])))
				b.ReportAllocs()
				for b.Loop() {
					from.WriteFrames(frames)
				}
				b.ReportMetric(float64(arrived.Load())/float64(b.N*len(frames)), "arrived/sent")
			})
		}
	}
}
