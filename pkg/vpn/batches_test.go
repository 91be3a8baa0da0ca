package vpn

import (
	"context"
	"errors"
	"testing"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
)

// Every batch counts, and nothing is in the way of errors.
func TestBatchesAreCountedByTheirSize(t *testing.T) {
	f := frametest.Frame(make([]byte, 6), make([]byte, 6), frame.TypeIPv4, make([]byte, 46))
	end := new(frametest.Pipe)
	b := &batches{Endpoint: end}
	for range 3 {
		if err := b.WriteFrames([][]byte{f, f}); err != nil {
			t.Fatal(err)
		}
	}
	end.Send(f, f, f, f)
	full := errors.New("full")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.Run(ctx, frame.WriterFunc(func([][]byte) error { return full })); !errors.Is(err, full) {
		t.Errorf("Run: got %v, want the writer's error", err)
	}
	got := b.counts()
	if got.In.String() != "2-3:3" || got.Out.String() != "4-7:1" {
		t.Errorf("got %v in and %v out, want 3 of 2 and 1 of 4", got.In, got.Out)
	}
	if b.carried() != 4 {
		t.Errorf("carried: got %d, want 4", b.carried())
	}
}
