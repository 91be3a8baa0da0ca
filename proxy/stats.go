package proxy

import "sync/atomic"

// Stats is a snapshot of a server's counters.
type Stats struct {
	Open     int64             // clients connected now
	Accepted uint64            // clients since the start, those over the limit not included
	Requests uint64            // targets reached: relays and associations begun, HTTP responses received
	Inbound  uint64            // bytes from the tunnel to clients
	Outbound uint64            // bytes from clients to the tunnel
	Refused  map[Reason]uint64 // what clients did not get, by reason; reasons that never occurred are absent

	Associations      int64           // for UDP, open now
	InboundDatagrams  uint64          // to clients; their bytes are in Inbound, headers not
	OutboundDatagrams uint64          // from clients
	Dropped           map[Drop]uint64 // datagrams, by reason; reasons that never occurred are absent
}

// counters counts for one server. Bytes that a tunnel connection copies by itself
// are added when it pauses or ends.
type counters struct {
	open              atomic.Int64
	accepted          atomic.Uint64
	requests          atomic.Uint64
	inbound, outbound atomic.Uint64
	refused           [numReasons]atomic.Uint64

	associations              atomic.Int64
	datagramsIn, datagramsOut atomic.Uint64
	dropped                   [numDrops]atomic.Uint64
}

// Stats returns the counters as they are now. It may be called at any time.
func (s *server) Stats() Stats {
	c := &s.counters
	st := Stats{
		Open:     c.open.Load(),
		Accepted: c.accepted.Load(),
		Requests: c.requests.Load(),
		Inbound:  c.inbound.Load(),
		Outbound: c.outbound.Load(),
		Refused:  make(map[Reason]uint64),

		Associations:      c.associations.Load(),
		InboundDatagrams:  c.datagramsIn.Load(),
		OutboundDatagrams: c.datagramsOut.Load(),
		Dropped:           make(map[Drop]uint64),
	}
	for d := range numDrops {
		if n := c.dropped[d].Load(); n > 0 {
			st.Dropped[d] = n
		}
	}
	for r := range numReasons {
		if n := c.refused[r].Load(); n > 0 {
			st.Refused[r] = n
		}
	}
	return st
}
