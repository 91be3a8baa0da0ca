package nat

import (
	"math/rand/v2"
	"time"

	"softether-go/pkg/inet"
)

const (
	protoICMP, protoTCP, protoUDP = inet.ProtoICMP, inet.ProtoTCP, inet.ProtoUDP

	// maxMappings bounds the table: 16384 of some 200 bytes are 3 MiB, and a quarter of
	// the ports there are.
	maxMappings = 16384
	// firstPort is the first that is given out; those below are for servers.
	firstPort, ports = 1024, 65536 - 1024

	// RFC 5382, REQ-5; RFC 4787, REQ-5; RFC 5508, REQ-2.
	establishedTime = 2*time.Hour + 4*time.Minute
	transitoryTime  = 4 * time.Minute
	udpTime         = 5 * time.Minute
	icmpTime        = time.Minute

	sweepEvery   = time.Minute
	fragmentTime = 30 * time.Second // RFC 791, 3.2: as long as reassembly takes at least
	maxFragments = 256
)

type mac [6]byte

// A source is a port of a station inside; of ICMP, the identifier of its echoes.
type source struct {
	proto byte
	addr  [4]byte
	port  uint16
}

// A target is our port outside.
type target struct {
	proto byte
	port  uint16
}

// A mapping joins the two.
type mapping struct {
	source  source
	station mac // where the source is
	port    uint16
	used    time.Time

	answered, closedOut, closedIn, reset bool // of TCP
}

func (m *mapping) expired(now time.Time) bool { return now.Sub(m.used) > m.lifetime() }

func (m *mapping) lifetime() time.Duration {
	switch {
	case m.source.proto == protoUDP:
		return udpTime
	case m.source.proto == protoICMP:
		return icmpTime
	case !m.answered || m.reset || m.closedIn && m.closedOut:
		return transitoryTime
	}
	return establishedTime
}

// A packet is what its fragments have in common.
type packet struct {
	src   [4]byte
	id    uint16
	proto byte
}

type fragmented struct {
	mapping *mapping
	until   time.Time
}

// A table has the mappings, by both ends.
type table struct {
	out       map[source]*mapping
	in        map[target]*mapping
	fragments map[packet]fragmented
	swept     time.Time
}

func (t *table) reset() {
	*t = table{out: map[source]*mapping{}, in: map[target]*mapping{}, fragments: map[packet]fragmented{}}
}

// outward returns the mapping of a source, a new one if need be; nil if there is no room.
func (t *table) outward(s source, station mac, now time.Time) *mapping {
	m := t.out[s]
	if m != nil && m.expired(now) {
		t.remove(m)
		m = nil
	}
	if m == nil {
		if m = t.add(s, now); m == nil {
			return nil
		}
	}
	m.used, m.station = now, station
	return m
}

// inward returns the mapping of a target, or nil.
func (t *table) inward(to target, now time.Time) *mapping {
	m := t.in[to]
	if m == nil || m.expired(now) {
		return nil
	}
	m.used = now
	return m
}

func (t *table) add(s source, now time.Time) *mapping {
	t.sweep(now)
	if len(t.out) >= maxMappings {
		return nil
	}
	port := s.port
	for try := 0; ; try++ { // most are free: the table is a quarter of them at most
		if _, used := t.in[target{s.proto, port}]; !used && port >= firstPort {
			break
		}
		if try == ports {
			return nil
		}
		port = uint16(firstPort + rand.IntN(ports))
	}
	m := &mapping{source: s, port: port, used: now}
	t.out[s], t.in[target{s.proto, port}] = m, m
	return m
}

func (t *table) remove(m *mapping) {
	delete(t.out, m.source)
	delete(t.in, target{m.source.proto, m.port})
}

// sweep removes what has expired, every so often or when there is no room.
func (t *table) sweep(now time.Time) {
	if now.Sub(t.swept) < sweepEvery && len(t.out) < maxMappings {
		return
	}
	t.swept = now
	for _, m := range t.out {
		if m.expired(now) {
			t.remove(m)
		}
	}
}

// remember notes whose the further fragments of a packet are.
func (t *table) remember(p packet, m *mapping, now time.Time) {
	if len(t.fragments) >= maxFragments {
		for p, f := range t.fragments {
			if now.After(f.until) {
				delete(t.fragments, p)
			}
		}
	}
	if len(t.fragments) < maxFragments {
		t.fragments[p] = fragmented{m, now.Add(fragmentTime)}
	}
}

// further returns whose a further fragment is, or nil.
func (t *table) further(p packet, now time.Time) *mapping {
	f := t.fragments[p]
	if f.mapping == nil || now.After(f.until) {
		return nil
	}
	return f.mapping
}
