package udpaccel

import (
	"sync/atomic"
	"time"
)

// life is what is known of the path by what came in. The reading goroutine writes it,
// times are our clock's milliseconds.
type life struct {
	theirs atomic.Uint64 // the newest tick of the peer
	echo   atomic.Uint64 // the newest of ours that has come back

	valid  atomic.Int64 // when the last datagram came while our own were being heard; 0 means never
	stable atomic.Int64 // since when without a break

	beats beats
	rtt   shortest
}

// note takes what a good datagram says.
func (l *life) note(h header, now int64, b beat, keepAlive bool) {
	if keepAlive {
		l.beats.note(h.myTick, b)
	}
	if echo := l.echo.Load(); h.yourTick > echo && h.yourTick <= uint64(now) {
		l.echo.Store(h.yourTick)
		l.rtt.note(now, now-int64(h.yourTick))
	}
	echo := int64(l.echo.Load())
	if echo == 0 || now-echo > window.Milliseconds() {
		return
	}
	if last := l.valid.Load(); last == 0 || now-last > b.silence.Milliseconds() {
		l.stable.Store(now)
	}
	l.valid.Store(now)
}

// Alive reports whether both directions work: the peer is heard, and hears us.
func (p *Path) Alive() bool {
	valid := p.life.valid.Load()
	return valid != 0 && p.now()-valid <= p.beat.silence.Milliseconds()
}

// Usable reports whether the path has been alive for long enough that, by the
// protocol, data may go by it.
func (p *Path) Usable() bool {
	return p.Alive() && p.now()-p.life.stable.Load() >= stableAfter.Milliseconds()
}

// beats tells by the ticks of the peer's keep-alives, which are at most so far apart,
// how many of them are missing.
type beats struct {
	last uint64 // the newest tick
	ring [32]struct{ at, missing uint16 }
	next int

	came, missing atomic.Int64 // of those in the ring
}

// lateBy is how much later than it should a busy peer sends: it looks at its clock
// once in 256 ms, and has other things to do. (Cedar/Cedar.h, SELECT_TIME)
const lateBy = 400

func (b *beats) note(tick uint64, at beat) {
	defer func() { b.last = max(b.last, tick) }()
	if b.last == 0 || tick <= b.last {
		return
	}
	gap := int64(tick - b.last)
	missing := int64(0)
	if mean := (at.min + at.max).Milliseconds() / 2; gap > at.max.Milliseconds()+lateBy {
		missing = min((gap+mean/2)/mean-1, 100)
	}
	slot := &b.ring[b.next%len(b.ring)]
	b.next++
	b.came.Add(1 - int64(slot.at))
	b.missing.Add(missing - int64(slot.missing))
	slot.at, slot.missing = 1, uint16(missing)
}

// shortest is the shortest round trip of the last half minute or minute, which is the
// nearest to the truth: the others have waited for the peer's next keep-alive.
type shortest struct {
	best, before atomic.Int64 // in ms plus 1; 0 means none
	since        int64
}

func (s *shortest) note(now, rtt int64) {
	if now-s.since > window.Milliseconds() {
		s.before.Store(s.best.Load())
		s.best.Store(0)
		s.since = now
	}
	if best := s.best.Load(); best == 0 || rtt+1 < best {
		s.best.Store(rtt + 1)
	}
}

func (s *shortest) load() (time.Duration, bool) {
	best := s.best.Load()
	if before := s.before.Load(); before != 0 && (best == 0 || before < best) {
		best = before
	}
	return time.Duration(best-1) * time.Millisecond, best != 0
}

// A Quality is what keep-alives tell of the path.
type Quality struct {
	// Loss is the share of the peer's last keep-alives, some 32, that did not come.
	Loss float64
	Seen int // of how many that is told
	// RoundTrip is the shortest of the last half minute at least; 0 is unknown.
	RoundTrip time.Duration
}

// Quality says how good the path is.
func (p *Path) Quality() Quality {
	came, missing := p.life.beats.came.Load(), p.life.beats.missing.Load()
	q := Quality{Seen: int(came + missing)}
	if q.Seen > 0 {
		q.Loss = float64(missing) / float64(q.Seen)
	}
	q.RoundTrip, _ = p.life.rtt.load()
	q.RoundTrip = max(q.RoundTrip, 0)
	return q
}
