package session

import (
	"fmt"
	"time"

	"softether-go/pkg/udpaccel"
)

// What TCP is accused of has to last: a window of samples, of which so many have seen
// segments that were lost.
const (
	sampleEvery = 500 * time.Millisecond
	samples     = 20
	guilty      = 8
	// someLoss is the least share of segments that is worth a change, and enough the
	// least number.
	someLoss = 0.002
	enough   = 8
)

// A tcpSample is what a session's connections have seen between two looks.
type tcpSample struct {
	out, in      uint64        // segments with data
	retransmits  uint64        // outbound
	outOfOrder   uint64        // inbound, which is what follows a hole
	rtt, leanRTT time.Duration // as it is and at its best; 0 if unknown
	stalled      bool          // a retransmission has been lost too
}

func (s tcpSample) lost() bool { return s.retransmits > 0 || s.outOfOrder > 0 || s.stalled }

// queued reports whether packets wait on the way. What is lost then is lost because we
// or others fill the queue, and would be by any way.
func (s tcpSample) queued() bool {
	return s.leanRTT > 0 && s.rtt > s.leanRTT*3/2+10*time.Millisecond
}

// A tcpRecord is the last samples.
type tcpRecord struct {
	ring [samples]tcpSample
	n    int
}

func (r *tcpRecord) add(s tcpSample) {
	r.ring[r.n%samples] = s
	r.n++
}

func (r *tcpRecord) clear() { *r = tcpRecord{} }

// verdict reports whether TCP loses packets that it should not, and says so.
func (r *tcpRecord) verdict() (bad bool, why string) {
	var sum tcpSample
	lost := 0
	for _, s := range r.ring {
		sum.out += s.out
		sum.in += s.in
		sum.retransmits += s.retransmits
		sum.outOfOrder += s.outOfOrder
		if s.lost() && !s.queued() {
			lost++
		}
	}
	all, missed := sum.out+sum.in, sum.retransmits+sum.outOfOrder
	if lost < guilty || missed < enough || float64(missed) < someLoss*float64(all) {
		return false, ""
	}
	return true, fmt.Sprintf("TCP loses packets: in %d of the last %v half seconds, %d of %d sent again, %d of %d received out of order",
		lost, samples, sum.retransmits, sum.out, sum.outOfOrder, sum.in)
}

// What UDP must be like to be better than a TCP that loses packets.
const (
	mostLoss  = 0.25 // of the server's keep-alives before we go there
	leaveLoss = 0.35 // with which we do not stay
	seenFirst = 8    // keep-alives before a verdict
	// slack is what a round trip by UDP may be longer: the server's clock has steps, and
	// so have our probes.
	slack = 40 * time.Millisecond
)

// judgeUDP says what is against UDP; empty if nothing is.
func judgeUDP(usable bool, q udpaccel.Quality, tcp time.Duration) string {
	switch {
	case !usable:
		return "UDP does not get through, or not for long enough"
	case q.Seen < seenFirst:
		return "too little is known of UDP"
	case q.Loss > mostLoss:
		return fmt.Sprintf("UDP loses %.0f %% of the server's keep-alives", q.Loss*100)
	case tcp > 0 && q.RoundTrip > tcp*3/2+slack:
		return fmt.Sprintf("a round trip by UDP takes %v, by TCP %v", q.RoundTrip, tcp.Round(time.Millisecond))
	}
	return ""
}

// A rateMeter tells the most that was carried in any of the last periods.
type rateMeter struct {
	last  uint64
	since time.Time
	ring  [ratePeriods]float64
	n     int
}

const (
	ratePeriod  = 2 * time.Second
	ratePeriods = 5
)

// note takes the bytes carried so far.
func (m *rateMeter) note(now time.Time, bytes uint64) {
	if m.since.IsZero() {
		m.last, m.since = bytes, now
		return
	}
	d := now.Sub(m.since)
	if d < ratePeriod {
		return
	}
	m.ring[m.n%ratePeriods] = float64(bytes-m.last) / d.Seconds()
	m.n++
	m.last, m.since = bytes, now
}

func (m *rateMeter) peak() (most float64) {
	for _, r := range m.ring {
		most = max(most, r)
	}
	return most
}

func (m *rateMeter) clear() { *m = rateMeter{} }
