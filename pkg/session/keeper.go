package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"softether-go/pkg/wire"
)

const (
	// joinEvery is the least time between two connections that are added: the
	// official client's default, and less than what a server takes for an attack.
	joinEvery = time.Second
	// joinBackoff is the most between attempts that fail.
	joinBackoff = time.Minute

	// turnAround is time for the server to see that a connection of a half-duplex session
	// has ended: it gives the next a direction by those there are.
	turnAround = 100 * time.Millisecond

	// resumeGrace is how long to try to bring a session back whose time-out seems
	// over: the server counts from the last it could send, which it knows better.
	resumeGrace = 5 * time.Second
	// resumeDelay and resumeDelayMax bound the wait between these attempts.
	resumeDelay    = 100 * time.Millisecond
	resumeDelayMax = 2 * time.Second
	// refusals is after how many in a row a port has nobody behind it: the server has
	// ended, and its sessions with it.
	refusals = 3

	// A session that is brought back and ended by the server within quickDeath needs to
	// be healed, and one that is so quickDeaths times in a row is past help. The same,
	// whatever ends it, goes for flap and flaps: so fast no network fails.
	quickDeath  = time.Second
	quickDeaths = 3
	flap        = 50 * time.Millisecond
	flaps       = 10
)

// A keeper sees to it that the session has the connections it should have. It does one
// thing at a time, and lives as long as Run.
type keeper struct {
	s     *Session
	start func(*link)

	next     time.Time // not to try earlier to add a connection
	failures int       // of these, in a row
	back     time.Time // when the session last came back: if never, the zero Time, long ago
	heard    uint64    // batches, at that time
	quick    int       // how often the session came back and was ended at once
	flapped  int       // how often it came back and went, for whatever reason
	heals    bool      // it needs more than a connection to come back; see heal
}

// run returns why it ended: the session is dead, or ctx is.
func (k *keeper) run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		links, lost, changed := k.s.present()
		wait, err := k.step(ctx, links, lost)
		if err != nil {
			return err
		}
		if wait == 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.s.dead:
			return k.s.cause
		case <-changed:
		case <-timer.C:
		}
	}
}

