package hub_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

// unit is what a client sends at once: 64 KiB of full frames.
func unit(from, to net.HardwareAddr) ([]byte, int) {
	full := say(from, to, string(make([]byte, 1486)))
	n := 44
	var frames [][]byte
	for range n {
		frames = append(frames, full)
	}
	b, _ := wire.AppendBatch(nil, frames)
	return b, n
}

// BenchmarkBetweenTwoClients measures a hub and both its clients, all in this
// process, in payload bytes. Compare it with BenchmarkBareTLS, which is one of the
// two hops: TLS is twice that, and what is beyond it is the hub's own cost.
func BenchmarkBetweenTwoClients(b *testing.B) {
	h := hubtest.Start(b, bob)
	from, to := enter(b, h), enter(b, h)
	from.raw.SetDeadline(time.Time{})
	to.raw.SetDeadline(time.Time{})
	to.send(say(station(2), broadcast, "here"))
	from.receive(1)
	units, n := unit(station(1), station(2))
	b.SetBytes(int64(n * 1500))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	sent := make(chan struct{}, 16) // bounds what is on the way, so that nothing is dropped
	wg.Go(func() {
		for range b.N {
			sent <- struct{}{}
			if _, err := from.tls.Write(units); err != nil {
				b.Error(err)
				return
			}
		}
	})
	for got := 0; got < b.N*n; {
		frames, _, err := to.parser.Next(to.tls)
		if err != nil {
			b.Fatal(err)
		}
		for range (got+len(frames))/n - got/n {
			<-sent
		}
		got += len(frames)
	}
	wg.Wait()
}

// sink is an endpoint that takes frames and has none.
type sink struct{ got chan int }

func (s sink) WriteFrames(frames [][]byte) error {
	s.got <- len(frames)
	return nil
}

func (s sink) Run(ctx context.Context, _ frame.Writer) error {
	<-ctx.Done()
	return ctx.Err()
}

// BenchmarkIntoAnEndpoint measures a hub and one client that sends to a plugged
// endpoint, one hop of TLS.
func BenchmarkIntoAnEndpoint(b *testing.B) {
	h := hubtest.Start(b, bob)
	from := enter(b, h)
	from.raw.SetDeadline(time.Time{})
	units, n := unit(station(1), station(2))
	s := sink{make(chan int, 1024)}
	var wg sync.WaitGroup
	wg.Go(func() { h.Plug(context.Background(), s) })
	for h.Stats().Ports < 2 {
		runtime.Gosched()
	}
	b.SetBytes(int64(n * 1500))
	b.ReportAllocs()
	b.ResetTimer()
	sent := make(chan struct{}, 16)
	wg.Go(func() {
		for range b.N {
			sent <- struct{}{}
			if _, err := from.tls.Write(units); err != nil {
				b.Error(err)
				return
			}
		}
	})
	for total := 0; total < b.N*n; {
		k := <-s.got
		for range (total+k)/n - total/n {
			<-sent
		}
		total += k
	}
	b.StopTimer()
	h.Close()
	wg.Wait()
}

// BenchmarkBareTLS measures one hop of TLS alone, both ends.
func BenchmarkBareTLS(b *testing.B) {
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{sessiontest.Certificate(b, nil)}})
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	units, n := unit(station(1), station(2))
	go func() {
		c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		for range b.N {
			c.Write(units)
		}
	}()
	c, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.SetBytes(int64(n * 1500))
	b.ReportAllocs()
	b.ResetTimer()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 64<<10)); err != nil {
		b.Fatal(err)
	}
}
