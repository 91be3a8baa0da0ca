package hub

import "sync/atomic"

type hubCounters struct {
	connsRefused, negotiationsFailed, loginsRefused atomic.Uint64
}

// Stats counts what the hub has done and not done.
type Stats struct {
	Connections        int    // being served now
	ConnectionsRefused uint64 // beyond MaxConnections
	NegotiationsFailed uint64 // ended before a session, for whatever reason
	LoginsRefused      uint64 // of these, told so by a code
	Ports              int    // sessions and plugged endpoints
	Stations           int    // addresses known
	Flooded            uint64 // frames that went to all ports
	DroppedBad         uint64 // impossible source, or to their own port
	Unlearned          uint64 // times a port had too many stations to learn one more
}

// Stats returns the counters so far.
func (h *Hub) Stats() Stats {
	h.lan.mu.RLock()
	ports, stations := len(h.lan.ports), len(h.lan.table)
	h.lan.mu.RUnlock()
	return Stats{
		Connections:        int(h.conns.Load()),
		ConnectionsRefused: h.stats.connsRefused.Load(),
		NegotiationsFailed: h.stats.negotiationsFailed.Load(),
		LoginsRefused:      h.stats.loginsRefused.Load(),
		Ports:              ports,
		Stations:           stations,
		Flooded:            h.lan.flooded.Load(),
		DroppedBad:         h.lan.dropBad.Load(),
		Unlearned:          h.lan.crowded.Load(),
	}
}

// PortStats counts frames of one port, and their bytes.
type PortStats struct {
	InFrames, InBytes   uint64 // from the port into the hub
	OutFrames, OutBytes uint64 // queued for the port
	DroppedFull         uint64 // its queue was full
	DroppedSize         uint64 // too short or too long for the tunnel
}

func (p *port) counts() PortStats {
	return PortStats{
		InFrames: p.inFrames.Load(), InBytes: p.inBytes.Load(),
		OutFrames: p.outFrames.Load(), OutBytes: p.outBytes.Load(),
		DroppedFull: p.dropFull.Load(), DroppedSize: p.dropRefused.Load(),
	}
}
