package hub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"softether-go/pkg/udpaccel"
	"softether-go/pkg/wire"
)

type sessionKey = [wire.HashLen]byte

var errKicked = errors.New("the session was ended by the hub")

// A session is the membership of one client.
type session struct {
	name, user string
	key        sessionKey
	max        int // connections granted
	port       *port
	timeout    time.Duration
	since      time.Time

	cleartext, compress, half, qos, monitor bool // as agreed on

	udp   *udpaccel.Path // nil without one
	grant *wire.UDPGrant

	// guarded by Hub.mu
	conns  map[*conn]struct{}
	life   time.Time     // the last sign of it when the last connection was lost
	awake  chan struct{} // closed when a ghost is joined again; nil while there are connections
	kicked chan struct{}
}

// SessionInfo describes a session.
type SessionInfo struct {
	Name, User  string
	Peer        net.Addr // of any of its connections; nil for a ghost
	Connections int      // none: a ghost, which can still be joined again
	Inbound     int      // of these, those that lead only to the client
	Outbound    int      // of these, those that lead only to the hub
	Since       time.Time
	Stats       PortStats
	UDPUsed     bool // what goes to the client goes by UDP
	UDP         udpaccel.Stats
}

// open makes a session with c as its first connection.
func (h *Hub) open(c *conn, l wire.Login, name string) (*session, error) {
	l.QoS = l.QoS && h.cfg.QoS && !l.Monitor
	key, err := h.random()
	if err != nil {
		return nil, fmt.Errorf("random session key: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.sessions) >= h.cfg.MaxSessions {
		return nil, wire.CodeHubBusy
	}
	h.opened++
	s := &session{
		name: fmt.Sprintf("SID-%s-%d", strings.ToUpper(name), h.opened), user: name, key: key,
		max: h.grant(l), port: newPort(), timeout: h.cfg.Timeout, since: time.Now(),
		cleartext: l.Cleartext && h.cfg.Cleartext, compress: l.Compress, half: l.HalfConnection, qos: l.QoS, monitor: l.Monitor,
		conns: map[*conn]struct{}{c: {}}, kicked: make(chan struct{}),
	}
	if s.half {
		c.dir = wire.OutboundOnly
	}
	if s.udp, s.grant, err = h.acceptUDP(c, l, s.cleartext); err != nil {
		h.cfg.Log.Warn("no UDP acceleration", "session", s.name, "cause", err)
	}
	h.serveUDP(s)
	h.sessions[key] = s
	h.lan.attach(s.port)
	h.change()
	return s, nil
}

// grant returns how many connections a session may have. (Cedar/Protocol.c, ServerAccept)
func (h *Hub) grant(l wire.Login) int {
	n := l.MaxConnection
	if most := int(h.cfg.Policy.Value("MaxConnection")); most > 0 {
		n = min(n, most)
	}
	if l.HalfConnection || l.QoS {
		n = max(n, 2)
	}
	if l.HalfConnection && l.QoS {
		n = max(n, 4)
	}
	return n
}

// nextDirection is that of another connection. The caller holds Hub.mu.
func (s *session) nextDirection() wire.Direction {
	if !s.half {
		return wire.BothWays
	}
	inbound := 0
	for c := range s.conns {
		if c.dir == wire.InboundOnly {
			inbound++
		}
	}
	if inbound > len(s.conns)-inbound {
		return wire.OutboundOnly
	}
	return wire.InboundOnly
}

// join adds c to the session with that key.
func (h *Hub) join(c *conn, key []byte) (*session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(key) != len(sessionKey{}) {
		return nil, wire.CodeSessionTimeout
	}
	s := h.sessions[sessionKey(key)]
	switch {
	case s == nil:
		return nil, wire.CodeSessionTimeout
	case len(s.conns) > s.max:
		// One too many is let in, as by the reference server: the one that it
		// replaces may be dead without our knowing.
		return nil, wire.CodeTooManyConns
	}
	c.dir = s.nextDirection()
	s.conns[c] = struct{}{}
	if s.awake != nil {
		close(s.awake)
		s.awake = nil
	}
	h.change()
	return s, nil
}

// leave takes c out of its session. It reports whether c was the last, which must
// then call linger.
func (h *Hub) leave(s *session, c *conn) (last bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(s.conns, c)
	h.change()
	if len(s.conns) > 0 || h.sessions[s.key] != s {
		return false
	}
	s.life = time.Unix(0, c.life.Load())
	if s.half { // some of its connections were only spoken to
		s.life = time.Now()
	}
	s.awake = make(chan struct{})
	return true
}

// linger keeps a session without connections until its time-out, counted from its
// last sign of life, unless it is joined again before.
func (h *Hub) linger(ctx context.Context, s *session) {
	h.mu.Lock()
	awake, left := s.awake, time.Until(s.life.Add(s.timeout))
	h.mu.Unlock()
	if awake == nil { // joined already
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-awake:
		return
	case <-s.kicked:
		return
	case <-ctx.Done():
	case <-timer.C:
	}
	h.forget(s)
}

// forget ends s unless it has been joined meanwhile.
func (h *Hub) forget(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(s.conns) == 0 && h.sessions[s.key] == s {
		h.remove(s)
	}
}

// remove ends s. The caller holds mu.
func (h *Hub) remove(s *session) {
	delete(h.sessions, s.key)
	h.lan.detach(s.port)
	if s.udp != nil {
		s.udp.Close()
	}
	close(s.kicked)
	for c := range s.conns {
		c.cancel(errKicked)
	}
	h.change()
}

// Kick ends the session of that name, as an administrator would. It reports
// whether there was one.
func (h *Hub) Kick(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sessions {
		if s.name == name {
			h.remove(s)
			return true
		}
	}
	return false
}

// KickAll ends all sessions and returns how many there were.
func (h *Hub) KickAll() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.sessions)
	for _, s := range h.sessions {
		h.remove(s)
	}
	return n
}

// change wakes who waits on Changed. The caller holds mu.
func (h *Hub) change() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// Changed returns a channel that is closed when next a session or a connection of
// one comes or goes. Ask for it before looking at Sessions.
func (h *Hub) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// Sessions describes all sessions, the oldest first.
func (h *Hub) Sessions() []SessionInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []SessionInfo
	for _, s := range h.sessions {
		info := SessionInfo{Name: s.name, User: s.user, Connections: len(s.conns), Since: s.since, Stats: s.port.counts()}
		if s.udp != nil {
			info.UDPUsed, info.UDP = s.udp.Usable(), s.udp.Stats()
		}
		for c := range s.conns {
			info.Peer = c.raw.RemoteAddr()
			switch c.dir {
			case wire.InboundOnly:
				info.Inbound++
			case wire.OutboundOnly:
				info.Outbound++
			}
		}
		all = append(all, info)
	}
	slices.SortFunc(all, func(a, b SessionInfo) int {
		if d := a.Since.Compare(b.Since); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}
