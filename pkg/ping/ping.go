package ping

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config says whom to ask and how.
type Config struct {
	To       netip.Addr
	Count    int           // requests; 0 means until the context ends
	Interval time.Duration // between them; 0 means 1 s
	Patience time.Duration // for what is still out when the last is sent; 0 means 5 s
	Size     int           // bytes of payload
	Hops     int           // that a request may go; 0 means 64
	Whole    bool          // routers may not cut requests: what is too long for them comes back as an error
}

// Stats is what has come of all requests.
type Stats struct {
	Sent, Received, Again, Errors int
	Took                          time.Duration
	Min, Avg, Max, Deviation      time.Duration // of the times; zero if nothing was received
}

// Run asks for echoes and reports each answer on the caller's goroutine. It ends with the
// last answer, with its patience, or with ctx, which is no error; what cannot be sent is.
func Run(ctx context.Context, conn Conn, cfg Config, report func(Answer)) (Stats, error) {
	cfg.Interval = cmp.Or(cfg.Interval, time.Second)
	cfg.Patience = cmp.Or(cfg.Patience, 5*time.Second)
	cfg.Hops = cmp.Or(cfg.Hops, 64)
	p := &pinger{conn: conn, cfg: cfg, report: report, id: uint16(rand.Uint32()), begun: time.Now(), least: math.MaxInt64}
	ctx, cancel := context.WithCancel(ctx)
	g, receiving := errgroup.WithContext(ctx)
	in := make(chan received)
	g.Go(func() error { return receive(receiving, conn, cfg.To.Is6(), p.id, in) })
	err := p.run(receiving, in)
	ended := ctx.Err() != nil
	cancel()
	if e := g.Wait(); err == nil && e != context.Canceled && !ended {
		err = e
	}
	return p.stats(), err
}

// window is how many of the last requests are remembered: at ten a second, what may come
// late by ten minutes.
const window = 8192

// request is one that was sent.
type request struct {
	seq      int
	at       time.Time
	answered bool
}

type pinger struct {
	conn   Conn
	cfg    Config
	report func(Answer)
	id     uint16
	begun  time.Time

	out         [window]request // by seq
	sent        int
	open        int // requests without an answer of any kind
	counts      Stats
	sum, square float64 // of times, in seconds
	least, most time.Duration
}

func (p *pinger) run(ctx context.Context, in <-chan received) error {
	next := time.NewTimer(0)
	defer next.Stop()
	var last <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil // Run knows why
		case <-last:
			return nil
		case r := <-in:
			p.take(r)
			if p.done() && p.open == 0 {
				return nil
			}
		case <-next.C:
			if err := p.send(); err != nil {
				return err
			}
			if p.done() {
				last = time.After(p.cfg.Patience)
				continue
			}
			next.Reset(p.cfg.Interval)
		}
	}
}

func (p *pinger) done() bool { return p.cfg.Count > 0 && p.sent >= p.cfg.Count }

func (p *pinger) send() error {
	p.sent++
	p.open++
	p.out[p.sent%window] = request{seq: p.sent, at: time.Now()}
	msg := appendEcho(nil, p.cfg.To.Is6(), p.id, uint16(p.sent), p.cfg.Size)
	return p.conn.Send(msg, p.cfg.To, p.cfg.Hops, !p.cfg.Whole)
}

// take counts and reports an answer. The number in it has 16 bits: it is that of the last
// request that ends so.
func (p *pinger) take(r received) {
	seq := p.sent - int(uint16(p.sent)-uint16(r.seq))
	if seq <= 0 || p.sent-seq >= window {
		return
	}
	q := &p.out[seq%window]
	a := Answer{Seq: seq, From: r.from, Size: r.size, Hops: r.hops, Time: r.at.Sub(q.at), Again: q.answered, Error: r.error}
	if !q.answered {
		q.answered = true
		p.open--
	}
	switch {
	case r.error.Kind != None:
		p.counts.Errors++
	case a.Again:
		p.counts.Again++
	default:
		p.counts.Received++
		s := a.Time.Seconds()
		p.sum, p.square = p.sum+s, p.square+s*s
		p.least, p.most = min(p.least, a.Time), max(p.most, a.Time)
	}
	p.report(a)
}

func (p *pinger) stats() Stats {
	s := p.counts
	s.Sent, s.Took = p.sent, time.Since(p.begun)
	if n := float64(s.Received); n > 0 {
		mean := p.sum / n
		s.Min, s.Max = p.least, p.most
		s.Avg = time.Duration(mean * float64(time.Second))
		s.Deviation = time.Duration(math.Sqrt(max(0, p.square/n-mean*mean)) * float64(time.Second))
	}
	return s
}
