package frame_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
)

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
)

func TestHeaderFieldsAreViews(t *testing.T) {
	f := frametest.Frame(macA, macB, frame.TypeARP, []byte("payload"))
	if string(frame.Dst(f)) != string(macA) || string(frame.Src(f)) != string(macB) {
		t.Errorf("addresses %x and %x", frame.Dst(f), frame.Src(f))
	}
	if frame.EtherType(f) != frame.TypeARP || string(frame.Payload(f)) != "payload" {
		t.Errorf("type %#x, payload %q", frame.EtherType(f), frame.Payload(f))
	}
	if cap(frame.Dst(f)) != 6 || cap(frame.Src(f)) != 6 {
		t.Error("an append to an address would write into the frame")
	}
	frame.Payload(f)[0] = 'P'
	if f[frame.HeaderLen] != 'P' {
		t.Error("the payload is a copy")
	}
}

func TestGroupAddresses(t *testing.T) {
	for mac, want := range map[[6]byte]bool{
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}: true,
		{0x01, 0x00, 0x5e, 0, 0, 1}:          true,
		{0x33, 0x33, 0, 0, 0, 1}:             true,
		{0x02, 0, 0, 0, 0, 1}:                false,
		{0x5e, 0, 0, 0, 0, 1}:                false,
	} {
		if got := frame.IsGroup(mac[:]); got != want {
			t.Errorf("IsGroup(%x) = %v, want %v", mac, got, want)
		}
	}
}

func TestJoinCarriesBothWays(t *testing.T) {
	var a, b frametest.Pipe
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- frame.Join(ctx, &a, &b) }()
	ab := frametest.Frame(macB, macA, frame.TypeIPv4, []byte("to b"))
	ba := frametest.Frame(macA, macB, frame.TypeIPv4, []byte("to a"))
	a.Send(ab)
	b.Send(ba, ba)
	if diff := cmp.Diff([][]byte{ab}, b.Received(ctx, 1)); diff != "" {
		t.Errorf("at b (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([][]byte{ba, ba}, a.Received(ctx, 2)); diff != "" {
		t.Errorf("at a (-want +got):\n%s", diff)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Join: %v", err)
	}
	// Neither end was closed: another Join goes on with both.
	ctx, cancel = context.WithCancel(t.Context())
	go func() { done <- frame.Join(ctx, &a, &b) }()
	a.Send(ab)
	if got := len(b.Received(ctx, 2)); got != 2 {
		t.Errorf("after a second Join b has %d frames, want 2", got)
	}
	cancel()
	<-done
}

func TestJoinEndsWithTheFirstCause(t *testing.T) {
	errBroken := errors.New("broken")
	for name, end := range map[string]struct {
		do   func(a, b *frametest.Pipe)
		want error
	}{
		"one end closed":   {func(a, _ *frametest.Pipe) { a.Close() }, net.ErrClosed},
		"the other closed": {func(_, b *frametest.Pipe) { b.Close() }, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a, b frametest.Pipe
				done := make(chan error, 1)
				go func() { done <- frame.Join(t.Context(), &a, &b) }()
				synctest.Wait()
				end.do(&a, &b)
				if err := <-done; !errors.Is(err, end.want) {
					t.Errorf("Join: %v, want %v", err, end.want)
				}
			})
		})
	}
	t.Run("a writer failed", func(t *testing.T) {
		var p frametest.Pipe
		p.Send(frametest.Frame(macB, macA, frame.TypeIPv4, nil))
		if err := p.Run(t.Context(), frametest.FailAfter(0, nil, errBroken)); !errors.Is(err, errBroken) {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestAFunctionIsAWriter(t *testing.T) {
	n := 0
	var w frame.Writer = frame.WriterFunc(func(frames [][]byte) error { n += len(frames); return nil })
	if err := w.WriteFrames(make([][]byte, 3)); err != nil || n != 3 {
		t.Errorf("%d frames, %v", n, err)
	}
}
