package netstack

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"softether-go/pkg/frame"
)

// outage is a tunnel that loses everything outbound for a while, once.
type outage struct {
	*Stack
	after  int           // bytes that get through first
	lasts  time.Duration // from the first frame lost
	frames int           // lost; read when Run has ended
}

func (o *outage) Run(ctx context.Context, dst frame.Writer) error {
	passed := 0
	var begun time.Time
	return o.Stack.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
		for _, f := range frames {
			passed += len(f)
		}
		if passed > o.after && begun.IsZero() {
			begun = time.Now()
		}
		if !begun.IsZero() && time.Since(begun) < o.lasts {
			o.frames += len(frames)
			return nil
		}
		return dst.WriteFrames(frames)
	}))
}

// A session that is lost takes all that is under way with it. What was lost is sent
// again as fast as the peer says it arrives, not by one segment each time-out.
func TestALostWindowIsSentAgainAtOnce(t *testing.T) {
	src, dst := newStack(t, macA), newStack(t, macB)
	apply(t, src, prefix("10.0.0.1/24"))
	apply(t, dst, prefix("10.0.0.2/24"))
	tunnel := &outage{Stack: src, after: 2 << 20, lasts: 300 * time.Millisecond}
	cut := join(t, tunnel, dst)
	client, server := connected(t, src, dst)
	var wg sync.WaitGroup
	const size = 8 << 20
	wg.Go(func() { _, _ = io.CopyN(struct{ io.Writer }{client}, zeros{}, size) })
	_ = server.SetReadDeadline(time.Now().Add(60 * time.Second))
	if _, err := io.CopyN(io.Discard, struct{ io.Reader }{server}, size); err != nil {
		t.Error(err)
	}
	// Doubling from 200 ms, two or three fall into the outage.
	if n := src.ns.Stats().TCP.Timeouts.Value(); n > 40 { // one for each of some hundred segments otherwise
		t.Errorf("%d time-outs, want a few", n)
	}
	_ = client.Close()
	wg.Wait()
	cut()
	if tunnel.frames < 20 {
		t.Errorf("%d frames were lost, too few to show anything", tunnel.frames)
	}
}
