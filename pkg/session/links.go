package session

import (
	"errors"
	"slices"
	"time"
)

var errNoLink = errors.New("there is no connection")

// await waits for another outbound than o, which is empty.
func (s *Session) await(o *outbound) error {
	s.mu.Lock()
	patience, stopping := s.welcome.Timeout+resumeGrace+closeGrace, !s.limit.IsZero() // the keeper's, and a little
	if stopping {
		patience = time.Until(s.limit)
	}
	s.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-o.changed:
		return nil
	case <-s.dead:
		return s.cause
	case <-timer.C:
	}
	err := &Error{Op: OpCarry, Server: s.server, Err: errNoLink}
	if stopping {
		return err
	}
	return s.fail(err.Err)
}

// count returns how many links there are.
func (s *Session) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.links)
}

// all returns all links that receive.
func (s *Session) all() []*link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Concat(s.links, s.retiring)
}

// add makes l one of the session's links. It is false if the session is dead.
func (s *Session) add(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err() != nil {
		return false
	}
	s.links = append(s.links, l)
	s.publish()
	return true
}

// remove takes l out: it is dead, or will be.
func (s *Session) remove(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retiring = slices.DeleteFunc(s.retiring, func(m *link) bool { return m == l })
	i := slices.Index(s.links, l)
	if i < 0 {
		return
	}
	s.links = slices.Delete(slices.Clone(s.links), i, i+1)
	if l.retiring() {
		s.retiring = append(s.retiring, l)
	} else {
		s.lost = l
		s.stats.linksLost.Add(1)
	}
	s.publish()
}

// publish tells all what links there are now. The caller holds mu.
func (s *Session) publish() {
	old := s.out.Swap(newOutbound(s.links, s.welcome.QoS))
	if old != nil {
		close(old.changed)
	}
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

// present returns the links, the last that died, and a channel that is closed when
// either is no more so.
func (s *Session) present() (links []*link, lost *link, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links, s.lost, s.changed
}

// dropRetiring closes the links that nobody reads any more.
func (s *Session) dropRetiring() {
	s.mu.Lock()
	left := slices.Clone(s.retiring)
	s.mu.Unlock()
	for _, l := range left {
		l.fail(errRetired)
	}
}

// limitWrites makes t the latest end of any write; zero lifts the limit.
func (s *Session) limitWrites(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = t
	for _, l := range slices.Concat(s.links, s.retiring) {
		l.raw.SetWriteDeadline(t)
	}
	s.publish() // for those that wait for a link
}

// setWriteDeadline sets a deadline of l within the limit.
func (s *Session) setWriteDeadline(l *link, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit.IsZero() {
		l.raw.SetWriteDeadline(t)
	}
}
