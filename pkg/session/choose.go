package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// How long the chooser waits for what.
const (
	// requireWithin is how long UDP may take to get through where it must.
	requireWithin = 15 * time.Second
	// probeFor is how long we look closely at UDP before frames go there: some of the
	// server's keep-alives.
	probeFor = 2500 * time.Millisecond
	// serverMoves is when the server has moved too, of whose own choice it is.
	// (UDP_ACCELERATION_REQUIRE_CONTINUOUS, and some of its turns)
	serverMoves = 14 * time.Second
	// compareAfter is when UDP has shown what it can carry.
	compareAfter = 30 * time.Second
	// worthComparing is a rate, in bytes per second, below which the applications decide
	// it, not the way.
	worthComparing = 64 << 10

	// How long to stay away from UDP after it has disappointed, and with it before TCP gets
	// another chance; each time twice as long.
	holdOff, holdOffMost = 30 * time.Second, 30 * time.Minute
	stay, stayMost       = 5 * time.Minute, 40 * time.Minute

	// blameFor is how long TCP's badness is remembered over sessions, uselessFor how long
	// it is that UDP is of no use.
	blameFor, uselessFor = 2 * time.Hour, time.Hour
)

// A UDPHistory is what UDPAuto remembers from one session to the next. The zero value
// remembers nothing.
//
// A server that is asked for UDP acceleration has connections inside the tunnel make
// smaller segments from then on, whether it is used or not. So it is not asked before
// there is a reason.
type UDPHistory struct {
	mu      sync.Mutex // guards what follows
	blamed  time.Time  // until when TCP is thought to be bad
	useless time.Time  // until when UDP is thought to be of no use
}

// wants reports whether to ask for UDP acceleration.
func (h *UDPHistory) wants() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	return now.Before(h.blamed) && !now.Before(h.useless)
}

// blame notes that TCP is bad. It reports whether that is reason to ask for UDP.
func (h *UDPHistory) blame() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blamed = time.Now().Add(blameFor)
	return !time.Now().Before(h.useless)
}

func (h *UDPHistory) giveUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.useless = time.Now().Add(uselessFor)
}

// ErrWantsUDP ends a session that is to be opened again, with UDP acceleration.
var ErrWantsUDP = errors.New("to have UDP acceleration, one has to log in anew")

// A udpChooser decides what goes by UDP. Its fields, but for those that are atomic, belong
// to its goroutine.
type udpChooser struct {
	s *Session

	record tcpRecord
	rate   rateMeter
	before map[net.Conn]tcpCounts // what the kernel had counted

	seen   uint64    // bytes carried until the last look
	active time.Time // when there were many more

	since    time.Time // of the present way
	notUntil time.Time // not to move to UDP before
	probed   time.Time // when UDP was last looked at closely
	byTCP    float64   // the most that TCP carried before we left it, in bytes per second
	compared bool
	leanRTT  time.Duration // of TCP

	holdOff, stay time.Duration

	toUDP, toTCP atomic.Uint64
	why          atomic.Pointer[string]
}

func newUDPChooser(s *Session) *udpChooser {
	c := &udpChooser{s: s, since: time.Now(), active: time.Now(), holdOff: holdOff, stay: stay}
	switch {
	case s.cfg.UDP.Policy == UDPRequire:
		c.say("waiting for UDP to get through")
	case s.way != nil:
		c.say("TCP was bad, and UDP is being looked at")
	default:
		c.say("TCP is good")
	}
	return c
}

func (c *udpChooser) say(why string)  { c.why.Store(&why) }
func (c *udpChooser) reason() string  { return *c.why.Load() }
func (c *udpChooser) onUDP() bool     { return c.s.way != nil && c.s.way.carries.Load() }
func (c *udpChooser) required() bool  { return c.s.cfg.UDP.Policy == UDPRequire }
func (c *udpChooser) carried() uint64 { return c.s.bytes() }

// bytes returns how many bytes of frames the session has carried.
func (s *Session) bytes() uint64 {
	n := s.stats.inBytes.Load() + s.stats.outBytes.Load()
	if s.way != nil {
		u := s.way.Path.Stats()
		n += u.InBytes + u.OutBytes
	}
	return n
}

// run decides until ctx ends or the session is to end.
func (c *udpChooser) run(ctx context.Context) error {
	step := c.choose
	if c.required() {
		step = c.insist
	}
	timer := time.NewTimer(sampleEvery)
	defer timer.Stop()
	var sampled time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if time.Since(sampled) >= sampleEvery-lookEvery/2 {
			sampled = time.Now()
			c.look(sampled)
		}
		if err := step(); err != nil {
			return c.s.fail(err)
		}
		timer.Reset(c.pause())
	}
}

// lookEvery is how often to look at what must be seen soon: a path that has fallen silent.
const lookEvery = sampleEvery / 2

// look takes a sample.
func (c *udpChooser) look(now time.Time) {
	c.record.add(c.sample())
	bytes := c.carried()
	if bytes-c.seen > chatter {
		c.active = now
	}
	c.seen = bytes
	c.rate.note(now, bytes)
}

const (
	// quietAfter is how long nothing is carried before nobody needs to look often, and
	// quietEvery how often then.
	quietAfter = 10 * time.Second
	quietEvery = 5 * time.Second
	// chatter is what a hub's broadcasts and polls come to between two looks.
	chatter = 4 << 10
)

