package vpn

import (
	"context"

	"softether-go/pkg/frame"
	"softether-go/pkg/stats"
)

// batches counts how many frames the two ends of the tunnel exchange at once.
type batches struct {
	frame.Endpoint
	in, out stats.Sizes
}

// WriteFrames counts an inbound batch.
func (b *batches) WriteFrames(frames [][]byte) error {
	b.in.Count(len(frames))
	return b.Endpoint.WriteFrames(frames)
}

// Run counts outbound batches.
func (b *batches) Run(ctx context.Context, dst frame.Writer) error {
	return b.Endpoint.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
		b.out.Count(len(frames))
		return dst.WriteFrames(frames)
	}))
}

// carried returns how many batches there have been.
func (b *batches) carried() uint64 { return b.in.Snapshot().Total() + b.out.Snapshot().Total() }

// batchCounts is what batches has counted.
type batchCounts struct {
	In, Out stats.Histogram // batches by their number of frames
}

func (b *batches) counts() batchCounts { return batchCounts{b.in.Snapshot(), b.out.Snapshot()} }
