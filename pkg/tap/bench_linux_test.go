package tap

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
)

// full returns a batch of n full-size frames that nobody listens for.
func full(n int) [][]byte {
	batch := make([][]byte, n)
	for i := range batch {
		batch[i] = numbered(i, 1514)
	}
	return batch
}

// carry starts d and returns a function that lets the host send n frames and waits
// until Run has handed them over.
func carry(t testing.TB, d *Device) func(batch [][]byte) {
	t.Helper()
	host := newWire(t, d.Index())
	shut(t, host)
	arrived := make(chan int)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- d.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
			arrived <- len(frames)
			return nil
		}))
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return func(batch [][]byte) {
		for _, f := range batch {
			if _, err := unix.Write(host.fd, f); err != nil {
				t.Fatal(err)
			}
		}
		for got := 0; got < len(batch); {
			got += <-arrived
		}
	}
}

// shut makes the packet socket deaf, so that only sending costs.
func shut(t testing.TB, host *wire) {
	t.Helper()
	none := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	prog := unix.SockFprog{Len: 1, Filter: &none[0]}
	if err := unix.SetsockoptSockFprog(host.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		t.Fatal(err)
	}
}

func TestFramesAreCarriedWithoutAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates: run without -race")
	}
	d := openUp(t)
	batch, out := full(32), carry(t, d)
	if got := testing.AllocsPerRun(200, func() { out(batch) }); got != 0 {
		t.Errorf("outbound: got %v allocations per 32 frames, want 0", got)
	}
	if got := testing.AllocsPerRun(200, func() { d.WriteFrames(batch) }); got != 0 {
		t.Errorf("inbound: got %v allocations per 32 frames, want 0", got)
	}
	s := d.Stats()
	if s.InFrames != 201*32 || s.OutFrames != 201*32 {
		t.Errorf("got %d frames in and %d out, want %d each", s.InFrames, s.OutFrames, 201*32)
	}
	setLink(t, "vpn0", false)
	if got := testing.AllocsPerRun(200, func() { d.WriteFrames(batch) }); got != 0 {
		t.Errorf("inbound, link down: got %v allocations per 32 frames, want 0", got)
	}
}

func TestSuperFramesAreCarriedWithoutAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates: run without -race")
	}
	d := openUp(t)
	host := newWire(t, d.Index())
	shut(t, host)
	describeFrames(t, host)
	super := packet{payload: text(44 * mss), options: timestamps}.super(mss)
	read := func() {
		host.send(super, super)
		if err := d.conn.Read(d.onRead); err != nil {
			t.Fatal(err)
		}
	}
	if got := testing.AllocsPerRun(200, read); got != 0 {
		t.Errorf("outbound: got %v allocations per 88 frames, want 0", got)
	}
	batch := append(train(packet{options: timestamps}, 60, mss), train(packet{udp: true}, 60, 1200)...)
	if got := testing.AllocsPerRun(200, func() { d.WriteFrames(batch) }); got != 0 {
		t.Errorf("inbound: got %v allocations per 120 frames, want 0", got)
	}
	s := d.Stats()
	if s.OutSupers != 201*2 || s.OutSegments != 201*88 || s.InSupers < 201*2 {
		t.Errorf("got %+v, want each run to exchange two super-frames or more", s)
	}
}

// modes runs a benchmark with super-frames and without.
func modes(b *testing.B, run func(b *testing.B, d *Device)) {
	for _, plain := range []bool{false, true} {
		name := "offload"
		if plain {
			name = "plain"
		}
		b.Run(name, func(b *testing.B) {
			enterNamespace(b)
			d := openTap(b, Config{Name: "vpn0", Plain: plain})
			setLink(b, "vpn0", true)
			run(b, d)
		})
	}
}

// processTime returns the processor time that this process has used.
func processTime(t testing.TB) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// perFrame reports the processor time per frame of what operations of n frames do.
func perFrame(b *testing.B, n int, operation func()) {
	b.ReportAllocs()
	b.ResetTimer()
	before := processTime(b)
	for b.Loop() {
		operation()
	}
	b.ReportMetric(float64(processTime(b)-before)/float64(b.N*n), "cpu-ns/frame")
}

// An operation is a batch of frames from the tunnel. The host's stack throws them away
// as soon as it sees that they are for another host.
func BenchmarkInbound(b *testing.B) {
	tcp := packet{options: timestamps}
	var flows, acks, other [][]byte
	for i := range 64 {
		p := tcp.with(func(p *packet) { p.port, p.seq, p.id = uint16(1+i%8), uint32(i/8*mss), uint16(i/8) })
		flows = append(flows, p.with(func(p *packet) { p.payload = text(mss) }).frame())
		acks = append(acks, p.frame())
		other = append(other, p.with(func(p *packet) { p.port, p.payload = uint16(1+i), text(mss) }).frame())
	}
	for _, bm := range []struct {
		name   string
		frames [][]byte
	}{
		{"1 flow", train(tcp, 64, mss)},
		{"8 flows", flows},
		{"64 flows", other},
		{"acknowledgements", acks},
		{"1 acknowledgement", acks[:1]},
		{"2 segments", train(tcp, 2, mss)},
		{"datagrams", train(packet{udp: true}, 64, 1200)},
		{"small datagrams", train(packet{udp: true}, 64, 64)},
		{"not IP", full(64)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			modes(b, func(b *testing.B, d *Device) {
				for _, f := range bm.frames {
					copy(f, d.MAC())
				}
				perFrame(b, len(bm.frames), func() {
					if err := d.WriteFrames(bm.frames); err != nil {
						b.Fatal(err)
					}
				})
			})
		})
	}
}

// An operation is a batch of frames, or as many in super-frames, that the host sends,
// the host's sending included.
func BenchmarkOutbound(b *testing.B) {
	tcp := packet{options: timestamps}
	for _, bm := range []struct {
		name   string
		size   int
		super  packet
		count  int // of super
		frames int
	}{
		{"44 segments", mss, tcp.with(func(p *packet) { p.payload = text(44 * mss) }), 4, 4 * 44},
		{"10 segments", mss, tcp.with(func(p *packet) { p.payload = text(10 * mss) }), 10, 100},
		{"datagrams", 1200, packet{udp: true, payload: text(50 * 1200)}, 2, 100},
		{"single segments", 0, tcp.with(func(p *packet) { p.payload = text(mss) }), 64, 64},
		{"acknowledgements", 0, tcp, 64, 64},
	} {
		b.Run(bm.name, func(b *testing.B) {
			modes(b, func(b *testing.B, d *Device) {
				host := newWire(b, d.Index())
				shut(b, host)
				describeFrames(b, host)
				super := bm.super.super(bm.size)
				arrived := make(chan int, 1000)
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error)
				go func() {
					ended <- d.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
						arrived <- len(frames)
						return nil
					}))
				}()
				defer func() {
					cancel()
					<-ended
				}()
				perFrame(b, bm.frames, func() {
					for range bm.count {
						host.send(super)
					}
					for got := 0; got < bm.frames; {
						got += <-arrived
					}
				})
			})
		})
	}
}

// describeFrames makes the packet socket one whose frames have a virtio header.
func describeFrames(t testing.TB, w *wire) {
	t.Helper()
	if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		t.Fatal(err)
	}
}