// step does what is most urgent, or says how long there is nothing to do.
func (k *keeper) step(ctx context.Context, links []*link, lost *link) (wait time.Duration, err error) {
	s := k.s
	if err := s.err(); err != nil {
		return 0, err
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	wait = time.Hour
	switch due := k.due(links); {
	case len(links) == 0:
		return 0, k.resume(ctx, lost)
	case len(links) >= s.most && oneWay(links) && s.welcome.HalfConnection:
		links[len(links)-1].retire() // the next may go the other way
		k.next = time.Now().Add(turnAround)
	case len(links) < s.most:
		if wait = time.Until(k.next); wait <= 0 {
			return 0, k.grow(ctx)
		}
	case due <= 0:
		k.rotate(ctx, links[0])
	default:
		wait = due
	}
	return max(wait, time.Millisecond), nil
}

// due returns when the oldest link is to be replaced.
func (k *keeper) due(links []*link) time.Duration {
	if k.s.cfg.ConnectionTTL <= 0 || len(links) == 0 {
		return time.Hour
	}
	return time.Until(laterOf(links[0].born.Add(k.s.cfg.ConnectionTTL), k.next))
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// oneWay reports whether all links go the same one way.
func oneWay(links []*link) bool {
	sends, receives := 0, 0
	for _, l := range links {
		if l.sends() {
			sends++
		}
		if l.receives() {
			receives++
		}
	}
	return sends == 0 || receives == 0
}

// grow adds a connection. That it fails is no error, unless the session is gone.
func (k *keeper) grow(ctx context.Context) error {
	l, err := k.s.join(ctx)
	if err != nil {
		return k.failed(ctx, err)
	}
	k.failures = 0
	k.next = time.Now().Add(joinEvery)
	if k.adopt(l) {
		k.s.cfg.Log.Debug("connection added", "connections", k.s.count(), "direction", l.dir)
	}
	return nil
}

// adopt takes l into the session and starts it.
func (k *keeper) adopt(l *link) bool {
	if !k.s.add(l) {
		l.close()
		return false
	}
	k.s.stats.joined.Add(1)
	k.start(l)
	return true
}

// failed deals with a connection that could not be added.
func (k *keeper) failed(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isGone(err):
		return k.s.fail(ErrEnded)
	}
	k.s.stats.joinsFailed.Add(1)
	delay := min(joinEvery<<min(k.failures, 10), joinBackoff)
	if k.failures++; k.failures == 3 { // one or two may be a moment's weakness
		k.s.cfg.Log.Warn("the server granted more connections than it lets in now; going on with those there are",
			"granted", k.s.most, "have", k.s.count(), "cause", err)
	}
	k.next = time.Now().Add(delay)
	return nil
}

// isGone reports whether the server knows the session no more.
func isGone(err error) bool {
	return errors.Is(err, wire.CodeSessionTimeout) || errors.Is(err, wire.CodeOtherProtocol)
}

// rotate replaces a link because of its age. The new one comes first, for which the
// server has room, except where the old one must make place in its direction.
func (k *keeper) rotate(ctx context.Context, old *link) {
	s := k.s
	k.next = time.Now().Add(joinEvery)
	if s.welcome.HalfConnection {
		s.stats.replaced.Add(1)
		old.retire()
		k.next = time.Now().Add(turnAround)
		return
	}
	l, err := s.join(ctx)
	if err != nil {
		_ = k.failed(ctx, err) // what is for good shows at once in another way
		return
	}
	k.failures = 0
	if k.adopt(l) {
		s.stats.replaced.Add(1)
		old.retire()
		s.cfg.Log.Debug("connection replaced", "age", time.Since(old.born).Round(time.Second))
	}
}

// resume brings the session back after its last connection was lost. It returns an
// error when that is hopeless: the session is dead then.
func (k *keeper) resume(ctx context.Context, lost *link) error {
	s, cause := k.s, errNoLink
	until := time.Now().Add(resumeGrace)
	if lost != nil {
		cause = lost.cause
		until = laterOf(until, time.Unix(0, lost.life.Load()).Add(s.welcome.Timeout))
		if k.diedAtOnce(lost) {
			return s.fail(fmt.Errorf("%w; each time that the session was joined again, the server closed the connection at once", cause))
		}
	}
	begun, refused := time.Now(), 0
	s.cfg.Log.Info("connection lost, joining the session again", "cause", cause)
	trying, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for delay := resumeDelay; ; delay = min(2*delay, resumeDelayMax) {
		l, err := k.rejoin(trying)
		switch {
		case err == nil:
			k.back, k.heard = time.Now(), s.stats.inBatches.Load()
			if k.adopt(l) {
				s.stats.resumed.Add(1)
				s.cfg.Log.Info("session joined again", "session", s.welcome.SessionName, "took", time.Since(begun).Round(time.Millisecond))
			}
			k.next = time.Now() // for the others
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case isGone(err) && errors.Is(cause, ErrEnded):
			return s.fail(ErrEnded)
		case isGone(err):
			return s.fail(fmt.Errorf("%w; the server knows the session no more", cause))
		}
		s.stats.joinsFailed.Add(1)
		s.cfg.Log.Debug("session not joined", "cause", err)
		if errors.Is(err, syscall.ECONNREFUSED) {
			refused++
		} else {
			refused = 0
		}
		pause := delay/2 + rand.N(delay/2)
		var untrusted *UntrustedError
		if refused >= refusals || time.Until(until) <= pause || errors.As(err, &untrusted) {
			// Not wrapped: what the next login meets decides whether to go on.
			return s.fail(fmt.Errorf("%w; the session could not be joined again: %v", cause, err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.dead:
			return s.cause
		case <-time.After(pause):
		}
	}
}

// rejoin opens a connection to a session that has none.
func (k *keeper) rejoin(ctx context.Context) (*link, error) {
	if k.heals {
		if err := k.s.heal(ctx); err != nil {
			if !errors.Is(err, errNoHeal) {
				return nil, err
			}
			k.heals = false
		}
	}
	return k.s.join(ctx)
}

// diedAtOnce reports whether the session, brought back, has died at once too often.
func (k *keeper) diedAtOnce(lost *link) bool {
	age := time.Since(k.back)
	silent := k.s.stats.inBatches.Load() == k.heard // by whatever connection
	ended := age < quickDeath && (errors.Is(lost.cause, ErrEnded) || silent)
	if !ended {
		k.quick = 0
	} else if k.quick++; !k.heals {
		k.heals = true
		k.s.cfg.Log.Debug("the server closes every connection of the session since one was cut: trying to make it forget that")
	}
	if age >= flap {
		k.flapped = 0
	} else if k.flapped++; k.flapped > 1 {
		k.heals = true
	}
	return k.quick >= quickDeaths || k.flapped >= flaps
}
