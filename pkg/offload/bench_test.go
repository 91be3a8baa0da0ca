package offload

import (
	"math/rand/v2"
	"testing"
)

func BenchmarkSplit(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	opts := func(p *packet) { p.tcpOpts = []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8} }
	for _, bm := range []struct {
		name  string
		super Super
	}{
		{"TCPv4", superFrame(tcp(0, 65160).with(opts), 1448)}, // 45 segments
		{"TCPv4/pieces", inPieces(superFrame(tcp(0, 65160).with(opts), 1448), r)},
		{"TCPv6", superFrame(tcp(0, 64260).with(opts).with(six), 1428)},
		{"UDP", superFrame(udp(0, 64*1000), 1000)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			arena, frames := make([]byte, 0, 80000), make([][]byte, 0, 100)
			n := 0
			b.SetBytes(int64(bm.super.Len()))
			b.ReportAllocs()
			for b.Loop() {
				_, out, err := Split(arena, frames, bm.super)
				if err != nil {
					b.Fatal(err)
				}
				n += len(out)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/frame")
		})
	}
}

func BenchmarkCoalesce(b *testing.B) {
	const batch = 45
	opts := func(p *packet) { p.tcpOpts = []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8} }
	bulk := func(flows int, change func(*packet)) (frames [][]byte) {
		for i := range batch {
			p := tcp(i/flows*1428, 1428).with(opts).with(on(byte(i % flows)))
			frames = append(frames, p.with(change).frame())
		}
		return frames
	}
	same := func(*packet) {}
	var acks, voice [][]byte
	for i := range batch {
		acks = append(acks, packet{flow: byte(i % 4), ack: uint32(i)}.with(opts).frame())
		voice = append(voice, udp(i, 64).with(on(byte(i))).frame())
	}
	for _, bm := range []struct {
		name   string
		frames [][]byte
	}{
		{"1 flow", bulk(1, same)},
		{"1 flow, IPv6", bulk(1, six)},
		{"8 flows", bulk(8, same)},
		{"45 flows, none to glue", bulk(45, same)},
		{"acknowledgements", acks},
		{"64 B datagrams of 45 flows", voice},
	} {
		b.Run(bm.name, func(b *testing.B) {
			c := Coalescer{UDP: true}
			total, out := 0, 0
			for _, f := range bm.frames {
				total += len(f)
			}
			emit := func(Super) { out++ }
			b.SetBytes(int64(total))
			b.ReportAllocs()
			for b.Loop() {
				for _, f := range bm.frames {
					c.Push(f)
				}
				c.Flush(emit)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/frame")
			b.ReportMetric(float64(b.N*batch)/float64(out), "frames/super")
		})
	}
}
