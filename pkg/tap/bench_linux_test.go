package tap

import (
	"context"
	"testing"

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

// An operation is a batch of 64 full frames.
func BenchmarkInbound(b *testing.B) {
	d := openUp(b)
	batch := full(64)
	b.SetBytes(64 * 1514)
	b.ReportAllocs()
	for b.Loop() {
		if err := d.WriteFrames(batch); err != nil {
			b.Fatal(err)
		}
	}
}

// An operation is a batch of 64 full frames, the host's sending included.
func BenchmarkOutbound(b *testing.B) {
	d := openUp(b)
	batch, out := full(64), carry(b, d)
	b.SetBytes(64 * 1514)
	b.ReportAllocs()
	for b.Loop() {
		out(batch)
	}
}

// An operation is a batch of 64 full frames that wait in the kernel's queue.
func BenchmarkOutboundReading(b *testing.B) {
	d := openUp(b)
	host := newWire(b, d.Index())
	shut(b, host)
	batch := full(64)
	b.SetBytes(64 * 1514)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		host.send(batch...)
		b.StartTimer()
		for read := 0; read < 64; read += len(d.batch) {
			d.batch = d.batch[:0]
			if err := d.conn.Read(d.onRead); err != nil {
				b.Fatal(err)
			}
		}
	}
}
