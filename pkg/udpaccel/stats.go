package udpaccel

import "sync/atomic"

type counters struct {
	inDatagrams, inReads, inFrames, inBytes, inKeepAlives, inFailed         atomic.Uint64
	forged, cookie, truncated, oversized, replayed, stale, corrupt, noFrame atomic.Uint64
	outFrames, outBytes, outWrites, outKeepAlives, outProbes                atomic.Uint64
	outUnfit, outFailed, peerMoves                                          atomic.Uint64
}

// drop counts a datagram that is dropped.
func (c *counters) drop(why error) {
	switch why {
	case errForged:
		c.forged.Add(1)
	case errCookie:
		c.cookie.Add(1)
	case errTruncated:
		c.truncated.Add(1)
	case errOversized:
		c.oversized.Add(1)
	case errReplayed:
		c.replayed.Add(1)
	case errStale:
		c.stale.Add(1)
	case errCorrupt:
		c.corrupt.Add(1)
	default:
		c.noFrame.Add(1)
	}
}

// Stats counts datagrams and what they carry. What is dropped is counted once.
type Stats struct {
	InDatagrams  uint64 // all that came
	InReads      uint64 // system calls that took them
	InFrames     uint64
	InBytes      uint64 // of frames
	InKeepAlives uint64

	DroppedForged    uint64 // their check is wrong: not from the peer, or changed on the way
	DroppedCookie    uint64 // their cookie is wrong
	DroppedTruncated uint64
	DroppedOversized uint64
	DroppedReplayed  uint64 // they have come before
	DroppedStale     uint64 // older than the protocol's window
	DroppedCorrupt   uint64 // what is compressed cannot be unpacked
	DroppedNoFrame   uint64 // shorter or longer than a frame
	InFailed         uint64 // reads

	OutFrames     uint64
	OutBytes      uint64 // of frames
	OutWrites     uint64 // batches handed to the system
	OutKeepAlives uint64
	OutProbes     uint64 // keep-alives to other addresses, while the peer was not heard
	OutUnfit      uint64 // frames too long for one packet, or too short: dropped
	OutFailed     uint64 // batches that the system did not take

	PeerMoves uint64 // changes of the peer's address
}

// Stats returns the counters so far.
func (p *Path) Stats() Stats {
	c := &p.counters
	return Stats{
		InDatagrams: c.inDatagrams.Load(), InReads: c.inReads.Load(), InFrames: c.inFrames.Load(),
		InBytes: c.inBytes.Load(), InKeepAlives: c.inKeepAlives.Load(), InFailed: c.inFailed.Load(),
		DroppedForged: c.forged.Load(), DroppedCookie: c.cookie.Load(), DroppedTruncated: c.truncated.Load(),
		DroppedOversized: c.oversized.Load(), DroppedReplayed: c.replayed.Load(), DroppedStale: c.stale.Load(),
		DroppedCorrupt: c.corrupt.Load(), DroppedNoFrame: c.noFrame.Load(),
		OutFrames: c.outFrames.Load(), OutBytes: c.outBytes.Load(), OutWrites: c.outWrites.Load(),
		OutKeepAlives: c.outKeepAlives.Load(), OutProbes: c.outProbes.Load(), OutUnfit: c.outUnfit.Load(),
		OutFailed: c.outFailed.Load(), PeerMoves: c.peerMoves.Load(),
	}
}
