package hub

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"softether-go/pkg/frame"
)

const (
	// stationAge is how long a station is remembered that does not speak, in
	// seconds (Cedar/Hub.h, MAC_TABLE_EXPIRE_TIME).
	stationAge = 600
	// maxStations bounds what one port can put into the table. Frames of further
	// stations pass, but answers to them are flooded.
	maxStations = 256
	// addresses is the length of both addresses at the front of a frame.
	addresses = 12
)

type mac [6]byte

// A lan is a learning switch.
type lan struct {
	dropBad atomic.Uint64 // frames with an impossible source, or to their own port
	flooded atomic.Uint64
	crowded atomic.Uint64 // times that a port had too many stations to learn one more

	mu    sync.RWMutex // guards the fields below
	ports []*port
	table map[mac]*station
	swept int64 // when the table was last rid of old stations
}

// A station is where an address last spoke.
type station struct {
	port *port        // written under lan.mu
	seen atomic.Int64 // Unix seconds
}

func newLAN() *lan { return &lan{table: make(map[mac]*station)} }

func (l *lan) attach(p *port) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.attached = true
	l.ports = append(l.ports, p)
}

// detach removes p and forgets its stations. Frames from it are dropped from now on.
func (l *lan) detach(p *port) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.attached = false
	l.ports = slices.DeleteFunc(l.ports, func(q *port) bool { return q == p })
	for addr, s := range l.table {
		if s.port == p {
			delete(l.table, addr)
		}
	}
}

// forward switches a batch that came from a port. It does not block on any port's
// reader, and keeps nothing of frames.
func (l *lan) forward(from *port, frames [][]byte) {
	now := time.Now().Unix()
	var bytes uint64
	for _, f := range frames {
		bytes += uint64(len(f))
	}
	from.inFrames.Add(uint64(len(frames)))
	from.inBytes.Add(bytes)
	l.mu.RLock()
	defer l.mu.RUnlock()
	for len(frames) > 0 {
		n := runLength(frames)
		l.forwardRun(from, frames[:n], now)
		frames = frames[n:]
	}
}

// runLength returns how many frames at the front are between the same stations.
func runLength(frames [][]byte) int {
	first := frames[0]
	n := 1
	if len(first) < frame.HeaderLen {
		return n
	}
	for n < len(frames) && len(frames[n]) >= frame.HeaderLen &&
		string(frames[n][:addresses]) == string(first[:addresses]) {
		n++
	}
	return n
}

// forwardRun switches frames between the same two stations. The caller holds
// l.mu for reading; it may be given up for a moment.
func (l *lan) forwardRun(from *port, run [][]byte, now int64) {
	if len(run[0]) < frame.HeaderLen || !from.attached {
		l.dropBad.Add(uint64(len(run)))
		return
	}
	dst, src := mac(frame.Dst(run[0])), mac(frame.Src(run[0]))
	if frame.IsGroup(src[:]) || src == (mac{}) || src == dst {
		l.dropBad.Add(uint64(len(run)))
		return
	}
	if s := l.table[src]; s == nil || s.port != from {
		l.mu.RUnlock()
		l.learn(from, src, now)
		l.mu.RLock()
	} else if s.seen.Load() != now {
		s.seen.Store(now)
	}
	if !frame.IsGroup(dst[:]) {
		if s := l.table[dst]; s != nil && now-s.seen.Load() < stationAge {
			if s.port == from {
				l.dropBad.Add(uint64(len(run)))
				return
			}
			s.port.put(run)
			return
		}
	}
	l.flooded.Add(uint64(len(run)))
	for _, p := range l.ports {
		if p != from {
			p.put(run)
		}
	}
}

// learn remembers that addr spoke at p. Whoever spoke last has the address.
func (l *lan) learn(p *port, addr mac, now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(now)
	if !p.attached {
		return
	}
	if p.stations >= maxStations {
		l.crowded.Add(1)
		return
	}
	if old := l.table[addr]; old != nil {
		old.port.stations--
	}
	s := &station{port: p}
	s.seen.Store(now)
	l.table[addr] = s
	p.stations++
}

// sweep forgets old stations, at most once a minute: a client that makes up
// addresses must not make us walk the table each time.
func (l *lan) sweep(now int64) {
	if now-l.swept < 60 {
		return
	}
	l.swept = now
	for addr, s := range l.table {
		if now-s.seen.Load() >= stationAge {
			s.port.stations--
			delete(l.table, addr)
		}
	}
}
