package netstack

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
)

// BenchmarkTCP moves data from one stack to another, frame by frame as through a
// tunnel without cost. One core does the work of both ends.
func BenchmarkTCP(b *testing.B) {
	for _, flows := range []int{1, 8, 64, 500} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) { benchmarkTCP(b, flows) })
	}
}

func benchmarkTCP(b *testing.B, flows int) {
	const each = 64 << 20
	src, dst := pair(b)
	l := listen(b, dst, "0.0.0.0:80")
	var ends [][2]io.ReadWriter
	for range flows {
		client := dial(b, src, "tcp", "10.0.0.2:80")
		ends = append(ends, [2]io.ReadWriter{client, accept(b, l)})
	}
	share := int64(each / flows)
	b.SetBytes(share * int64(flows))
	b.ReportAllocs()
	for b.Loop() {
		var wg sync.WaitGroup
		for _, e := range ends {
			wg.Go(func() { _, _ = io.CopyN(struct{ io.Writer }{e[0]}, zeros{}, share) })
			wg.Go(func() { _, _ = io.CopyN(io.Discard, struct{ io.Reader }{e[1]}, share) })
		}
		wg.Wait()
	}
	st := src.Stats()
	b.ReportMetric(float64(st.OutboundDropped+dst.Stats().OutboundDropped), "drops")
	b.ReportMetric(float64(st.TCPRetransmits), "retransmits")
	b.ReportMetric(float64(st.OutboundFrames)/float64(st.OutboundBatches), "frames/batch")
}

// BenchmarkConnections opens connections, has a byte echoed, and closes them, by
// several dialers at once. The work of both ends counts.
func BenchmarkConnections(b *testing.B) {
	for _, dialers := range []int{1, 32} {
		b.Run(fmt.Sprintf("dialers=%d", dialers), func(b *testing.B) {
			src, dst := pair(b)
			l := listen(b, dst, "0.0.0.0:7")
			var servers, clients sync.WaitGroup
			servers.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					servers.Go(func() {
						defer c.Close()
						_, _ = io.Copy(c, struct{ io.Reader }{c})
					})
				}
			})
			work := make(chan struct{})
			for range dialers {
				clients.Go(func() {
					for range work {
						if err := echoByte(b.Context(), src, "10.0.0.2:7"); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ReportAllocs()
			for b.Loop() {
				work <- struct{}{}
			}
			close(work)
			clients.Wait()
			_ = l.Close()
			servers.Wait()
		})
	}
}

// echoByte opens a connection to an echo service for one byte.
func echoByte(ctx context.Context, s *Stack, to string) error {
	c, err := s.DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte{7}); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// slow is a tunnel of 200 Mbit/s. It notes how many packets wait behind a batch.
type slow struct {
	*Stack
	batches, waiting, peak int
}

func (s *slow) Run(ctx context.Context, dst frame.Writer) error {
	ready := time.Now()
	return s.Stack.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
		size := 0
		for _, f := range frames {
			size += len(f)
		}
		ready = ready.Add(time.Duration(size) * time.Second / (200e6 / 8))
		if wait := time.Until(ready); wait > 0 {
			time.Sleep(wait)
		} else if wait < -10*time.Millisecond {
			ready = time.Now() // idle time is not saved up
		}
		n := s.Stats().OutboundQueued
		s.batches, s.waiting, s.peak = s.batches+1, s.waiting+n, max(s.peak, n)
		return dst.WriteFrames(frames)
	}))
}

// BenchmarkSlowTunnel shows what the gate is for: the packets that wait are the
// delay that everything else through the tunnel sees.
func BenchmarkSlowTunnel(b *testing.B) {
	for _, flows := range []int{1, 8} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			const share = 16 << 20
			src, dst := newStack(b, macA), newStack(b, macB)
			apply(b, src, prefix("10.0.0.1/24"))
			apply(b, dst, prefix("10.0.0.2/24"))
			tunnel := &slow{Stack: src}
			cut := join(b, tunnel, dst)
			b.SetBytes(share * int64(flows))
			for b.Loop() {
				var wg sync.WaitGroup
				l := listen(b, dst, "0.0.0.0:80")
				for range flows {
					client := dial(b, src, "tcp", "10.0.0.2:80")
					server := accept(b, l)
					wg.Go(func() { _, _ = io.CopyN(struct{ io.Writer }{client}, zeros{}, share) })
					wg.Go(func() { _, _ = io.CopyN(io.Discard, struct{ io.Reader }{server}, share) })
				}
				wg.Wait()
				_ = l.Close()
			}
			cut()
			b.ReportMetric(float64(tunnel.waiting)/float64(tunnel.batches), "waiting")
			b.ReportMetric(float64(tunnel.peak), "peak")
			b.ReportMetric(float64(src.Stats().OutboundDropped), "drops")
			b.ReportMetric(float64(src.Stats().TCPRetransmits), "retransmits")
		})
	}
}

// BenchmarkRelay moves data from a kernel socket through two stacks to another
// kernel socket, as a proxy and its target would.
func BenchmarkRelay(b *testing.B) {
	const chunk = 64 << 20
	src, dst := pair(b)
	tunnel, far := connected(b, src, dst)
	near, in := loopback(b)
	out, last := loopback(b)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = tunnel.(io.ReaderFrom).ReadFrom(in) })
	wg.Go(func() { _, _ = far.(io.WriterTo).WriteTo(out) })
	b.SetBytes(chunk)
	b.ReportAllocs()
	for b.Loop() {
		wg.Go(func() { _, _ = io.CopyN(struct{ io.Writer }{near}, zeros{}, chunk) })
		if _, err := io.CopyN(io.Discard, struct{ io.Reader }{last}, chunk); err != nil {
			b.Fatal(err)
		}
	}
	_ = near.Close()
	_ = tunnel.(closeWriter).CloseWrite()
	wg.Wait()
}

// BenchmarkInboundLink is what the link costs per inbound frame without TCP: the
// packet is for an address we do not have, so IP drops it.
func BenchmarkInboundLink(b *testing.B) {
	s := newStack(b, macA)
	apply(b, s, prefix("10.0.0.1/24"))
	f := frametest.Frame(macA, macB, frame.TypeIPv4, make([]byte, 1500))
	batch := make([][]byte, 64)
	for i := range batch {
		batch[i] = f
	}
	b.SetBytes(int64(len(batch) * len(f)))
	b.ReportAllocs()
	for b.Loop() {
		_ = s.WriteFrames(batch)
	}
}

// BenchmarkOutboundQueue is what the queue and the flattening cost per packet.
func BenchmarkOutboundQueue(b *testing.B) {
	s := newStack(b, macA)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: frame.HeaderLen, Payload: buffer.MakeWithData(make([]byte, 1500)),
	})
	defer pkt.DecRef()
	pkt.NetworkProtocolNumber = frame.TypeIPv4
	s.link.AddHeader(pkt)
	sink := frame.WriterFunc(func([][]byte) error { return nil })
	b.SetBytes(int64(batchPackets * pkt.Size()))
	b.ReportAllocs()
	for b.Loop() {
		for range batchPackets {
			_ = s.out.WritePacket(pkt)
		}
		_ = s.out.drain(context.Background(), sink)
	}
}