// pause is how long until the next look. Where there is nothing to see, and no path that
// could fail, an idle session lets the machine sleep.
func (c *udpChooser) pause() time.Duration {
	switch {
	case c.s.way != nil:
		return lookEvery
	case time.Since(c.active) > quietAfter:
		c.record.clear()
		return quietEvery
	}
	return sampleEvery
}

// insist uses UDP, or ends the session.
func (c *udpChooser) insist() error {
	w := c.s.way
	if w.Alive() {
		c.since = time.Now()
		c.move(true, "it must")
		return nil
	}
	if time.Since(c.since) < requireWithin {
		return nil
	}
	err := fmt.Errorf("UDP to %v does not get through, nothing has come back for %v: let UDP ports 40000 to 44999 of the server pass firewalls, or use -udp auto",
		w.Peer(), requireWithin)
	if c.toUDP.Load() == 0 {
		return final{err}
	}
	return err
}

// choose is UDPAuto's step.
func (c *udpChooser) choose() error {
	if c.onUDP() {
		c.reconsider()
		return nil
	}
	if c.s.way == nil {
		bad, why := c.record.verdict()
		if bad && c.s.cfg.UDP.History.blame() {
			return fmt.Errorf("%w: %s", ErrWantsUDP, why)
		}
		return nil
	}
	c.consider()
	return nil
}

// consider moves to UDP, if TCP is bad and UDP is better.
func (c *udpChooser) consider() {
	w, now := c.s.way, time.Now()
	bad, why := c.record.verdict()
	first := c.toUDP.Load() == 0 && c.holdOff == holdOff // TCP was bad in the session before
	switch {
	case first && time.Since(c.since) > requireWithin && !w.Usable():
		c.disappointed("UDP does not get through")
		if !w.Alive() {
			c.s.cfg.UDP.History.giveUp()
		}
	case now.Before(c.notUntil), !bad && !first, !w.Alive():
	case now.Sub(c.probed) > 2*probeFor:
		c.probed = now
		w.Probe(probeFor)
	case now.Sub(c.probed) >= probeFor && w.Usable():
		if against := judgeUDP(w.Usable(), w.Quality(), c.leanRTT); against != "" {
			c.disappointed(against)
			return
		}
		if !bad {
			why = "TCP was losing packets"
		}
		c.byTCP, c.compared = c.rate.peak(), false
		c.move(true, why)
	}
}

// reconsider moves back to TCP, if UDP is no better or TCP should have another chance.
func (c *udpChooser) reconsider() {
	w, now := c.s.way, time.Now()
	q, here := w.Quality(), now.Sub(c.since)
	switch {
	case !w.Alive():
		c.disappointed("the server is not heard by UDP")
	case q.Seen >= 2*seenFirst && q.Loss > leaveLoss:
		c.disappointed(fmt.Sprintf("UDP loses %.0f %% of the server's keep-alives", q.Loss*100))
	case here >= serverMoves && !c.compared && here < serverMoves+time.Second:
		c.rate.clear()
	case here >= compareAfter && !c.compared:
		c.compared = true
		if peak := c.rate.peak(); c.byTCP > worthComparing && peak < c.byTCP/2 {
			c.disappointed(fmt.Sprintf("UDP carries %.0f kB/s where TCP carried %.0f", peak/1000, c.byTCP/1000))
		}
	case here >= c.stay:
		c.stay = min(2*c.stay, stayMost)
		c.move(false, "TCP gets another chance")
	}
}

// disappointed stays away from UDP for a while.
func (c *udpChooser) disappointed(why string) {
	c.notUntil = time.Now().Add(c.holdOff)
	c.holdOff = min(2*c.holdOff, holdOffMost)
	c.move(false, why)
}

// move changes the way of outbound frames, and of the server's.
func (c *udpChooser) move(toUDP bool, why string) {
	w := c.s.way
	w.Want(toUDP)
	if w.carries.Swap(toUDP) == toUDP {
		if !toUDP {
			c.say(why)
		}
		return
	}
	c.say(why)
	c.since = time.Now()
	c.record.clear()
	c.rate.clear()
	log := c.s.cfg.Log
	if toUDP {
		c.toUDP.Add(1)
		log.Info("frames go by UDP now", "server", w.Peer(), "protected_by", w.Version(), "cause", why)
	} else {
		c.toTCP.Add(1)
		log.Info("frames go by TCP now", "cause", why)
	}
}

// sample asks the kernel what the connections have seen since the last time.
func (c *udpChooser) sample() (sum tcpSample) {
	next := make(map[net.Conn]tcpCounts, len(c.before))
	for _, l := range c.s.all() {
		n, ok := countTCP(l.raw)
		if !ok {
			continue
		}
		next[l.raw] = n
		old, known := c.before[l.raw]
		if !known {
			continue
		}
		sum.out += n.out - old.out
		sum.in += n.in - old.in
		sum.retransmits += n.retransmits - old.retransmits
		sum.outOfOrder += n.outOfOrder - old.outOfOrder
		sum.rtt = max(sum.rtt, n.rtt)
		if sum.leanRTT == 0 || n.leanRTT < sum.leanRTT {
			sum.leanRTT = n.leanRTT
		}
		sum.stalled = sum.stalled || n.stalled
	}
	c.before = next
	if sum.leanRTT > 0 {
		c.leanRTT = sum.leanRTT
	}
	return sum
}
