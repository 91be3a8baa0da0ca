package ping

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	probes  = 3 // for each hop
	maxHops = 64
	ahead   = 5 // hops under way at a time
)

// TraceConfig says what way to look at.
type TraceConfig struct {
	To       netip.Addr
	MaxHops  int           // 0 means 30
	Patience time.Duration // for an answer; 0 means 3 s
	Size     int           // bytes of payload
}

// A Hop is one step of the way.
type Hop struct {
	Number  int
	Answers []Answer // as they came; fewer than three if some did not
}

// Trace reports the hops on the way, one after the other, on the caller's goroutine. It
// ends where the way does, and says whether that is the host itself.
func Trace(ctx context.Context, conn Conn, cfg TraceConfig, report func(Hop)) (arrived bool, err error) {
	cfg.MaxHops = min(cmp.Or(cfg.MaxHops, 30), maxHops)
	cfg.Patience = cmp.Or(cfg.Patience, 3*time.Second)
	t := &tracer{conn: conn, cfg: cfg, id: uint16(rand.Uint32()), hops: make([]hopState, cfg.MaxHops+1), end: cfg.MaxHops}
	ctx, cancel := context.WithCancel(ctx)
	g, receiving := errgroup.WithContext(ctx)
	in := make(chan received)
	g.Go(func() error { return receive(receiving, conn, cfg.To.Is6(), t.id, in) })
	err = t.run(receiving, in, report)
	ended := ctx.Err()
	cancel()
	if e := g.Wait(); err == nil && e != context.Canceled {
		err = e
	}
	return t.arrived, cmp.Or(err, ended)
}

type hopState struct {
	sent    time.Time
	answers []Answer
}

type tracer struct {
	conn    Conn
	cfg     TraceConfig
	id      uint16
	hops    []hopState // from 1
	sent    int        // hops
	shown   int        // hops
	end     int        // the last hop that matters
	arrived bool
}

func (t *tracer) run(ctx context.Context, in <-chan received, report func(Hop)) error {
	for t.shown < t.end {
		for t.sent < min(t.shown+ahead, t.end) {
			if err := t.probe(t.sent + 1); err != nil {
				return err
			}
			t.sent++
		}
		h := &t.hops[t.shown+1]
		left := t.cfg.Patience - time.Since(h.sent)
		if len(h.answers) == probes || left <= 0 {
			t.shown++
			report(Hop{t.shown, h.answers})
			continue
		}
		timeout := time.NewTimer(left)
		select {
		case <-ctx.Done():
			timeout.Stop()
			return nil // Trace knows why
		case r := <-in:
			timeout.Stop()
			t.take(r)
		case <-timeout.C:
		}
	}
	return nil
}

// probe sends the requests of a hop, which their numbers tell.
func (t *tracer) probe(hop int) error {
	t.hops[hop].sent = time.Now()
	for i := range probes {
		msg := appendEcho(nil, t.cfg.To.Is6(), t.id, uint16(hop*probes+i), t.cfg.Size)
		if err := t.conn.Send(msg, t.cfg.To, hop, true); err != nil {
			return err
		}
	}
	return nil
}

func (t *tracer) take(r received) {
	hop := r.seq / probes
	if hop < 1 || hop > t.sent {
		return
	}
	h := &t.hops[hop]
	if len(h.answers) == probes {
		return
	}
	h.answers = append(h.answers, Answer{Seq: r.seq, From: r.from, Size: r.size, Hops: r.hops, Time: r.at.Sub(h.sent), Error: r.error})
	if r.error.Kind != Expired {
		t.end = min(t.end, hop)
		t.arrived = t.arrived || r.error.Kind == None
	}
}
